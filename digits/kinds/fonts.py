"""The ten digits of the fonts on this machine.

A face counts once, however often and in whatever format it is installed: two of one name, or that draw the same ten digits,
are one. One that has no digits does not count, nor one that says of itself, by its class or
its name, that it has symbols in their place. (What says nothing and draws ten different symbols is not known from digits: a
table that counts fonts names them.)
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from digits.contract import CLASSES, Images
from digits.errors import KindMissing
from digits.kinds.boxed import boxed

if TYPE_CHECKING:
    from PIL import ImageFont

SUFFIXES: Final = frozenset({".ttf", ".otf", ".ttc", ".otc", ".woff", ".woff2", ".pfb"})
HEIGHT: Final = 96  # pixels of an em: four times what a digit has in the end
INKED: Final = 8  # pixels at the least: a digit is more than a dot
IN_NO_FONT: Final = "\U0010fffe"  # no character: what a face draws for it is what it draws for all that it lacks

# What the names of handwritten faces hold, where a file itself says nothing of its class.
HANDWRITTEN: Final = (
    *("hand", "script", "cursive", "brush", "pencil", "chancery"),
    *("because we", "delphine", "humor sans", "klee one", "kristi", "yusei magic"),
)
# And those of faces that have other things than a text's digits in their place.
NO_TEXT: Final = (
    *("barcode", "blank", "braille", "dingbat", "dseg", "emoji", "icon", "initials", "keyboard", "music", "redacted"),
    *("symbol", "awesome", "cmex", "cmsy"),
)
LATIN_HAND_WRITTEN, LATIN_SYMBOL = 3, 5  # the first number of PANOSE
SCRIPTS, SYMBOLS = 10, 12  # of the family's class (OpenType, table OS/2, sFamilyClass)


@dataclass(frozen=True)
class Face:
    """A face of a font with the ten digits as it draws them."""

    name: str  # family and style, as the font says
    sha256: str  # of the file
    handwritten: bool
    images: Images  # [10, 28, 28]


def font_folders() -> tuple[Path, ...]:
    """Where this system keeps its fonts."""
    home = Path.home()
    if sys.platform == "darwin":
        return Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"
    if sys.platform == "win32":
        return (Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts",)
    return Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), home / ".fonts", home / ".local/share/fonts"


@functools.cache
def faces_in(folders: tuple[Path, ...]) -> tuple[Face, ...]:
    """Every face with ten digits in the files below `folders`, upright ones alone, by name; read once in a process.

    Raises:
        KindMissing: there is no such face.
    """
    found: dict[str, Face] = {}
    known: set[bytes] = set()
    files = sorted(file for folder in folders for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    for file in files:
        for face in _faces(file):
            if face.name not in found and face.images.tobytes() not in known:
                found[face.name] = face
                known.add(face.images.tobytes())
    if not found:
        where = " or ".join(str(folder) for folder in folders)
        raise KindMissing(
            f"needs fonts, and there is no upright face with ten digits in {where}; name a folder: --fonts"
        )
    return tuple(found[name] for name in sorted(found))


def _faces(file: Path) -> Iterator[Face]:
    """Those of one file; none where it cannot be read as a font."""
    from PIL import ImageFont

    try:
        contents = file.read_bytes()
    except OSError:
        return
    number = 0
    while True:
        try:
            font = ImageFont.truetype(str(file), HEIGHT, index=number, layout_engine=ImageFont.Layout.BASIC)
        except (OSError, ValueError):  # no font, or no further face in it
            return
        family, style = (part or "" for part in font.getname())
        kind = _class(contents, number)
        words = f"{family} {style}".lower()
        slanted = any(word in style.lower() for word in ("italic", "oblique"))
        if not slanted and kind != "symbols" and not any(word in words for word in NO_TEXT):
            images = _digits(font)
            if images is not None:
                handwritten = kind == "handwriting" or _category(file) == "handwriting"
                yield Face(
                    name=f"{family} {style}".removesuffix(" Regular").strip() or file.stem,
                    sha256=hashlib.sha256(contents).hexdigest(),
                    handwritten=handwritten or any(word in words for word in HANDWRITTEN),
                    images=images,
                )
        if not contents.startswith(b"ttcf"):
            return
        number += 1


def _digits(font: ImageFont.FreeTypeFont) -> Images | None:
    """Ten distinct digits, `[10, 28, 28]`, or None where the face has something else in their place."""
    try:
        pictures = [_drawn(font, character) for character in (*map(str, range(CLASSES)), IN_NO_FONT)]
    except (OSError, ValueError):  # a face that FreeType opens and cannot draw
        return None
    *digits, nothing = pictures
    if any(np.count_nonzero(picture) < INKED or np.array_equal(picture, nothing) for picture in digits):
        return None
    images = np.array([boxed(picture) for picture in digits])  # [10, 28, 28]
    return images if len(np.unique(images.reshape(CLASSES, -1), axis=0)) == CLASSES else None


def _drawn(font: ImageFont.FreeTypeFont, character: str) -> npt.NDArray[np.uint8]:
    from PIL import Image, ImageDraw

    picture = Image.new("L", (3 * HEIGHT, 3 * HEIGHT))
    ImageDraw.Draw(picture).text((HEIGHT, HEIGHT), character, fill=255, font=font)
    return np.asarray(picture)


def _category(file: Path) -> str:
    """What a package of web fonts says of its own, in the `metadata.json` beside its folder of files."""
    try:
        described = json.loads((file.parent.parent / "metadata.json").read_bytes())
        return str(described["category"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _class(contents: bytes, number: int) -> str:
    """`handwriting` or `symbols`, as the table OS/2 of a TrueType or OpenType file says; else nothing."""
    try:
        start = 0
        if contents.startswith(b"ttcf"):
            (start,) = struct.unpack_from(">I", contents, 12 + 4 * number)
        (tables,) = struct.unpack_from(">H", contents, start + 4)
        for table in range(tables):
            tag, _, offset, _ = struct.unpack_from(">4sIII", contents, start + 12 + 16 * table)
            if tag == b"OS/2":
                family_class, panose = struct.unpack_from(">bxB", contents, offset + 30)
                if panose == LATIN_SYMBOL or family_class == SYMBOLS:
                    return "symbols"
                return "handwriting" if panose == LATIN_HAND_WRITTEN or family_class == SCRIPTS else ""
    except struct.error:
        pass
    return ""
