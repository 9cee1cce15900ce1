"""From any picture to the digit in it: 28 by 28, light on dark, boxed and centred as MNIST's were.

A picture comes as the bytes of a file, and leaves as what the one contract takes.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from digits.contract import Images
from digits.errors import PictureError
from digits.kinds.boxed import boxed

FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
LEAST_CONTRAST: Final = 24  # of 255: what differs less from the background is paper


class Box(NamedTuple):
    """Where a digit is: pixels of the picture as a person sees it, the last row and column not included."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Found:
    image: Images  # [28, 28]
    box: Box


@dataclass(frozen=True)
class Picture:
    """What a file shows, upright."""

    greys: npt.NDArray[np.uint8]  # [height, width], 0 is black


def decode(body: bytes, *, max_pixels: int) -> Picture:
    """The picture of a PNG, JPEG, WebP, BMP, GIF or TIFF file.

    Raises:
        PictureError: it is none, is broken, or has more than `max_pixels`; the message says what came.
    """
    try:
        file = Image.open(io.BytesIO(body), formats=FORMATS)
        if file.width * file.height > max_pixels:
            raise PictureError(
                f"The picture has {file.width} x {file.height} pixels, and {max_pixels:,} are the most. Send a smaller one.",
                too_large=True,
            )
        shown = ImageOps.exif_transpose(file).convert("RGBA")
    except UnidentifiedImageError as error:
        raise PictureError(
            "Expected a picture: PNG, JPEG, WebP, BMP, GIF or TIFF; this is none of them.", unknown=True
        ) from error
    except PictureError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they meet
        raise PictureError(f"The picture cannot be read to its end ({error}). Send it again.") from error
    paper = Image.new("RGBA", shown.size, "white")
    return Picture(np.asarray(Image.alpha_composite(paper, shown).convert("L")))


def find_digit(picture: Picture) -> Found:
    """The one digit of a picture.

    Raises:
        PictureError: nothing stands out from its background.
    """
    greys = picture.greys.astype(np.int16)
    edge = np.concatenate([greys[0], greys[-1], greys[:, 0], greys[:, -1]])
    ink = abs(greys - int(np.median(edge)))
    ink[ink < max(LEAST_CONTRAST, int(ink.max()) // 2)] = 0
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if len(rows) == 0:
        raise PictureError("The picture is blank: nothing in it stands out from its background.")
    box = Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return Found(boxed(ink), box)


def find_digits(picture: Picture) -> list[Found]:
    """Every digit of a picture, in reading order.

    Raises:
        PictureError: there is none.
    """
    return [find_digit(picture)]
