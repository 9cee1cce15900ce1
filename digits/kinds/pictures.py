"""Digits as pictures that people have: each drawn, encoded as a file, and found in it again by `digits/picture`.

The handwriting is that of the images handed in, made large and smooth; all else is drawn by program, from random numbers.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from digits.contract import SIDE, Images
from digits.errors import PictureError
from digits.picture.file import decode
from digits.picture.finding import find_digit

Draw = Callable[[Images, np.random.Generator], bytes]  # of one image [28, 28], a file
Floats = npt.NDArray[np.float32]

PICTURES: Final = 1_000  # of a kind: each takes some milliseconds,
HUGE_PICTURES: Final = 200  # and a huge one a quarter of a second
MOST_PIXELS: Final = 20_000_000
SHARPNESS: Final = 3.0  # of an edge that was blurred by being made large
WHITE: Final = (255, 255, 255)
BLACK: Final = (0, 0, 0)


def found_again(draw: Draw, images: Images, random: np.random.Generator) -> Images:
    """Each of `images`, [N, 28, 28], made a file by `draw`, and what is found in it; an empty image where nothing is."""
    found = np.zeros_like(images)
    for number, image in enumerate(images):
        try:
            found[number] = find_digit(decode(draw(image, random), max_pixels=MOST_PIXELS)).image
        except PictureError:
            continue
    return found


# The files


def pen_on_white(image: Images, random: np.random.Generator) -> bytes:
    """A dark pen on white paper, as PNG."""
    page = _page(random, WHITE, (180, 500))
    return _encoded(_inked(page, _placed(image, page.size, random), _dark(random)), "PNG")


def white_on_black(image: Images, random: np.random.Generator) -> bytes:
    """Chalk on a board, or a screen that is dark: as PNG of greys."""
    page = _page(random, _around(random, 25, 15), (180, 500))
    picture = _inked(page, _placed(image, page.size, random), _around(random, 230, 20))
    return _encoded(picture.convert("L"), "PNG")


def coloured(image: Images, random: np.random.Generator) -> bytes:
    """Ink of one colour on paper of another, some of them equally bright, as WebP."""
    while True:
        paper, ink = random.integers(0, 256, (2, 3))
        if abs(paper - ink).max() >= 110:
            break
    page = _page(random, tuple(paper.tolist()), (180, 500))
    picture = _inked(page, _placed(image, page.size, random), tuple(ink.tolist()))
    return _encoded(picture, "WEBP", quality=80)


def photographed(image: Images, random: np.random.Generator) -> bytes:
    """A page photographed at a slant: light from one side, a shadow across, perspective, tilt and noise, as JPEG."""
    page = _page(random, _around(random, 225, 20), (420, 640))
    ink = _placed(image, page.size, random, share=(0.25, 0.6), tilt=12)
    picture = _slanted(_inked(page, ink, _pen(random)), random)
    return _encoded(_noisy(_lit(picture, random), random), "JPEG", quality=int(random.integers(60, 92)))


def in_shadow(image: Images, random: np.random.Generator) -> bytes:
    """A page half in the hard shadow of what photographs it, whose edge crosses the page, as JPEG."""
    page = _page(random, _around(random, 225, 20), (420, 640))
    picture = _inked(page, _placed(image, page.size, random, share=(0.25, 0.6)), _pen(random))
    shade = random.uniform(0.4, 0.65)
    shadowed = _multiplied(picture, 1 - (1 - shade) * _half(page.size, random, blur=random.uniform(1, 6)))
    return _encoded(_noisy(shadowed, random), "JPEG", quality=85)


def ruled(image: Images, random: np.random.Generator) -> bytes:
    """On ruled or squared paper, as JPEG."""
    page = _page(random, _around(random, 240, 10), (300, 640))
    pen = ImageDraw.Draw(page)
    step, width = int(random.integers(24, 80)), int(random.integers(1, 4))
    colour = (int(random.integers(120, 190)), int(random.integers(150, 200)), int(random.integers(190, 235)))
    first = int(random.integers(step))
    for row in range(first, page.height, step):
        pen.line((0, row, page.width, row), fill=colour, width=width)
    if random.random() < 0.5:
        for column in range(first, page.width, step):
            pen.line((column, 0, column, page.height), fill=colour, width=width)
    picture = _inked(page, _placed(image, page.size, random, share=(0.3, 0.7)), _pen(random))
    return _encoded(_noisy(picture, random, most=4), "JPEG", quality=85)


def mouse(image: Images, random: np.random.Generator) -> bytes:
    """A thin line on a canvas without a background, along the middle of the strokes, as a mouse draws it: PNG with alpha."""
    side = int(random.integers(280, 640))
    canvas = Image.new("RGBA", (side, side))
    pen, scale = ImageDraw.Draw(canvas), side / SIDE * random.uniform(0.5, 1.1)
    shift = (side - scale * SIDE) / 2
    colour, width = (*_dark(random), 255), int(random.integers(2, 6))
    for line in _middle(image):
        points = [(float(column * scale + shift), float(row * scale + shift)) for row, column in line]
        pen.line(points, fill=colour, width=width, joint="curve")
    return _encoded(canvas, "PNG")


def compressed(image: Images, random: np.random.Generator) -> bytes:
    """Small, and compressed to where blocks show, as JPEG."""
    page = _page(random, _around(random, 235, 20), (64, 160))
    picture = _inked(page, _placed(image, page.size, random, share=(0.5, 0.9)), _pen(random))
    return _encoded(picture, "JPEG", quality=int(random.integers(8, 25)))


def scanned(image: Images, random: np.random.Generator) -> bytes:
    """A sheet on a scanner that is larger, dark beside the page, with dust, as TIFF of greys."""
    page = _page(random, _around(random, 240, 10), (300, 600)).convert("L")
    picture = _inked(page.convert("RGB"), _placed(image, page.size, random, share=(0.2, 0.6)), _pen(random)).convert(
        "L"
    )
    pen = ImageDraw.Draw(picture)
    for column, row in random.uniform(0, 1, (int(random.integers(5, 25)), 2)) * page.size:
        size = random.uniform(0, 2)
        pen.ellipse((column - size, row - size, column + size, row + size), fill=int(random.integers(40, 160)))
    edge, beside = int(random.integers(4, 24)), int(random.integers(10, 90))
    if random.random() < 0.5:
        pen.rectangle((page.width - edge, 0, page.width, page.height), fill=beside)
    pen.rectangle((0, page.height - edge, page.width, page.height), fill=beside)
    return _encoded(_noisy(picture, random, most=4), "TIFF", compression="tiff_lzw")


def turned_by_exif(image: Images, random: np.random.Generator) -> bytes:
    """A telephone's photograph: stored as its sensor saw it, and a note how to turn it, as JPEG."""
    page = _page(random, _around(random, 225, 20), (420, 640))
    picture = _lit(_inked(page, _placed(image, page.size, random, share=(0.25, 0.6)), _pen(random)), random)
    orientation, back = ORIENTATIONS[int(random.integers(len(ORIENTATIONS)))]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return _encoded(_noisy(picture, random).transpose(back), "JPEG", quality=85, exif=exif)


def cropped(image: Images, random: np.random.Generator) -> bytes:
    """Cut out along its edges, so that it touches them, as PNG."""
    page = Image.new("RGB", (300, 300), _around(random, 235, 20))
    ink = _placed(image, page.size, random, share=(0.3, 0.9))
    return _encoded(_inked(page, ink, _pen(random)).crop(ink.point(lambda grey: grey > 127 and 255).getbbox()), "PNG")


def tiny(image: Images, random: np.random.Generator) -> bytes:
    """Twenty pixels high, in the palette of a GIF."""
    page = Image.new("RGB", (24, 24), _around(random, 240, 15))
    return _encoded(_inked(page, _placed(image, page.size, random, share=(0.83, 0.83)), _dark(random)), "GIF")


def huge(image: Images, random: np.random.Generator) -> bytes:
    """A photograph of twelve megapixels, as JPEG."""
    small = Image.new("RGB", (1000, 750), _around(random, 225, 20))
    picture = _lit(_inked(small, _placed(image, small.size, random, share=(0.25, 0.6), tilt=8), _pen(random)), random)
    return _encoded(_noisy(picture, random).resize((4000, 3000), Image.Resampling.BILINEAR), "JPEG", quality=80)


ORIENTATION: Final = 0x0112  # of EXIF
ORIENTATIONS: Final = (  # as they are noted, and how the picture was turned before it was stored
    (3, Image.Transpose.ROTATE_180),
    (6, Image.Transpose.ROTATE_90),
    (8, Image.Transpose.ROTATE_270),
)


# What they are drawn with


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _around(random: np.random.Generator, middle: int, spread: int) -> tuple[int, int, int]:
    """A grey with a touch of colour."""
    grey = middle + random.integers(-spread, spread + 1)
    red, green, blue = np.clip(grey + random.integers(-8, 9, 3), 0, 255).tolist()
    return red, green, blue


def _dark(random: np.random.Generator) -> tuple[int, int, int]:
    return _around(random, 30, 30)


def _pen(random: np.random.Generator) -> tuple[int, int, int]:
    """Black, blue, red, green, or a pencil."""
    pens = (_dark(random), (30, 50, 150), (170, 30, 40), (20, 100, 60), _around(random, 95, 15))
    return pens[int(random.integers(len(pens)))]


def _page(random: np.random.Generator, colour: tuple[int, int, int], sides: tuple[int, int]) -> Image.Image:
    width, height = random.integers(*sides, 2).tolist()
    return Image.new("RGB", (width, height), colour)


def _placed(
    image: Images,
    size: tuple[int, int],
    random: np.random.Generator,
    *,
    share: tuple[float, float] = (0.4, 0.9),
    tilt: float = 0,
) -> Image.Image:
    """The strokes of `image` as ink, 0 to 255, somewhere on a page of `size`, with `share` of its shorter side.

    Args:
        tilt: by how many degrees they are turned at the most.
    """
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    digit = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = random.uniform(*share) * min(size) / max(digit.shape)
    large = Image.fromarray(np.pad(digit, 1)).resize(
        (round((digit.shape[1] + 2) * scale), round((digit.shape[0] + 2) * scale)), Image.Resampling.BICUBIC
    )
    # Its edge was as wide as a pixel was: it becomes sharp again where it was half.
    sharp = 1 + (SHARPNESS - 1) * min(1.0, scale / 4)
    large = large.point([min(255, max(0, round((value - 127.5) * sharp + 127.5))) for value in range(256)])
    if tilt:
        large = large.rotate(random.uniform(-tilt, tilt), Image.Resampling.BILINEAR, expand=True)
    ink = Image.new("L", size)
    right, down = _free(size, large.size)
    ink.paste(large, (int(random.integers(0, right + 1)), int(random.integers(0, down + 1))))
    return ink


def _free(size: tuple[int, int], inner: tuple[int, int]) -> tuple[int, int]:
    return max(0, size[0] - inner[0]), max(0, size[1] - inner[1])


def _inked(page: Image.Image, ink: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    return Image.composite(Image.new("RGB", page.size, colour), page, ink)


def _slanted(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """As seen from aside: each corner comes from up to 8 % of a side further in."""
    width, height = picture.size
    ins = random.uniform(0, 0.08, (4, 2)) * picture.size
    corners = ((0, 0), (0, height), (width, height), (width, 0))
    signs = ((1, 1), (1, -1), (-1, -1), (-1, 1))
    quad = [
        value
        for corner, sign, away in zip(corners, signs, -ins, strict=True)
        for value in np.array(corner) + sign * away
    ]
    around = picture.getpixel((0, 0))
    return picture.transform(picture.size, Image.Transform.QUAD, quad, Image.Resampling.BILINEAR, fillcolor=around)


def _half(size: tuple[int, int], random: np.random.Generator, *, blur: float) -> Floats:
    """1 on one side of a line across the page, 0 on the other, softened over `blur` pixels: [height, width]."""
    width, height = size
    angle, through = random.uniform(0, 2 * np.pi), random.uniform(0.25, 0.75, 2) * size
    rows, columns = np.mgrid[:height, :width]
    away = (columns - through[0]) * np.cos(angle) + (rows - through[1]) * np.sin(angle)
    half: Floats = np.clip(0.5 + away / (2 * blur), 0, 1).astype(np.float32)
    return half


def _multiplied(picture: Image.Image, light: Floats) -> Image.Image:
    return Image.fromarray((np.asarray(picture) * light[..., None]).astype(np.uint8))


def _lit(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """Light that falls from one side and fades towards a corner, and a soft shadow over a part, one time in two."""
    width, height = picture.size
    angle = random.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    across = (columns / width - 0.5) * np.cos(angle) + (rows / height - 0.5) * np.sin(angle)
    light = 1 - random.uniform(0.1, 0.5) * (across + 0.5)
    if random.random() < 0.5:
        light = light * (1 - random.uniform(0.15, 0.4) * _half(picture.size, random, blur=random.uniform(8, 60)))
    return _multiplied(picture, np.clip(light, 0, 1).astype(np.float32))


def _noisy(picture: Image.Image, random: np.random.Generator, *, most: float = 9) -> Image.Image:
    """A lens that blurs a little, and a sensor's noise of up to `most` of 255."""
    blurred = picture.filter(ImageFilter.GaussianBlur(random.uniform(0, 1.2)))
    greys = np.asarray(blurred).astype(np.float32)
    noise = random.standard_normal(greys.shape, np.float32) * np.float32(random.uniform(1, most))
    return Image.fromarray(np.clip(greys + noise, 0, 255).astype(np.uint8))


def _middle(image: Images) -> list[npt.NDArray[np.float64]]:
    """The middle of the strokes, as lines between neighbouring pixels of a quarter of the size: each [2, 2], row, column.

    By thinning (Zhang and Suen 1984, "A fast parallel algorithm for thinning digital patterns").
    """
    large = Image.fromarray(image).resize((4 * SIDE, 4 * SIDE), Image.Resampling.BICUBIC)
    inked = np.pad(np.asarray(large) > 110, 1)
    while True:
        before = inked.copy()
        for first, second in (((0, 2, 4), (2, 4, 6)), ((0, 2, 6), (0, 4, 6))):
            around = np.stack([np.roll(inked, step, (0, 1)) for step in AROUND])  # [8, 114, 114], clockwise from above
            neighbours = around.sum(axis=0)
            changes = (~around & np.roll(around, -1, 0)).sum(axis=0)
            free = ~around[list(first)].all(axis=0) & ~around[list(second)].all(axis=0)
            inked = inked & ~((neighbours >= 2) & (neighbours <= 6) & (changes == 1) & free)
        if (inked == before).all():
            break
    lines = []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        both = inked & np.roll(inked, (-down, -right), (0, 1))
        if down and right:  # not across a corner that is filled
            both &= ~np.roll(inked, (0, -right), (0, 1)) & ~np.roll(inked, (-down, 0), (0, 1))
        starts = np.argwhere(both)
        lines += [np.stack([start, start + np.array([down, right])]) / 4 for start in starts]
    return lines or [np.array([spot, spot + 1]) / 4 for spot in np.argwhere(inked)]


AROUND: Final = (
    (1, 0),
    (1, -1),
    (0, -1),
    (-1, -1),
    (-1, 0),
    (-1, 1),
    (0, 1),
    (1, 1),
)  # how to roll to have a neighbour here
