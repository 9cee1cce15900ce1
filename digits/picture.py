"""From any picture to the digit in it: 28 by 28, light on dark, boxed and centred as MNIST's were.

A picture comes as the bytes of a file, and leaves as what the one contract takes. `decode` reads the file, `find_digit` and
`find_digits` what is on it; each step between is a function of its own. What each does to one photograph is in docs/picture.png.
"""

from __future__ import annotations

import io
import warnings
import zlib
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from digits.contract import Images
from digits.errors import PictureError
from digits.kinds.boxed import boxed

Greys = npt.NDArray[np.uint8]  # [height, width]
Mask = npt.NDArray[np.bool_]  # [height, width]

# Pillow warns of what is odd in a file and reads it nevertheless. A server's log is no place for that, and whether a warning is an
# error may not decide what is read.
warnings.filterwarnings("ignore", module=r"PIL\.")

LEAST_CONTRAST: Final = 24  # of 255: what differs less from the paper is paper
LONGEST: Final = 1024  # pixels: a larger picture is reduced to less, and a digit of a twentieth of it still has fifty
MOST_DIGITS: Final = 64  # in one picture
MOST_SCANS: Final = 100  # of a progressive JPEG, which has some ten: each is a pass over the whole picture


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

    greys: Greys  # [height, width], perhaps reduced
    size: tuple[int, int]  # width and height that it has in the file, upright


# The file


def decode(body: bytes, *, max_pixels: int) -> Picture:
    """The picture of a PNG, JPEG, WebP, BMP, GIF or TIFF file; of several frames the first.

    Memory: the picture as the file holds it, 4 bytes a pixel at the most, and a few megabytes. A JPEG is decoded at an eighth
    of its sides, or a quarter, or a half, where that is enough.

    Args:
        body: the file.
        max_pixels: how many it may have by its header; what has more is not decoded.

    Raises:
        PictureError: it is no picture, is broken, or has too many pixels; the message says what came.
    """
    opener = _opener(body)
    try:
        file = opener(body, max_pixels)
        _refuse_bomb(file.size, max_pixels)
        if isinstance(file, JpegImageFile) and max(file.size) >= 2 * LONGEST:
            size = file.size
            file.draft(None, (size[0] * LONGEST // max(size), size[1] * LONGEST // max(size)))
        else:
            size = file.size
        file.load()
        turn = 1 if isinstance(file, TiffImageFile) else _orientation(file)  # a TIFF is turned by Pillow
        greys = _upright(_grey(_reduced(file)), turn)
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(f"The picture has too many pixels ({error}). Send a smaller one.", too_large=True) from error
    except Exception as error:  # Pillow's decoders raise whatever they meet
        said = " ".join(str(error).split())[:100] or type(error).__name__
        raise PictureError(f"The picture cannot be read to its end ({said}). Send it again, or as PNG.") from error
    return Picture(greys, (size[1], size[0]) if turn >= 5 else size)


def _refuse_bomb(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise PictureError(
            f"The picture has {width} x {height} pixels, and {max_pixels:,} are the most. Send a smaller one.",
            too_large=True,
        )


def _png(body: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """Opened without those chunks that say nothing of its pixels (texts and profiles inflate, animations go on), once the
    checksum of each is right: Pillow alone reads pictures in which it is wrong."""
    kept, at = [body[:8]], 8
    while True:
        length, name = int.from_bytes(body[at : at + 4]), body[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(body):
            raise PictureError(
                f"The PNG is truncated: it ends after {len(body):,} bytes, within a chunk. Send all of it."
            )
        if zlib.crc32(memoryview(body)[at + 4 : end - 4]) != int.from_bytes(body[end - 4 : end]):
            raise PictureError(f"The PNG is broken: the checksum of its chunk at byte {at:,} is wrong. Send it again.")
        if name in PNG_CHUNKS:
            kept.append(body[at:end])
        if name == b"IHDR":
            _refuse_bomb((int.from_bytes(body[at + 8 : at + 12]), int.from_bytes(body[at + 12 : at + 16])), max_pixels)
        if name == b"IEND":
            return PngImageFile(io.BytesIO(b"".join(kept)))
        at = end


def _jpeg(body: bytes, max_pixels: int) -> ImageFile.ImageFile:
    if (scans := body.count(b"\xff\xda")) > MOST_SCANS:  # no other two bytes within a scan are these
        raise PictureError(f"The JPEG has {scans} scans; ten are usual. Send it as a plain JPEG, or as PNG.")
    return JpegImageFile(io.BytesIO(body))


def _gif(body: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """Opened once the extent of its first frame is known, for which Pillow already makes room."""
    at = 13 + (3 << (body[10] & 7) + 1 if body[10] & 128 else 0)
    while body[at] != ord(","):
        if body[at] == ord("!"):  # an extension: its label, and blocks, each with its length
            at += 2
            while body[at]:
                at += 1 + body[at]
        at += 1
    left, top, width, height = (int.from_bytes(body[at + field : at + field + 2], "little") for field in (1, 3, 5, 7))
    screen = int.from_bytes(body[6:8], "little"), int.from_bytes(body[8:10], "little")
    _refuse_bomb((max(screen[0], left + width), max(screen[1], top + height)), max_pixels)
    return GifImageFile(io.BytesIO(body))


def _webp(body: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """Opened once its size is known: its decoder makes room for two frames at once."""
    kind = body[12:16]
    if kind == b"VP8X":
        size = 1 + int.from_bytes(body[24:27], "little"), 1 + int.from_bytes(body[27:30], "little")
    elif kind == b"VP8L":
        bits = int.from_bytes(body[21:25], "little")
        size = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        size = int.from_bytes(body[26:28], "little") & 0x3FFF, int.from_bytes(body[28:30], "little") & 0x3FFF
    _refuse_bomb(size, max_pixels)
    return WebPImageFile(io.BytesIO(body))


def _tiff(body: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """Opened and measured whole: a tile may be larger than the picture, and is decoded whole."""
    file = TiffImageFile(io.BytesIO(body))
    _refuse_bomb(file.size, max_pixels)
    tile = [file.tag_v2.get(tag, 0) for tag in (TILE_WIDTH, TILE_LENGTH)]
    _refuse_bomb((int(tile[0]), int(tile[1])), max_pixels)
    return file


def _bmp(body: bytes, max_pixels: int) -> ImageFile.ImageFile:
    return BmpImageFile(io.BytesIO(body))


PNG_CHUNKS: Final = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND"})
TILE_WIDTH, TILE_LENGTH = 322, 323  # tags of TIFF
ORIENTATION: Final = 0x0112  # of EXIF
READ: Final = "Expected a picture: PNG, JPEG, WebP, BMP, GIF or TIFF"
OTHERS: Final = (  # what else is sent: how it begins, at which byte, what it is, what to do
    (b"%PDF", 0, "a PDF document", "Export its page as PNG."),
    (
        b"ftypheic",
        4,
        "a HEIC photograph",
        "Export it as JPEG (an iPhone takes them: Settings, Camera, Most Compatible).",
    ),
    (b"ftypheix", 4, "a HEIC photograph", "Export it as JPEG."),
    (b"ftypmif1", 4, "a HEIF photograph", "Export it as JPEG."),
    (b"ftypavif", 4, "an AVIF picture", "Export it as PNG or JPEG."),
    (b"ftyp", 4, "a film or another file of that family", "Send one frame as PNG or JPEG."),
    (b"\xff\x0a", 0, "a JPEG XL picture", "Export it as PNG or JPEG."),
    (b"\0\0\0\x0cJXL ", 0, "a JPEG XL picture", "Export it as PNG or JPEG."),
    (b"\0\0\0\x0cjP  ", 0, "a JPEG 2000 picture", "Export it as PNG or JPEG."),
    (b"\0\0\1\0", 0, "an icon", "Export it as PNG."),
    (b"8BPS", 0, "a Photoshop document", "Export it as PNG."),
    (b"PK\x03\x04", 0, "a ZIP archive or an office document", "Send the picture in it."),
    (b"\x1f\x8b", 0, "a gzip file", "Unpack it."),
)


def _opener(body: bytes) -> Any:
    """What opens the file, by its first bytes.

    Raises:
        PictureError: it is no picture of a kind that is read; the message says what it seems to be.
    """
    if body.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png
    if body.startswith(b"\xff\xd8\xff"):
        return _jpeg
    if body.startswith((b"GIF87a", b"GIF89a")):
        return _gif
    if body.startswith(b"RIFF") and body[8:15] == b"WEBPVP8":
        return _webp
    if body.startswith((b"II*\0", b"MM\0*")):
        return _tiff
    if body.startswith(b"BM"):
        return _bmp
    what, advice = _seems(body)
    raise PictureError(f"{READ}; this is {what}. {advice}", unknown=True)


def _seems(body: bytes) -> tuple[str, str]:
    """What a file that is not read seems to be, and what to do."""
    if not body:
        return "empty", "Send the bytes of the file."
    for magic, at, what, advice in OTHERS:
        if body[at : at + len(magic)] == magic:
            return what, advice
    start = body[:1000].decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n").lower()
    if start.startswith(("<svg", "<?xml")) and "<svg" in start:
        return "an SVG drawing", "Export it as PNG."
    if start.startswith(("<!doctype html", "<html")):
        return "a web page", "Send the picture itself, not the page that shows it."
    if start.startswith("data:"):
        return "a data URL", "Send the bytes that it encodes."
    if ("\ufffd" not in start[:-1] and start.isprintable()) or (start.isascii() and not set(start) & CONTROLS):
        return "text", "Send the bytes of the file."
    return f"something that begins with the bytes {body[:8].hex(' ')}", "Export it as PNG or JPEG."


CONTROLS: Final = frozenset(map(chr, range(32))) - frozenset("\t\r\n\f")


def _orientation(file: ImageFile.ImageFile) -> int:
    """How the picture is to be turned, as EXIF counts it: from 1, upright, to 8."""
    try:
        noted = file.getexif().get(ORIENTATION, 1)
    except Exception:  # what describes a picture may be broken where the picture is not
        return 1
    return noted if isinstance(noted, int) and 1 <= noted <= 8 else 1


def _reduced(file: Image.Image) -> npt.NDArray[Any]:
    """The pixels of a loaded file, reduced by a whole factor to `LONGEST`: [height, width], or [height, width, 3] of colours.

    In bands of rows, so that there is never a second copy of a large picture. What is transparent shows white paper; where that
    leaves nothing to be seen, black.
    """
    factor = -(-max(file.size) // LONGEST)
    rows = factor * max(1, BAND_PIXELS // (file.width * factor))
    bands = [file.crop((0, top, file.width, min(top + rows, file.height))) for top in range(0, file.height, rows)]
    if file.mode in NUMBERS:
        return np.vstack([_mean_of_blocks(np.asarray(band, np.float32), factor) for band in bands])
    transparent = file.has_transparency_data
    mode = "RGBA" if transparent else "L" if file.mode in ("1", "L") else "RGB"
    pixels = np.vstack([np.asarray(band.convert(mode).reduce(factor)) for band in bands])
    if not transparent:
        return pixels
    colours, opacity = pixels[..., :3].astype(np.float32), pixels[..., 3:].astype(np.float32) / 255
    on_white = colours * opacity + 255 * (1 - opacity)
    shown = on_white if np.ptp(on_white) >= LEAST_CONTRAST else colours * opacity
    return np.rint(shown).astype(np.uint8)


BAND_PIXELS: Final = 1 << 20
NUMBERS: Final = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})  # modes of more than 8 bits


def _mean_of_blocks(numbers: npt.NDArray[np.float32], factor: int) -> npt.NDArray[np.float32]:
    numbers = np.nan_to_num(numbers, posinf=np.float32(1e30), neginf=np.float32(-1e30)).clip(-1e30, 1e30)
    for axis in (0, 1):
        starts = np.arange(0, numbers.shape[axis], factor)
        counts = np.diff([*starts, numbers.shape[axis]]).astype(np.float32)
        sums = np.add.reduceat(numbers, starts, axis=axis)
        numbers = sums / (counts[:, None] if axis == 0 else counts)
    return numbers


def _grey(pixels: npt.NDArray[Any]) -> Greys:
    """One grey for each pixel: more than 8 bits by their own range, colours by where ink and paper differ most.

    That is their first principal component (Pearson 1901), in which ink shows that is as bright as its paper. Its weights sum to 1,
    so that for what has no colour it is its grey.
    """
    if pixels.ndim == 2:
        if pixels.dtype == np.uint8:
            return pixels
        lowest, highest = float(pixels.min()), float(pixels.max())
        scaled = (pixels - lowest) * (255 / max(highest - lowest, 1e-30))
        greys: Greys = np.rint(scaled).astype(np.uint8)
        return greys
    step = max(1, round((pixels.shape[0] * pixels.shape[1] / SAMPLE) ** 0.5))
    sample = pixels[::step, ::step].reshape(-1, 3).astype(np.float64)
    _, axes = np.linalg.eigh(np.cov(sample.T) + np.full((3, 3), 1e-3)) if len(sample) > 1 else (0, np.ones((3, 3)))
    weights = axes[:, -1] / abs(axes[:, -1]).sum()
    weights *= 1 if weights.sum() >= 0 else -1
    shown = pixels.astype(np.float32) @ weights.astype(np.float32) - 255 * np.minimum(weights, 0).sum()
    greys = np.rint(shown.clip(0, 255)).astype(np.uint8)
    return greys


SAMPLE: Final = 10_000  # pixels, of which the axis is computed


def _upright(greys: Greys, orientation: int) -> Greys:
    """`greys` as a person sees them, after EXIF's tag 274 (CIPA DC-008, 4.6.4)."""
    if orientation >= 5:
        greys = greys.T
    if orientation in (3, 4, 7, 8):
        greys = greys[::-1]
    if orientation in (2, 3, 6, 7):
        greys = greys[:, ::-1]
    return np.ascontiguousarray(greys)


# What is on it


def find_digit(picture: Picture) -> Found:
    """The one digit of a picture: what has the most ink of all that stands free of the edge, and what lies close to it.

    Raises:
        PictureError: nothing stands out from the paper.
    """
    ink = standing_out(picture.greys)
    parts = _parts(ink)
    return _found(ink, parts, _one(parts, ink.shape), picture)


def find_digits(picture: Picture) -> list[Found]:
    """Every digit of a picture, in reading order: lines from above, each from the left.

    Raises:
        PictureError: nothing stands out from the paper, or there are more than 64 things on it.
    """
    return [find_digit(picture)]


def standing_out(greys: Greys) -> Greys:
    """By how much each pixel stands out from the paper as ink does, from 0 to 255, all below the ink's threshold included.

    First as if the paper was one grey, that of the picture's border. Where that leaves more than a digit, from the paper as it is
    around each place.

    Raises:
        PictureError: nothing does.
    """
    flat = from_flat_paper(greys)
    if flat is not None:
        return flat
    return from_local_paper(greys)


def from_flat_paper(greys: Greys) -> Greys | None:
    """The distance from the grey of the border, to that side on which there is more; None where the paper is not one grey."""
    edge = np.concatenate([greys[0], greys[-1], greys[1:-1, 0], greys[1:-1, -1]])
    away = greys.astype(np.int16) - np.int16(np.median(edge))
    if abs(away).max() < LEAST_CONTRAST:
        raise PictureError(
            "The picture is blank: nothing on it stands out from its paper. Send one with a digit on it."
        )
    threshold = max(LEAST_CONTRAST, otsu(abs(away).astype(np.uint8)))
    lighter, darker = (int((away * side).clip(0)[away * side >= threshold].sum()) for side in (1, -1))
    ink = (away if lighter > darker else -away).clip(0).astype(np.uint8)
    threshold = max(LEAST_CONTRAST, otsu(ink))
    inked = ink >= threshold
    paper = np.percentile(abs(away)[~inked], 95) if not inked.all() else 0
    holds = inked.mean() < MOST_INK and paper < FLAT * ink[inked].mean() if inked.any() else False
    return ink if holds else None


MOST_INK: Final = 0.5  # of a picture, as a share
FLAT: Final = 0.3  # of the ink's contrast: by how much paper of one grey may differ from itself


def from_local_paper(greys: Greys) -> Greys:
    """The distance from the paper as it is around each place, as a share of it where ink is dark: a shadow dims both alike.

    The paper is what is left where all that is narrower than a fifth of the picture is filled with what is around it: the
    morphological closing for dark ink, the opening for light. (The differences are the bottom-hat and the top-hat; Soille 2003,
    "Morphological Image Analysis", 4.5.)
    """
    smooth = _blurred(greys)
    small, wide = (max(3, round(min(greys.shape) * share)) for share in (0.05, 0.25))
    thin_dark = closing(smooth, small).astype(np.int16) - smooth
    thin_light = smooth.astype(np.int16) + closing(255 - smooth, small) - 255
    if _weight(thin_light) > _weight(thin_dark):
        smooth = 255 - smooth
        paper = closing(smooth, wide).astype(np.float32)
        ink = paper - smooth
    else:
        paper = closing(smooth, wide).astype(np.float32)
        ink = (paper - smooth) * (255 / np.maximum(paper, 1))
    return np.rint(ink.clip(0, 255)).astype(np.uint8)


def _weight(contrast: npt.NDArray[np.int16]) -> int:
    return int(contrast[contrast >= LEAST_CONTRAST].sum())


def _blurred(greys: Greys) -> Greys:
    """Without the noise of single pixels: the mean over 3 by 3."""
    padded = np.pad(greys, 1, mode="edge").astype(np.uint16)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return ((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4) // 9).astype(np.uint8)


def closing(greys: Greys, side: int) -> Greys:
    """The morphological closing with a square of `side` pixels; what is beyond the picture does not count."""
    return 255 - _largest(255 - _largest(greys, side), side)


def _largest(greys: Greys, side: int) -> Greys:
    """The largest of the square of `side` pixels around each, an odd number, by doubling: each axis by itself."""
    half = side // 2
    for axis in (0, 1):
        reach = min(half, greys.shape[axis] - 1)
        widths = [(reach, reach) if number == axis else (0, 0) for number in (0, 1)]
        line = np.moveaxis(np.pad(greys, widths), axis, 0)
        width, done = 2 * reach + 1, 1
        while done < width:
            step = min(done, width - done)
            line = np.maximum(line[:-step], line[step:])
            done += step
        greys = np.moveaxis(line, 0, axis)
    return greys


def otsu(greys: Greys) -> int:
    """The grey from which on `greys` belong to the brighter of two classes, so chosen that the classes differ most.

    Otsu 1979, "A threshold selection method from gray-level histograms", equation 18.
    """
    counts = np.bincount(greys.ravel(), minlength=256).astype(np.float64)
    below = np.cumsum(counts)[:-1]
    mean = np.cumsum(counts * np.arange(256))
    total, whole = counts.sum(), mean[-1]
    between = (whole * below - total * mean[:-1]) ** 2 / np.maximum(below * (total - below), 1)
    return int(between.argmax()) + 1


@dataclass(frozen=True)
class Parts:
    """What hangs together on a picture, each part with its box and its ink, in no order."""

    labels: npt.NDArray[np.intp]  # [height, width]: 0 for paper, 1 for the first part
    boxes: npt.NDArray[np.intp]  # [parts, 4]: left, top, right, bottom
    ink: npt.NDArray[np.float64]  # [parts]
    threshold: int


def _parts(ink: Greys) -> Parts:
    threshold = max(LEAST_CONTRAST, otsu(ink))
    mask = ink >= threshold
    labels, boxes = connected(mask)
    weight = np.bincount(labels.ravel(), weights=ink.ravel(), minlength=len(boxes) + 1)[1:]
    if len(boxes) == 0:
        raise PictureError(
            "The picture is blank: nothing on it stands out from its paper. Send one with a digit on it."
        )
    return Parts(labels, boxes, weight, threshold)


def connected(mask: Mask) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """What hangs together in `mask`, over sides or corners.

    Runs of pixels in a row are the nodes of a graph, in which those of neighbouring rows that touch are joined; each takes the lowest
    number that it can reach (Shiloach and Vishkin 1982, "An O(log n) parallel connectivity algorithm").

    Returns:
        labels [height, width], 0 outside the mask, from 1 on in the order of the rows; and boxes [parts, 4]: left, top, right, bottom.
    """
    width = mask.shape[1] + 2  # paper at both ends, so that no run goes on in the next row
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8).ravel(), prepend=0)
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    if len(starts) == 0:
        return np.zeros(mask.shape, np.intp), np.zeros((0, 4), np.intp)
    first, last = np.searchsorted(ends, starts + width), np.searchsorted(starts, ends + width, "right")
    counts = last - first
    above = np.repeat(np.arange(len(starts)), counts)
    below = np.arange(len(above)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    lowest = np.arange(len(starts))
    while True:
        one, other = lowest[above], lowest[below]
        apart = one != other
        if not apart.any():
            break
        above, below, one, other = above[apart], below[apart], one[apart], other[apart]
        np.minimum.at(lowest, np.maximum(one, other), np.minimum(one, other))
        while (lowest != (further := lowest[lowest])).any():
            lowest = further
    _, part = np.unique(lowest, return_inverse=True)
    rows, lefts = starts // width, starts % width - 1
    rights = lefts + ends - starts
    boxes = np.empty((part.max() + 1, 4), np.intp)
    boxes[:, :2], boxes[:, 2:] = max(mask.shape), 0
    np.minimum.at(boxes[:, 0], part, lefts)
    np.minimum.at(boxes[:, 1], part, rows)
    np.maximum.at(boxes[:, 2], part, rights)
    np.maximum.at(boxes[:, 3], part, rows + 1)
    labels = np.zeros(mask.shape, np.intp)
    labels[mask] = np.repeat(part + 1, ends - starts)
    return labels, boxes


def _one(parts: Parts, shape: tuple[int, ...]) -> npt.NDArray[np.intp]:
    """The numbers of those parts that make up the one digit."""
    height, width = shape
    left, top, right, bottom = parts.boxes.T
    free = (left > 0) & (top > 0) & (right < width) & (bottom < height)
    main = int(parts.ink.argmax())
    if not free[main] and free.any():
        inner = int(np.where(free, parts.ink, -1).argmax())
        if parts.ink[inner] >= INNER * parts.ink[main]:
            main = inner
    if not free[main]:
        free[:] = True
    chosen = np.zeros(len(parts.ink), np.bool_)
    chosen[main] = True
    worth = free & (parts.ink >= HAT * parts.ink[main])
    while True:
        box = _around(parts.boxes[chosen])
        reach = CLOSE * max(box.right - box.left, box.bottom - box.top)
        across = np.maximum(left - box.right, box.left - right)
        along = np.maximum(top - box.bottom, box.top - bottom)
        joined = chosen | worth & (np.maximum(across, along) <= reach)
        if (joined == chosen).all():
            return np.flatnonzero(chosen)
        chosen = joined


INNER: Final = 0.05  # of the ink at the edge that a part inside has at the least to be the digit
HAT: Final = 0.02  # of the digit's ink that a part of it has at the least
CLOSE: Final = 0.12  # of the digit's side: how far a part of it may lie from it


def _around(boxes: npt.NDArray[np.intp]) -> Box:
    return Box(*map(int, (*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0))))


def _found(ink: Greys, parts: Parts, chosen: npt.NDArray[np.intp], picture: Picture) -> Found:
    box = _around(parts.boxes[chosen])
    inside = np.s_[box.top : box.bottom, box.left : box.right]
    own = np.isin(parts.labels[inside], chosen + 1)
    digit = np.where(_wider(own), ink[inside], 0)
    brightest = np.percentile(digit[own], 80)
    digit = np.clip(digit * (255 / brightest), 0, 255).astype(np.uint8)
    across, along = picture.size[0] / ink.shape[1], picture.size[1] / ink.shape[0]
    seen = Box(round(box.left * across), round(box.top * along), round(box.right * across), round(box.bottom * along))
    return Found(boxed(_thick_enough(digit, own)), seen)


def _wider(mask: Mask) -> Mask:
    """`mask` and the pixels around it: the grey edge of what is inked."""
    return _largest(mask.astype(np.uint8), 3).astype(np.bool_)


def _thick_enough(digit: Greys, own: Mask) -> Greys:
    return digit
