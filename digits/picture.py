"""From any picture to the digit in it: 28 by 28, light on dark, boxed and centred as MNIST's were.

A picture comes as the bytes of a file, and leaves as what the one contract takes. `decode` reads the file, `find_digit` and
`find_digits` what is on it; each step between is a function of its own. What each does to a photograph: docs/picture.png.
"""

from __future__ import annotations

import io
import warnings
import zlib
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageFilter
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from digits.contract import Images
from digits.errors import PictureError
from digits.kinds.boxed import BOX, boxed

Greys = npt.NDArray[np.uint8]  # [height, width]
Mask = npt.NDArray[np.bool_]  # [height, width]

# Pillow warns of what is odd in a file and reads it nevertheless. A server's log is no place for that, and whether a warning
# is an error may not decide what is read.
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

    Memory: 4 bytes a pixel and some 40 megabytes; 16 bytes of WebP, whose decoder holds several pictures. A JPEG is decoded
    at an eighth of its sides, or a quarter, or a half, where that is enough; a progressive one has all its coefficients.

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
    bands = (file.crop((0, top, file.width, min(top + rows, file.height))) for top in range(0, file.height, rows))
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


def _mean_of_blocks(numbers: npt.NDArray[np.float32], factor: int) -> npt.NDArray[np.float64]:
    means = np.nan_to_num(numbers.astype(np.float64), posinf=MOST, neginf=-MOST).clip(-MOST, MOST)
    for axis in (0, 1):
        starts = np.arange(0, means.shape[axis], factor)
        counts = np.diff([*starts, means.shape[axis]])
        means = np.add.reduceat(means, starts, axis=axis) / (counts[:, None] if axis == 0 else counts)
    return means


MOST: Final = 1e30  # of a picture's numbers, which may be of 32 bits with a point


def _grey(pixels: npt.NDArray[Any]) -> Greys:
    """One grey for each pixel: more than 8 bits by their own range, colours by where ink and paper differ most.

    That is their first principal component (Pearson 1901), in which ink shows that is as bright as its paper. Its weights sum
    to 1, so that for what has no colour it is its grey.
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
    rounded: Greys = np.rint(shown.clip(0, 255)).astype(np.uint8)
    return rounded


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
    """The one digit of a picture: what has the most ink of all that stands free of the border, and what lies close to it.

    Raises:
        PictureError: nothing stands out from the paper.
    """
    ink = standing_out(picture.greys)
    parts = parts_of(ink)
    chosen = _one(parts)
    box = _around(parts.boxes[chosen])
    return _found(*_cut_out(ink, parts, chosen, box), box, picture)


def find_digits(picture: Picture) -> list[Found]:
    """Every digit of a picture, in reading order: lines from above, each from the left. Of some that touch, each.

    Raises:
        PictureError: nothing stands out from the paper, or there are more than 64 things on it.
    """
    ink = standing_out(picture.greys)
    parts = parts_of(ink)
    digits = _each(parts)
    usual = float(np.median([_height(parts, group) for group in digits]))
    found = []
    for chosen in digits:
        box = _around(parts.boxes[chosen])
        digit, own = _cut_out(ink, parts, chosen, box)
        for columns in _split(digit, usual):
            rows = np.flatnonzero(own[:, columns].any(axis=1))
            inside = np.s_[rows[0] : rows[-1] + 1, columns]
            start, stop, _ = columns.indices(digit.shape[1])
            part = Box(box.left + start, box.top + int(rows[0]), box.left + stop, box.top + int(rows[-1]) + 1)
            found.append(_found(digit[inside], own[inside], part, picture))
    if len(found) > MOST_DIGITS:
        raise PictureError(
            f"Expected at most {MOST_DIGITS} digits on a picture, and there are {len(found)}. Send a part of it."
        )
    return found


def standing_out(greys: Greys) -> Greys:
    """By how much each pixel stands out from the paper as ink does, from 0 to 255, all below the ink's threshold included.

    First as if the paper was one grey, that of the picture's border. Where that leaves more than a digit, from the paper as it
    is around each place.

    Raises:
        PictureError: nothing does.
    """
    flat = from_flat_paper(greys)
    if flat is not None:
        return flat
    return from_local_paper(greys)


def from_flat_paper(greys: Greys) -> Greys | None:
    """The distance from the grey of the border, to that side on which there is more; None where the paper is not one grey.

    It is not where what is left is no stroke: half of the picture, wider than a quarter of it at some place, or in a corner;
    but what touches all four sides may be so.
    """
    edge = np.concatenate([greys[0], greys[-1], greys[1:-1, 0], greys[1:-1, -1]])
    away = greys.astype(np.int16) - np.int16(np.median(edge))
    threshold = max(LEAST_CONTRAST, otsu(abs(away).astype(np.uint8)))
    lighter, darker = (int(away[away >= threshold].sum()), -int(away[away <= -threshold].sum()))
    ink = (away if lighter > darker else -away).clip(0).astype(np.uint8)
    threshold = max(LEAST_CONTRAST, otsu(ink))
    inked = ink >= threshold
    if not inked.any() or inked.all():
        return None
    apart = np.cumsum(_histogram(abs(away).astype(np.uint8)[~inked]))
    paper = int(np.searchsorted(apart, PLAIN * apart[-1]))
    if paper >= FLAT * ink[inked].mean():
        return None
    if min(ink[0].max(), ink[-1].max(), ink[:, 0].max(), ink[:, -1].max()) >= threshold // 2:
        return ink  # cut out along its edges, or lines; a shadow has a straight edge, and leaves one side free
    if inked.mean() >= MOST_INK:
        return None
    thick = _opening(inked, max(3, round(WIDE * max(greys.shape))))
    cornered = _opening(inked, max(3, round(CORNER * max(greys.shape))))[[0, 0, -1, -1], [0, -1, 0, -1]]
    return None if thick.any() or cornered.any() else ink


def _opening(mask: Mask, side: int) -> Mask:
    """What is left of `mask` without all that is narrower than a square of `side` pixels; beyond the picture there is none."""
    padded = np.pad(mask.astype(np.uint8) * np.uint8(255), side)
    opened: Mask = closing(255 - padded, side)[side:-side, side:-side] < 128
    return opened


PLAIN: Final = 0.8  # of the paper's pixels are as plain as that; the others may be edges of strokes
MOST_INK: Final = 0.5  # of a picture, as a share
FLAT: Final = 0.3  # of the ink's contrast: by how much paper of one grey may differ from itself
WIDE: Final = 0.25  # of a picture's side: no stroke is as wide,
CORNER: Final = 0.15  # and none as wide as this lies in a corner, as each shadow does whose edge is straight


def from_local_paper(greys: Greys) -> Greys:
    """The distance from the paper as it is around each place, as a share of the lighter of both: a shadow dims them alike.

    The paper is what is left where all that is narrower than a quarter of the picture is filled with what is around it: the
    morphological closing for dark ink, the opening for light. (The differences are the bottom-hat and the top-hat; Soille 2003,
    "Morphological Image Analysis", 4.5.)
    """
    smooth = _blurred(greys)
    if _is_light(smooth):
        lighter, darker = smooth, 255 - closing(255 - smooth, _share(greys, WIDE))
    else:
        lighter, darker = closing(smooth, _share(greys, WIDE)), smooth
    ink: Greys = np.rint(255 * (1 - (darker + DARKEST) / (lighter + DARKEST))).astype(np.uint8)
    return ink


DARKEST: Final = np.float32(16)  # of 255: light that falls into any shadow, and keeps noise there from being ink


def _share(greys: Greys, share: float) -> int:
    return max(3, round(int(min(greys.shape)) * share))


def _is_light(greys: Greys) -> bool:
    """Whether ink is lighter than the paper: the median around each place is paper, and ink lies to one side of it.

    In half of a picture's side there is more paper than ink, also between the strokes of a digit, and beside a shadow, whose
    straight edge the median keeps where it is.
    """
    small = np.asarray(Image.fromarray(greys).reduce(-(-max(greys.shape) // POLARITY_SIDE)))
    half = min(small.shape) // 4
    # Beyond its border it goes on as in a mirror: a scanner's lid, dark beside the page, is no more there than inside.
    around = Image.fromarray(np.pad(small, half, mode="reflect") if half else small)
    usual = np.asarray(around.filter(ImageFilter.MedianFilter(2 * half + 1)))
    inside = slice(half, -half or None)
    away = small.astype(np.int64) - usual[inside, inside]
    inner = slice(half // 2, -(half // 2) or None)  # what lies at the border may be its edge
    away = away[inner, inner]
    return int((away * abs(away)).sum()) > 0


POLARITY_SIDE: Final = 40  # pixels: what is needed to see on which side of the paper's grey the ink is


def _is_free(boxes: npt.NDArray[np.intp], shape: tuple[int, ...]) -> Mask:
    """Which of `boxes` do not touch the picture's border."""
    left, top, right, bottom = boxes.T
    free: Mask = (left > 0) & (top > 0) & (right < shape[1]) & (bottom < shape[0])
    return free


def _blurred(greys: Greys) -> Greys:
    """Without the noise of single pixels: the mean over 3 by 3."""
    padded = np.pad(greys, 1, mode="edge").astype(np.uint16)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    means: Greys = ((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4) // 9).astype(np.uint8)
    return means


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
    counts = _histogram(greys)
    below = np.cumsum(counts)[:-1]
    mean = np.cumsum(counts * np.arange(256))
    total, whole = counts.sum(), mean[-1]
    between = (whole * below - total * mean[:-1]) ** 2 / np.maximum(below * (total - below), 1)
    return int(between.argmax().item()) + 1


def _histogram(greys: Greys) -> npt.NDArray[np.float64]:
    """How many pixels there are of each grey, [256]: by Pillow, some ten times as fast as `bincount`."""
    return np.array(Image.fromarray(greys.reshape(1, -1)).histogram(), np.float64)


@dataclass(frozen=True)
class Parts:
    """What hangs together on a picture, each part with its box and its ink, in no order."""

    labels: npt.NDArray[np.intp]  # [height, width]: 0 for paper, 1 for the first part
    boxes: npt.NDArray[np.intp]  # [parts, 4]: left, top, right, bottom
    ink: npt.NDArray[np.int64]  # [parts]: the sum of it

    @property
    def free(self) -> Mask:
        """Which do not touch the picture's border: [parts]."""
        return _is_free(self.boxes, self.labels.shape)

    @property
    def sides(self) -> npt.NDArray[np.intp]:
        """The longer side of each: [parts]."""
        sides: npt.NDArray[np.intp] = (self.boxes[:, 2:] - self.boxes[:, :2]).max(axis=1)
        return sides


def parts_of(ink: Greys) -> Parts:
    """What is as dark as ink is, in parts that each hang together.

    Where that touches the border all over, it is lines and edges beside the ink: then what is darker than those, and then what
    is left without straight lines from border to border, counts in its place, as soon as something of it stands free.

    Raises:
        PictureError: there is nothing.
    """
    threshold = max(LEAST_CONTRAST, otsu(ink))
    found = _parts(ink, ink >= threshold)
    if len(found.boxes) == 0:
        raise PictureError(
            "The picture is blank: nothing on it stands out from its paper. Send one with a digit on it."
        )
    least = LEAST_SIDE * min(ink.shape)
    if (found.free & (found.sides >= least)).any():
        return found
    darker = max(threshold + 1, otsu(ink[ink >= threshold]))
    for inked in (ink >= darker, without_lines(ink >= threshold), without_lines(ink >= darker)):
        otherwise = _parts(ink, inked)
        if (otherwise.free & (otherwise.sides >= least)).any():
            return otherwise
    return found


LEAST_SIDE: Final = 0.1  # of the picture's shorter side: what a digit among lines has at the least


def _parts(ink: Greys, inked: Mask) -> Parts:
    labels, boxes = connected(inked)
    sums = np.bincount(labels[inked], ink[inked], len(boxes) + 1)[1:]
    return Parts(labels, boxes, sums.astype(np.int64))


def without_lines(inked: Mask) -> Mask:
    """Without what lies in a row or a column that is nearly all ink, where it is thin across: the pen's strokes stay."""
    kept = inked.copy()
    for mask, left in ((inked, kept), (inked.T, kept.T)):
        full = mask.mean(axis=1) >= LINE
        thin = np.zeros(mask.shape, np.bool_)
        edges = np.flatnonzero(np.diff(full.astype(np.int8), prepend=0, append=0))
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            if end - start > THICK * min(mask.shape):
                continue
            above = mask[max(0, start - 2)] if start > 0 else np.zeros(mask.shape[1], np.bool_)
            below = mask[min(len(mask) - 1, end + 1)] if end < len(mask) else above & False
            thin[max(0, start - 1) : end + 1] = ~(above & below)
        left &= ~thin
    return kept


LINE: Final = 0.7  # of a row that is inked where a line runs through it
THICK: Final = 0.05  # of the picture's shorter side: the thickest line


def connected(mask: Mask) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """What hangs together in `mask`, over sides or corners.

    Runs of pixels in a row are the nodes of a graph, in which those of neighbouring rows that touch are joined; each takes the
    lowest number that it can reach (Shiloach and Vishkin 1982, "An O(log n) parallel connectivity algorithm").

    Returns:
        labels [height, width], 0 outside the mask, from 1 on in the order of the rows; and
        boxes [parts, 4]: left, top, right, bottom.
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


def _one(parts: Parts) -> npt.NDArray[np.intp]:
    """The numbers of those parts that make up the one digit."""
    free, ink = parts.free, parts.ink
    main = int(ink.argmax())
    if not free[main]:
        # What stands free of the border is rather the digit than a larger thing at it, unless it is a speck.
        candidates = free & (parts.sides >= LEAST_SIDE * min(parts.labels.shape)) & (ink >= INNER * ink[main])
        if candidates.any():
            main = int(np.where(candidates, ink, -1).argmax())
    allowed = free if free[main] else np.ones(len(ink), np.bool_)
    worth = allowed & (ink >= HAT * ink[main])
    chosen = np.zeros(len(ink), np.bool_)
    chosen[main] = True
    left, top, right, bottom = parts.boxes.T
    while True:
        box = _around(parts.boxes[chosen])
        reach = CLOSE * max(box.right - box.left, box.bottom - box.top)
        across = np.maximum(left - box.right, box.left - right)
        along = np.maximum(top - box.bottom, box.top - bottom)
        joined = chosen | worth & (np.maximum(across, along) <= reach)
        if (joined == chosen).all():
            return np.flatnonzero(chosen)
        chosen = joined


INNER: Final = 0.01  # of the ink at the border that a part inside has at the least to be the digit
HAT: Final = 0.03  # of the digit's ink that a part of it has at the least
CLOSE: Final = 0.2  # of the digit's longer side: how far a part of it may lie from it


def _each(parts: Parts) -> list[npt.NDArray[np.intp]]:
    """The numbers of the parts of every digit, in reading order.

    A digit is what lies above each other: a five and its hat. What is much smaller than the others is a speck, what holds
    others in its box a frame.

    Raises:
        PictureError: there are more than 64.
    """
    heights = parts.boxes[:, 3] - parts.boxes[:, 1]
    allowed = ~_frames(parts)
    if (parts.free & allowed & (parts.sides >= LEAST_SIDE * min(parts.labels.shape))).any():
        allowed &= parts.free
    if not allowed.any():
        allowed[:] = True
    tall = heights * allowed
    usual = float(np.median(tall[tall >= 0.4 * tall.max()]))
    least = HAT * np.median(parts.ink[tall >= 0.4 * usual])
    worth = np.flatnonzero(allowed & (parts.sides >= SPECK * usual) & (parts.ink >= least))
    worth = worth[np.argsort(-heights[worth], kind="stable")][: 4 * MOST_DIGITS]
    groups: list[list[int]] = []
    for number in worth.tolist():
        group = next(
            (group for group in groups if _stacked(parts.boxes[number], _around(parts.boxes[group]), usual)), None
        )
        if group is None:
            groups.append([number])
        else:
            group.append(number)
    digits = [np.array(group) for group in groups]
    digits = [group for group in digits if _height(parts, group) >= DIGIT * usual]
    if len(digits) > MOST_DIGITS:
        raise PictureError(
            f"Expected at most {MOST_DIGITS} digits on a picture, and there are {len(digits)} things. Send a part of it."
        )
    return _in_reading_order(parts, digits)


SPECK: Final = 0.15  # of the usual digit's height: what a part of one has at the least
DIGIT: Final = 0.4  # of it, that a digit has


def _height(parts: Parts, group: npt.NDArray[np.intp]) -> int:
    box = _around(parts.boxes[group])
    return box.bottom - box.top


def _frames(parts: Parts) -> Mask:
    """Which parts are boxes around others, or a grid of them: each has the middle of two others in its box, or of a large one,
    and little of its box is ink: [parts]."""
    left, top, right, bottom = parts.boxes.T
    column, row = (left + right) / 2, (top + bottom) / 2
    frames = np.zeros(len(left), np.bool_)
    for number in np.argsort(-parts.sides, kind="stable")[: 4 * MOST_DIGITS]:
        inside = (column > left[number]) & (column < right[number]) & (row > top[number]) & (row < bottom[number])
        inside[number] = False
        inside &= parts.sides >= 0.3 * min(right[number] - left[number], bottom[number] - top[number])
        if inside.any():
            box = parts.labels[top[number] : bottom[number], left[number] : right[number]] == number + 1
            frames[number] = box[:, [0, -1]].mean() > 0.8 or box[[0, -1]].mean() > 0.8 or bool(inside.sum() > 1)
    return frames


def _stacked(box: npt.NDArray[np.intp], other: Box, usual: float) -> bool:
    """Whether two things are of one digit: most of the narrower lies above or below the other, close to it, and both
    together are no higher than a digit is."""
    left, top, right, bottom = map(int, box)
    shared = min(right, other.right) - max(left, other.left)
    gap = max(top, other.top) - min(bottom, other.bottom)
    height = max(bottom, other.bottom) - min(top, other.top)
    return shared >= 0.5 * min(right - left, other.right - other.left) and gap <= 0.25 * usual and height <= 1.6 * usual


def _in_reading_order(parts: Parts, digits: list[npt.NDArray[np.intp]]) -> list[npt.NDArray[np.intp]]:
    """By lines from above, each from the left. What overlaps a line's first by half of its height is in that line."""
    boxes = {number: _around(parts.boxes[group]) for number, group in enumerate(digits)}
    left, order = sorted(boxes, key=lambda number: boxes[number].top), []
    while left:
        first = boxes[left[0]]
        line = [
            number
            for number in left
            if min(first.bottom, boxes[number].bottom) - max(first.top, boxes[number].top)
            >= 0.4 * min(first.bottom - first.top, boxes[number].bottom - boxes[number].top)
        ]
        order += sorted(line, key=lambda number: boxes[number].left)
        left = [number for number in left if number not in line]
    return [digits[number] for number in order]


def _split(digit: Greys, usual: float) -> list[slice]:
    """The columns of each digit of some that touch: cut where they are least high, close to equal widths."""
    height, width = digit.shape
    count = min(round(width / max(1.0, TOUCHING * usual)), width // 8)
    if count < 2 or width < WIDER * height:
        return [slice(0, width)]
    inked = digit > 0
    high = np.where(inked.any(axis=0), height - inked.argmax(axis=0) - inked[::-1].argmax(axis=0), 0)
    cuts = [0]
    for number in range(1, count):
        middle, around = number * width / count, 0.25 * width / count
        places = np.arange(round(middle - around), round(middle + around) + 1)
        cuts.append(int(places[(high[places] + abs(places - middle)).argmin()]))
    return [slice(*ends) for ends in zip(cuts, [*cuts[1:], width], strict=True)]


TOUCHING: Final = 0.95  # of the usual height: the width of each of some that touch
WIDER: Final = 1.5  # times as wide as high, and more: digits that touch


def _around(boxes: npt.NDArray[np.intp]) -> Box:
    left, top = boxes[:, :2].min(axis=0).tolist()
    right, bottom = boxes[:, 2:].max(axis=0).tolist()
    return Box(left, top, right, bottom)


def _cut_out(ink: Greys, parts: Parts, chosen: npt.NDArray[np.intp], box: Box) -> tuple[Greys, Mask]:
    """The ink of these parts alone, with the grey of its edges; and where it is inked."""
    inside = np.s_[box.top : box.bottom, box.left : box.right]
    own = np.isin(parts.labels[inside], chosen + 1)
    edged = _largest(own.astype(np.uint8), 3).astype(np.bool_)
    digit = np.where(edged, ink[inside], 0)
    usual = max(1.0, float(np.percentile(digit[own], 80)))
    return np.clip(digit * (255 / usual), 0, 255).astype(np.uint8), own


def thick_enough(digit: Greys, own: Mask) -> Greys:
    """`digit`, its strokes made as wide as MNIST's thin ones are where they are thinner, as a mouse's are.

    A stroke's width is twice its area by its outline's length. What is thin is brought to some eighty pixels, in which no line
    is lost, and drawn with a round pen.
    """
    side = max(digit.shape)
    padded = np.pad(own, 1)
    outline = sum(int((np.diff(padded.astype(np.int8), axis=axis) != 0).sum()) for axis in (0, 1))
    width = 2 * own.sum() / outline * BOX / side  # as many pixels as it will have
    if width >= THIN or side <= BOX:
        return digit
    factor = max(1, side // FINE)
    shape = [-(-length // factor) * factor for length in digit.shape]
    even = np.pad(
        np.where(own, digit, 0), [(0, whole - length) for whole, length in zip(shape, digit.shape, strict=True)]
    )
    small = even.reshape(shape[0] // factor, factor, shape[1] // factor, factor).max(axis=(1, 3))
    radius = (THIN - width) / 2 * max(small.shape) / BOX - (factor - 1) / (2 * factor)
    return _drawn_round(small, max(0.0, radius))


THIN: Final = 2.0  # pixels of 20: strokes that are thinner are made so
FINE: Final = 80  # pixels at the least, of the longer side, on which they are


def _drawn_round(digit: Greys, radius: float) -> Greys:
    """The largest of the disc of `radius` pixels around each, with room for it at the border."""
    reach = int(np.ceil(radius))
    padded = np.pad(digit, 2 * reach)
    height, width = (side + 2 * reach for side in digit.shape)
    thick = np.zeros((height, width), np.uint8)
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            if down**2 + right**2 <= radius**2 + 0.25:
                moved = padded[reach + down : reach + down + height, reach + right : reach + right + width]
                np.maximum(thick, moved, out=thick)
    return thick


def _found(digit: Greys, own: Mask, box: Box, picture: Picture) -> Found:
    across, along = (full / side for full, side in zip(picture.size, picture.greys.shape[::-1], strict=True))
    seen = Box(int(box.left * across), int(box.top * along), round(box.right * across), round(box.bottom * along))
    return Found(boxed(thick_enough(digit, own)), seen)
