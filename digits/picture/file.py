"""From the bytes of a picture's file to its greys, upright."""

from __future__ import annotations

import io
import warnings
import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from digits.errors import PictureError
from digits.picture.ink import LEAST_CONTRAST, Greys

# Pillow warns of what is odd in a file and reads it nevertheless. A server's log is no place for that, and whether a warning
# is an error may not decide what is read.
warnings.filterwarnings("ignore", module=r"PIL\.")

LONGEST: Final = 1024  # pixels: a larger picture is reduced to less, and a digit of a twentieth of it still has fifty
MOST_SCANS: Final = 100  # of a progressive JPEG, which has some ten: each is a pass over the whole picture


@dataclass(frozen=True)
class Picture:
    """What a file shows, upright."""

    greys: Greys  # [height, width], perhaps reduced
    size: tuple[int, int]  # width and height that it has in the file, upright


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
