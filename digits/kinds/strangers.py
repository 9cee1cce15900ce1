"""What is no digit, brought to 28 by 28 as pictures are: of this a model should be unsure."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from digits.contract import SIDE, Images
from digits.errors import PictureError
from digits.kinds.fonts import SUFFIXES, font_folders
from digits.picture.file import Picture
from digits.picture.finding import find_digit

SEED: Final = 20190608
EACH: Final = 500  # of a kind
LIKE_DIGITS: Final = frozenset("OoIlSsZzBbGgqQDTJ")  # of which some hand writes a digit the same
LETTERS: Final = "".join(letter for letter in string.ascii_letters if letter not in LIKE_DIGITS)
PAGE: Final = 160  # pixels


@dataclass(frozen=True)
class Strangers:
    """A kind of what is no digit."""

    name: str
    about: str
    images: Images  # [N, 28, 28]; of those pictures in which anything was found
    blank: int  # pictures in which nothing was: they end as an error, and no model sees them


def strangers(fonts: Sequence[Path] = ()) -> list[Strangers]:
    """Every kind, the same ones every time, fonts as they are installed.

    Args:
        fonts: the folders to look into for letters; those of the system without this.
    """
    folders = tuple(fonts) or font_folders()
    faces = sorted(file for folder in folders for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    kinds: list[tuple[str, str, Callable[[np.random.Generator], Image.Image]]] = [
        ("scribbles", "a line that goes where chance leads it", _scribble),
        ("textures", "noise of many scales, as of a wall or a lawn", _texture),
        ("blank paper", "paper with the grain of a sensor, and nothing on it", _paper),
    ]
    if faces:
        about = f"{len(LETTERS)} letters of this machine's fonts, without those that are written like digits"
        kinds.insert(0, ("letters", about, lambda random: _letter(faces, random)))
    return [_of(*kind) for kind in kinds]


def _of(name: str, about: str, draw: Callable[[np.random.Generator], Image.Image]) -> Strangers:
    random = np.random.default_rng([SEED, *name.encode()])
    images = []
    for _ in range(EACH):
        picture = draw(random)
        try:
            images.append(find_digit(Picture(np.asarray(picture), picture.size)).image)
        except PictureError:
            continue
    found = np.array(images, np.uint8).reshape(-1, SIDE, SIDE)
    return Strangers(name, about, found, EACH - len(found))


def _letter(faces: Sequence[Path], random: np.random.Generator) -> Image.Image:
    page = Image.new("L", (PAGE, PAGE), 245)
    while True:
        face, letter = faces[int(random.integers(len(faces)))], LETTERS[int(random.integers(len(LETTERS)))]
        try:
            ImageDraw.Draw(page).text((40, 20), letter, fill=20, font=ImageFont.truetype(face, 90))
        except (OSError, ValueError):  # a file that is no font, or a face that cannot be drawn
            continue
        return page


def _scribble(random: np.random.Generator) -> Image.Image:
    page = Image.new("L", (PAGE, PAGE), 245)
    turns = np.cumsum(random.normal(0, 0.7, int(random.integers(15, 60)))) + random.uniform(0, 2 * np.pi)
    steps = 10 * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    places = np.clip(PAGE / 2 + np.cumsum(steps, axis=0), 15, PAGE - 15)
    ImageDraw.Draw(page).line([(float(x), float(y)) for x, y in places], fill=30, width=int(random.integers(3, 9)))
    return page


def _texture(random: np.random.Generator) -> Image.Image:
    greys = np.full((PAGE, PAGE), 128.0)
    for cells in (4, 10, 20, 40, PAGE):
        noise = Image.fromarray(random.normal(0, 25, (cells, cells)).astype(np.float32))
        greys += np.asarray(noise.resize((PAGE, PAGE), Image.Resampling.BICUBIC))
    return Image.fromarray(greys.clip(0, 255).astype(np.uint8))


def _paper(random: np.random.Generator) -> Image.Image:
    left, right = random.uniform(190, 250, 2).tolist()
    shade = np.linspace(left, right, PAGE)
    return Image.fromarray((shade + random.normal(0, 2.5, (PAGE, PAGE))).clip(0, 255).astype(np.uint8))
