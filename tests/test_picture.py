"""From any picture to 28 by 28: every kind of file, every kind of bad one, and each step by what it is for."""

from __future__ import annotations

import io
import struct
import threading
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
from conftest import python
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy import ndimage

from digits.errors import PictureError
from digits.kinds import pictures
from digits.kinds.boxed import boxed
from digits.mnist import LabelledImages
from digits.picture.file import LONGEST, _mean_of_blocks, decode
from digits.picture.finding import THIN, find_digit, find_digits
from digits.picture.found import Box, Found
from digits.picture.ink import closing, from_flat_paper, otsu
from digits.picture.parts import connected

MOST: Final = 1_000_000  # pixels


def seven(size: tuple[int, int] = (120, 160), *, ink: Any = 20, paper: Any = 240, mode: str = "L") -> Image.Image:
    """A seven of thick strokes, in the middle of a page: its box is (30, 30, 90, 130) on the page of that size."""
    page = Image.new(mode, size, paper)
    pen = ImageDraw.Draw(page)
    pen.rectangle((30, 30, 89, 43), fill=ink)
    pen.polygon([(76, 44), (89, 44), (63, 129), (50, 129)], fill=ink)
    return page


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def found(body: bytes) -> Found:
    return find_digit(decode(body, max_pixels=MOST))


REFERENCE: Final = found(encoded(seven()))


def alike(image: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8] = REFERENCE.image) -> bool:
    """As near as what is compressed, or of few greys, comes: a tenth of the ink."""
    away = abs(image.astype(int) - other)
    return bool(away.sum() < 0.1 * other.sum())


def near(box: Box, other: tuple[int, int, int, int], by: int = 2) -> bool:
    return bool(np.abs(np.subtract(box, other)).max() <= by)


def test_a_digit_is_found_light_on_dark_in_a_box_of_twenty() -> None:
    assert near(REFERENCE.box, (30, 30, 90, 130), 1)
    rows, columns = (np.flatnonzero(REFERENCE.image.any(axis=axis)) for axis in (1, 0))
    assert (len(rows), len(columns)) == (20, 12)
    assert REFERENCE.image.max() == 255
    assert REFERENCE.image[0].max() == 0


# Good files


GOOD: Final[dict[str, Callable[[], bytes]]] = {
    "PNG": lambda: encoded(seven()),
    "PNG of one bit": lambda: encoded(seven(paper=1, ink=0, mode="1")),
    "PNG of grey and alpha": lambda: encoded(seven(paper=(240, 255), ink=(20, 255), mode="LA")),
    "PNG of a palette": lambda: encoded(seven().convert("P")),
    "PNG of a palette with a transparent colour": lambda: encoded(seven().quantize(2), transparency=1),
    "PNG of colours": lambda: encoded(seven().convert("RGB")),
    "PNG of sixteen bits": lambda: encoded(Image.fromarray(np.asarray(seven()).astype(np.uint16) * 257)),
    "PNG of sixteen bits, of which few are used": lambda: encoded(Image.fromarray(np.asarray(seven()) // np.uint16(2))),
    "PNG with a text that inflates": lambda: with_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(60_000_000))),
    "interlaced PNG": lambda: adam7(),
    "JPEG": lambda: encoded(seven(), "JPEG", quality=90),
    "JPEG of colours": lambda: encoded(seven().convert("RGB"), "JPEG", quality=90),
    "progressive JPEG": lambda: encoded(seven(), "JPEG", quality=90, progressive=True),
    "JPEG of CMYK": lambda: encoded(seven().convert("CMYK"), "JPEG", quality=90),
    "JPEG with a broken EXIF": lambda: encoded(seven(), "JPEG", quality=90, exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "WebP": lambda: encoded(seven().convert("RGB"), "WEBP", quality=90),
    "WebP without loss": lambda: encoded(seven().convert("RGB"), "WEBP", lossless=True),
    "animated WebP": lambda: encoded(seven().convert("RGB"), "WEBP", save_all=True, append_images=[blank()]),
    "BMP": lambda: encoded(seven(), "BMP"),
    "BMP of colours": lambda: encoded(seven().convert("RGB"), "BMP"),
    "GIF": lambda: encoded(seven(), "GIF"),
    "animated GIF": lambda: encoded(seven(), "GIF", save_all=True, append_images=[blank("L"), blank("L")], loop=0),
    "TIFF": lambda: encoded(seven(), "TIFF"),
    "TIFF of one bit as a fax": lambda: encoded(seven(paper=1, ink=0, mode="1"), "TIFF", compression="group4"),
    "TIFF with LZW": lambda: encoded(seven().convert("RGB"), "TIFF", compression="tiff_lzw"),
    "TIFF with JPEG": lambda: encoded(seven().convert("RGB"), "TIFF", compression="jpeg"),
    "TIFF of sixteen bits": lambda: encoded(Image.fromarray(np.asarray(seven()).astype(np.uint16) * 200), "TIFF"),
    "TIFF of thirty-two bits": lambda: encoded(seven().convert("I"), "TIFF"),
    "TIFF of numbers with a point": lambda: encoded(Image.fromarray(np.asarray(seven()) / np.float32(255)), "TIFF"),
    "TIFF of several pages": lambda: encoded(seven(), "TIFF", save_all=True, append_images=[blank("L")]),
}


def blank(mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (120, 160), "white")


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunk(name: bytes, data: bytes) -> bytes:
    """A PNG with a chunk more, before its pixels."""
    png = encoded(seven())
    at = png.index(b"IDAT") - 4
    return png[:at] + chunk(name, data) + png[at:]


def adam7() -> bytes:
    """Pillow reads it and does not write it: seven passes, each a picture of its own."""
    greys = np.asarray(seven())
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    lines = [
        b"\0" + line.tobytes() for row, column, down, across in passes for line in greys[row::down, column::across]
    ]
    header = struct.pack(">IIBBBBB", 120, 160, 8, 0, 0, 0, 1)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"".join(lines)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("name", GOOD)
def test_the_same_digit_is_found_in_every_kind_of_file(name: str) -> None:
    digit = found(GOOD[name]())
    assert alike(digit.image)
    assert near(digit.box, (30, 30, 90, 130))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_picture_is_turned_as_its_exif_says(kind: str, orientation: int) -> None:
    """Stored as Pillow turns a picture back that is shown so."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # of Image.Transpose, as each is undone
    page = Image.new("RGB", (200, 300), "white")
    page.paste(seven(), (70, 90))
    stored = page.transpose(Image.Transpose(back[orientation])) if orientation > 1 else page
    digit = found(encoded(stored, kind, exif=exif, **({"quality": 95} if kind in ("JPEG", "WEBP") else {})))
    assert alike(digit.image)
    assert near(digit.box, (100, 120, 160, 220))


def test_a_note_of_no_orientation_is_none() -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    assert alike(found(encoded(seven(), "JPEG", exif=exif, quality=95)).image)


@pytest.mark.parametrize(
    ("ink", "paper"),
    [
        (20, 240),
        (240, 20),
        ((200, 30, 30), (250, 250, 240)),
        ((30, 90, 200), (240, 220, 40)),
        ((0, 130, 0), (225, 0, 10)),
    ],
    ids=["dark on light", "light on dark", "red on white", "blue on yellow", "green on red"],
)
def test_ink_of_any_colour_is_found_on_paper_of_another(ink: Any, paper: Any) -> None:
    mode = "L" if isinstance(ink, int) else "RGB"
    assert alike(found(encoded(seven(ink=ink, paper=paper, mode=mode))).image)


def test_ink_as_bright_as_its_paper_is_found_by_its_colour() -> None:
    page = seven(ink=(0, 150, 0), paper=(255, 22, 22), mode="RGB")
    luminance = np.asarray(page.convert("L"))
    assert np.ptp(luminance) < 8
    assert alike(found(encoded(page)).image)


@pytest.mark.parametrize(
    "ink", [(0, 0, 0, 255), (255, 255, 255, 255), (200, 30, 30, 255)], ids=["black", "white", "red"]
)
def test_what_is_drawn_on_nothing_is_found_whatever_colour_lies_below(ink: tuple[int, ...]) -> None:
    digit = found(encoded(seven(ink=ink, paper=(0, 0, 0, 0), mode="RGBA")))
    assert alike(digit.image)


# Bad files


def png_of(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def tiff(*fields: tuple[int, int, int, int], end: bytes = b"") -> bytes:
    """Fields: tag, type, count, value or offset."""
    entries = b"".join(struct.pack("<HHII", *field) for field in sorted(fields))
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + struct.pack("<I", 0) + end


def tiff_of(width: int, height: int, *more: tuple[int, int, int, int]) -> bytes:
    fields = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 273: 200, 277: 1, 278: height, 279: 100}
    own = tuple((tag, 4, 1, value) for tag, value in fields.items() if tag not in {field[0] for field in more})
    return tiff(*own, *more, end=bytes(2000))


def jpeg_of(width: int, height: int) -> bytes:
    body = bytearray(encoded(Image.new("L", (16, 16)), "JPEG"))
    at = body.index(b"\xff\xc0") + 5
    body[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(body)


def gif_of(screen: tuple[int, int], frame: tuple[int, int]) -> bytes:
    """Its first frame is to be disposed of, for which Pillow would make room at once."""
    control = b"!\xf9\x04" + bytes([2 << 2, 0, 0, 0]) + b"\0"
    image = b"," + struct.pack("<HHHH", 0, 0, *frame) + b"\0\x02\x02L\x01\0;"
    return b"GIF89a" + struct.pack("<HH", *screen) + b"\x80\0\0" + bytes(6) + control + image


def webp_of(width: int, height: int) -> bytes:
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return b"RIFF" + struct.pack("<I", 200) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + sides + bytes(200)


TOO_LARGE: Final = {
    "PNG": png_of(60_000, 60_000),
    "JPEG": jpeg_of(60_000, 60_000),
    "GIF by its screen": gif_of((60_000, 60_000), (1, 1)),
    "GIF by its frame": gif_of((1, 1), (12_000, 12_000)),
    "WebP": webp_of(16_000, 16_000),
    "WebP without loss": b"RIFF\0\0\0\0WEBPVP8L"
    + b"\0\0\0\0\x2f"
    + struct.pack("<I", 16_000 | 16_000 << 14)
    + bytes(99),
    "WebP with loss": b"RIFF\0\0\0\0WEBPVP8 "
    + bytes(7)
    + b"\x9d\x01\x2a"
    + struct.pack("<HH", 16_000, 16_000)
    + bytes(99),
    "BMP": b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(99),
    "TIFF": tiff_of(60_000, 60_000),
    "TIFF by its tiles": tiff_of(10, 10, (322, 4, 1, 32_768), (323, 4, 1, 32_768), (324, 4, 1, 200), (325, 4, 1, 9)),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(
            PictureError, match=r"has \d+ x \d+ pixels, and 1,000,000 are the most. Send a smaller one"
        ) as refused:
            decode(TOO_LARGE[name], max_pixels=MOST)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert refused.value.too_large
    assert not refused.value.unknown


def test_as_many_pixels_as_may_be_are_read_and_one_more_is_not() -> None:
    body = encoded(seven())
    assert decode(body, max_pixels=120 * 160).size == (120, 160)
    with pytest.raises(PictureError):
        decode(body, max_pixels=120 * 160 - 1)


def test_nothing_of_a_picture_too_large_is_decoded_and_pillow_warns_of_none() -> None:
    """In a process of its own, where every warning is an error: the largest that Pillow would warn of, and read."""
    code = f"""
import resource, sys, warnings
warnings.simplefilter("error")
from digits.picture.file import decode
from digits.errors import PictureError
with open("/proc/self/statm") as pages:
    most = int(pages.read().split()[0]) * resource.getpagesize() + 60_000_000
resource.setrlimit(resource.RLIMIT_AS, (most, most))
for body in {[gif_of((1, 1), (10_000, 10_000)), webp_of(10_000, 10_000), png_of(10_000, 10_000), tiff_of(10_000, 10_000)]!r}:
    try:
        decode(body, max_pixels=50_000_000)
    except PictureError as error:
        assert error.too_large, error
    else:
        raise SystemExit("read")
print("refused")
"""
    assert python(code).strip() == "refused"


UNKNOWN: Final = {
    "nothing": (b"", "this is empty. Send the bytes of the file."),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "this is an SVG drawing. Export it as PNG."),
    "SVG after its declaration": (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- -->\n<svg/>", "this is an SVG drawing."),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3", "this is a PDF document. Export its page as PNG."),
    "HTML": (b"\n<!DOCTYPE html><html>", "this is a web page. Send the picture itself"),
    "text": ("Zahl: sieben, größer".encode(), "this is text. Send the bytes of the file."),
    "JSON": (b'{"images": [[[0]]]}', "this is text."),
    "text cut within a letter": (("x" * 999 + "ö").encode(), "this is text."),
    "a data URL": (b"data:image/png;base64,iVBORw0KGgo=", "this is a data URL. Send the bytes that it encodes."),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "this is a HEIC photograph. Export it as JPEG"),
    "AVIF": (encoded(Image.new("L", (8, 8)), "AVIF"), "this is an AVIF picture. Export it as PNG or JPEG."),
    "a film": (b"\0\0\0\x18ftypisom\0\0\0\0", "this is a film or another file of that family. Send one frame"),
    "JPEG XL": (b"\xff\x0a\xfa\x7f", "this is a JPEG XL picture."),
    "JPEG 2000": (encoded(Image.new("L", (8, 8)), "JPEG2000"), "this is a JPEG 2000 picture."),
    "an icon": (encoded(Image.new("L", (16, 16)), "ICO"), "this is an icon."),
    "a ZIP archive": (b"PK\x03\x04\x14\0", "this is a ZIP archive or an office document."),
    "gzip": (b"\x1f\x8b\x08\0", "this is a gzip file."),
    "a sound": (b"RIFF\0\0\0\0WAVEfmt ", "this is something that begins with the bytes 52 49 46 46 00 00 00 00"),
    "bytes": (
        bytes([7, 200, 0, 3]),
        "this is something that begins with the bytes 07 c8 00 03. Export it as PNG or JPEG.",
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_no_picture_is_named_with_what_to_do(name: str) -> None:
    body, expected = UNKNOWN[name]
    with pytest.raises(PictureError) as refused:
        decode(body, max_pixels=MOST)
    assert str(refused.value).startswith("Expected a picture: PNG, JPEG, WebP, BMP, GIF or TIFF; this is ")
    assert expected in str(refused.value)
    assert refused.value.unknown
    assert not refused.value.too_large


SMALL: Final = {
    "PNG": encoded(seven()),
    "JPEG": encoded(seven().convert("RGB"), "JPEG"),
    "WebP": encoded(seven().convert("RGB"), "WEBP"),
    "BMP": encoded(seven(), "BMP"),
    "GIF": encoded(seven(), "GIF"),
    "TIFF": encoded(seven(), "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7])
def test_a_truncated_file_is_refused(name: str, share: float) -> None:
    body = SMALL[name]
    with pytest.raises(PictureError) as refused:
        decode(body[: max(20, int(share * len(body)))], max_pixels=MOST)
    assert not refused.value.unknown
    assert not refused.value.too_large


def test_a_png_without_its_end_is_refused() -> None:
    with pytest.raises(PictureError, match="The PNG is truncated: it ends after"):
        decode(SMALL["PNG"][:-12], max_pixels=MOST)


def test_a_png_in_which_one_bit_is_another_is_refused() -> None:
    """Pillow itself reads it."""
    body = bytearray(SMALL["PNG"])
    body[body.index(b"IDAT") + 30] ^= 1
    with pytest.raises(
        PictureError, match=r"The PNG is broken: the checksum of its chunk at byte 33 is wrong. Send it again."
    ):
        decode(bytes(body), max_pixels=MOST)


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    body = encoded(seven(), "JPEG", progressive=True)
    last = body.rindex(b"\xff\xda")
    scan = body[last:-2]
    with pytest.raises(PictureError, match="The JPEG has 2006 scans; ten are usual"):
        decode(body[:-2] + 2000 * scan + body[-2:], max_pixels=MOST)


def test_a_tiff_whose_tags_are_larger_than_itself_takes_no_room() -> None:
    """60,000 tags, each of which says that the same megabyte is its own."""
    tags = [(1000 + number, 1, 1_000_000, 800_000) for number in range(60_000)]
    body = tiff(*((tag, 4, 1, 10) for tag in (256, 257)), *tags, end=bytes(1_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(PictureError):
            decode(body, max_pixels=MOST)
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


def test_pictures_are_read_in_threads_beside_each_other() -> None:
    results: dict[tuple[str, int], Found] = {}

    def read(name: str, turn: int) -> None:
        results[name, turn] = found(SMALL[name])

    threads = [threading.Thread(target=read, args=(name, turn)) for turn in range(3) for name in SMALL]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(threads)
    assert all(alike(digit.image) for digit in results.values())


def _says(body: bytes) -> None:
    """A picture in which something or nothing is found, or an error for a person."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module=r"PIL\.")
        said = ""
        try:
            shown = decode(body, max_pixels=MOST)
            assert shown.greys.dtype == np.uint8
            for digit in (find_digit(shown), *find_digits(shown)):
                assert digit.image.shape == (28, 28)
                assert digit.image.max() == 255
                assert 0 <= digit.box.left < digit.box.right <= shown.size[0]
                assert 0 <= digit.box.top < digit.box.bottom <= shown.size[1]
        except PictureError as error:
            said = str(error)
        assert not said or 20 < len(said) < 400


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([b"", *(body[:length] for body in SMALL.values() for length in (4, 12, 60))]),
    st.binary(max_size=300),
)
def test_any_bytes_are_read_or_refused(start: bytes, rest: bytes) -> None:
    _says(start + rest)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([*SMALL]), st.floats(0, 1))
def test_a_file_cut_anywhere_is_read_or_refused(name: str, share: float) -> None:
    _says(SMALL[name][: int(share * len(SMALL[name]))])


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*SMALL]), st.floats(0, 1, exclude_max=True), st.integers(0, 255))
def test_a_file_with_any_byte_changed_is_read_or_refused(name: str, share: float, value: int) -> None:
    body = bytearray(SMALL[name])
    body[int(share * len(body))] = value
    _says(bytes(body))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 40, 256]))
def test_a_picture_of_any_size_holds_a_digit_or_none(width: int, height: int, seed: int, greys: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, greys, (height, width)) * (255 // (greys - 1))
    _says(encoded(Image.fromarray(pixels.astype(np.uint8))))


# Large ones


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF"])
def test_a_large_picture_is_reduced_and_its_boxes_are_those_of_the_whole(kind: str) -> None:
    page = Image.new("L", (3600, 2400), 240)
    page.paste(seven().resize((1200, 1600)), (1000, 400))
    shown = decode(encoded(page, kind), max_pixels=10_000_000)
    assert max(shown.greys.shape) <= LONGEST
    assert shown.size == (3600, 2400)
    digit = find_digit(shown)
    assert alike(digit.image)
    assert near(digit.box, (1300, 700, 1900, 1700), 8)


def test_numbers_are_reduced_by_the_mean_of_blocks() -> None:
    numbers = np.random.default_rng(1).random((7, 11)).astype(np.float32)
    means = _mean_of_blocks(numbers, 3)
    expected = [
        [numbers[row : row + 3, column : column + 3].mean() for column in range(0, 11, 3)] for row in range(0, 7, 3)
    ]
    np.testing.assert_allclose(means, expected, rtol=1e-6)


# The steps


def test_otsus_threshold_is_the_one_with_the_largest_variance_between_the_classes() -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        greys = random.normal(random.integers(40, 90), 20, 5000).clip(0, 255)
        greys[: random.integers(100, 2500)] += random.integers(40, 120)
        greys = greys.clip(0, 255).astype(np.uint8).reshape(50, 100)

        def between(threshold: int, greys: Any = greys) -> float:
            below, above = greys[greys < threshold], greys[greys >= threshold]
            if not len(below) or not len(above):
                return 0.0
            return float(len(below) * len(above) * (below.mean() - above.mean()) ** 2)

        best = max(map(between, range(256)))
        assert between(otsu(greys)) == pytest.approx(best)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.45, 0.7])
def test_what_hangs_together_is_as_scipy_says(share: float) -> None:
    for seed in range(8):
        random = np.random.default_rng(seed)
        mask = random.random(random.integers(1, 90, 2)) < share
        labels, boxes = connected(mask)
        expected, count = ndimage.label(mask, np.ones((3, 3)))
        np.testing.assert_array_equal(labels, expected)
        slices = ndimage.find_objects(expected)
        assert len(boxes) == count
        for box, (rows, columns) in zip(boxes.tolist(), slices, strict=True):
            assert box == [columns.start, rows.start, columns.stop, rows.stop]


def test_a_spiral_is_one_part() -> None:
    """The longest way from run to run that there is."""
    mask = np.zeros((101, 101), np.bool_)
    row = column = 0
    steps_to_go, turn = 100, 0
    mask[0, 0] = True
    down, right = (0, 1, 0, -1), (1, 0, -1, 0)
    while steps_to_go > 1:
        for _ in range(steps_to_go):
            row, column = row + down[turn % 4], column + right[turn % 4]
            mask[row, column] = True
        turn += 1
        if turn % 2 == 1 and turn > 1:
            steps_to_go -= 2
    labels, boxes = connected(mask)
    assert len(boxes) == ndimage.label(mask, np.ones((3, 3)))[1]
    assert labels.max() == len(boxes)


@pytest.mark.parametrize("side", [3, 4, 11, 60])
def test_the_closing_is_scipys(side: int) -> None:
    greys = np.random.default_rng(side).integers(0, 256, (37, 52)).astype(np.uint8)
    window = side // 2 * 2 + 1
    dilated = ndimage.maximum_filter(greys, window, mode="constant", cval=0)
    expected = ndimage.minimum_filter(dilated, window, mode="constant", cval=255)
    np.testing.assert_array_equal(closing(greys, side), expected)


def page(kind: str, *, light: bool) -> Image.Image:
    """A page of 300 by 300 with the seven, under a light or beside something; as on a board where the ink is light."""
    greys = np.full((300, 300), 235.0)
    greys[70:230, 90:210] = np.asarray(seven(paper=235))
    if light and kind in ("a gradient", "a shadow across it"):
        greys, light = 255 - greys, False  # the light falls on the board
    rows, columns = np.mgrid[:300, :300]
    match kind:
        case "a gradient":
            greys *= 1 - 0.7 * columns / 300
        case "a shadow across it":
            greys[columns + rows > 290] *= 0.45
        case "noise":
            greys += np.random.default_rng(1).normal(0, 12, greys.shape)
        case "a page's edge":
            greys[:, :22], greys[-18:] = 40, 30
        case "specks":
            for row, column in np.random.default_rng(2).integers(5, 290, (40, 2)):
                greys[row : row + 2, column : column + 2] = np.minimum(greys[row : row + 2, column : column + 2], 60)
        case "lines as dark as the ink":
            greys[40::60] = np.minimum(greys[40::60], 25)
            greys[41::60] = np.minimum(greys[41::60], 25)
        case "lines of the same pen":
            for row in range(55, 300, 60):
                greys[row : row + 2] = 20
        case "pale lines":
            greys[:, 15::30] = np.minimum(greys[:, 15::30], 150)
            greys[15::30] = np.minimum(greys[15::30], 150)
        case "a hat of its own":
            greys[115:119] = 235
    return Image.fromarray((255 - greys if light else greys).clip(0, 255).astype(np.uint8))


CASES: Final = (
    *("a gradient", "a shadow across it", "noise", "a page's edge", "specks", "lines as dark as the ink", "pale lines"),
    *("lines of the same pen", "a hat of its own"),
)


@pytest.mark.parametrize("light", [False, True], ids=["dark ink", "light ink"])
@pytest.mark.parametrize("kind", CASES)
def test_a_digit_is_found_under_or_beside(kind: str, light: bool) -> None:
    digit = found(encoded(page(kind, light=light)))
    assert near(digit.box, (120, 100, 180, 200), 5)
    away = abs(digit.image.astype(int) - REFERENCE.image).sum() / REFERENCE.image.sum()
    assert away < (0.6 if light and kind == "a shadow across it" else 0.25)  # chalk in shadow is grey


def test_a_digit_that_touches_the_border_is_found_whole() -> None:
    tight = seven().crop((30, 30, 90, 130))
    digit = found(encoded(tight))
    assert digit.box == (0, 0, 60, 100)
    assert alike(digit.image)


def test_paper_is_of_one_grey_unless_what_is_left_is_no_stroke() -> None:
    plain = np.asarray(page("a digit alone", light=False))
    assert from_flat_paper(plain) is not None
    rows, columns = np.mgrid[:300, :300]
    for shadow in (rows + columns < 130, (abs(rows - 250) < 48) & (abs(columns - 50) < 45), rows < 160):
        shaded = np.where(shadow, plain * 0.5, plain).astype(np.uint8)
        assert from_flat_paper(shaded) is None
    bold = Image.new("L", (80, 100), 240)
    ImageDraw.Draw(bold).ellipse((0, 0, 79, 99), outline=20, width=27)
    cut_out = from_flat_paper(np.asarray(bold))  # thicker than a quarter, and it touches all four sides
    assert cut_out is not None
    assert cut_out[50, 10] == 220


def test_a_thin_line_of_a_large_drawing_is_as_wide_as_a_pen() -> None:
    drawing = Image.new("L", (600, 600), 255)
    ImageDraw.Draw(drawing).line([(200, 100), (400, 100), (280, 500)], fill=0, width=3)
    image = found(encoded(drawing)).image
    upright = image[16] / 255
    assert upright.sum() == pytest.approx(THIN, abs=0.8)
    assert upright.max() > 0.9


def test_the_grey_of_an_edge_is_kept_though_it_is_no_ink() -> None:
    """A bar of twenty pixels, so that nothing is scaled, with a fifth of its ink in a column beside it."""
    greys = np.full((40, 40), 250, np.uint8)
    greys[10:30, 15:19], greys[10:30, 19] = 0, 200
    image = found(encoded(Image.fromarray(greys))).image
    row = image[14][image[14] > 0]
    assert row.tolist() == [255, 255, 255, 255]
    greys[12:20, 19:24], greys[11, 19:24], greys[20, 19:24] = 0, 200, 200
    image = found(encoded(Image.fromarray(greys))).image
    column = image[:, np.flatnonzero(image.any(axis=0))[-1]]
    assert 40 <= column[column > 0].min() <= 62
    assert column.max() == 255


def test_what_is_blank_is_said_to_be() -> None:
    for grey in (0, 128, 255):
        with pytest.raises(
            PictureError, match="The picture is blank: nothing on it stands out from its paper"
        ) as refused:
            found(encoded(Image.new("L", (50, 60), grey)))
        assert not refused.value.unknown
    faint = np.random.default_rng(1).integers(230, 245, (80, 90)).astype(np.uint8)
    with pytest.raises(PictureError, match="blank"):
        found(encoded(Image.fromarray(faint)))
    with pytest.raises(PictureError, match="blank"):
        find_digits(decode(encoded(Image.new("1", (9, 9))), max_pixels=MOST))


# Several


def sheet(places: list[tuple[int, int]], size: tuple[int, int] = (700, 420)) -> Image.Image:
    shown = Image.new("L", size, 240)
    digit = seven().crop((30, 30, 90, 130))
    for place in places:
        shown.paste(digit, place)
    return shown


def many(image: Image.Image) -> list[Found]:
    return find_digits(decode(encoded(image), max_pixels=MOST))


def test_digits_come_line_by_line_from_the_left() -> None:
    places = [(40, 52), (200, 40), (360, 60), (50, 250), (220, 262), (600, 240)]
    digits = many(sheet(places[::-1]))
    assert [(one.box.left, one.box.top) for one in digits] == places
    assert all(alike(one.image) for one in digits)


def test_a_digit_alone_is_one_of_many() -> None:
    (digit,) = many(seven())
    np.testing.assert_array_equal(digit.image, REFERENCE.image)
    assert digit.box == REFERENCE.box


def test_a_fives_hat_is_a_part_of_it() -> None:
    shown = sheet([(40, 50), (200, 50), (360, 50)])
    ImageDraw.Draw(shown).rectangle((200, 66, 320, 70), fill=240)  # through the second
    digits = many(shown)
    assert len(digits) == 3
    assert near(digits[1].box, (200, 50, 260, 150))


def test_frames_of_a_form_are_no_digits() -> None:
    shown = sheet([(40, 50), (200, 50), (360, 50)])
    for left in (10, 170, 330):
        ImageDraw.Draw(shown).rectangle((left, 20, left + 120, 180), outline=60, width=3)
    assert [one.box.left for one in many(shown)] == [40, 200, 360]


def test_a_grid_around_digits_is_none() -> None:
    shown = sheet([(50, 50), (200, 50), (50, 250), (200, 250)])
    pen = ImageDraw.Draw(shown)
    for place in (10, 160, 310):
        pen.line((place, 10, place, 410), fill=60, width=3)
    for place in (10, 210, 410):
        pen.line((10, place, 310, place), fill=60, width=3)
    assert [(one.box.left, one.box.top) for one in many(shown)] == [(50, 50), (200, 50), (50, 250), (200, 250)]


def test_digits_that_touch_are_cut_apart() -> None:
    shown = Image.new("L", (700, 300), 240)
    pen = ImageDraw.Draw(shown)
    for left in (100, 196):
        pen.ellipse((left, 100, left + 100, 200), outline=20, width=12)
    pen.rectangle((450, 100, 462, 200), fill=20)
    digits = many(shown)
    assert len(digits) == 3
    assert near(digits[0].box, (100, 100, 199, 200), 5)
    assert near(digits[1].box, (199, 100, 297, 200), 5)


def test_a_frame_around_nothing_but_another_is_what_there_is() -> None:
    shown = Image.new("L", (200, 200), 240)
    ImageDraw.Draw(shown).rectangle((20, 20, 180, 180), outline=20, width=5)
    ImageDraw.Draw(shown).rectangle((40, 40, 160, 160), outline=20, width=5)
    assert len(many(shown)) >= 1


def test_specks_beside_digits_are_none() -> None:
    shown = sheet([(40, 50), (200, 50)])
    shown.paste(20, (400, 100, 405, 105))
    assert len(many(shown)) == 2


def test_more_than_64_that_touch_are_refused() -> None:
    shown = Image.new("L", (1000, 600), 240)
    pen = ImageDraw.Draw(shown)
    for number in range(35):
        left, top = 10 + 120 * (number % 8), 10 + 70 * (number // 8)
        pen.ellipse((left, top, left + 50, top + 50), outline=20, width=6)
        pen.ellipse((left + 48, top, left + 98, top + 50), outline=20, width=6)
    with pytest.raises(PictureError, match="Expected at most 64 digits on a picture, and there are 70"):
        many(shown)


def test_more_than_64_digits_are_refused() -> None:
    spots = [(20 + 70 * (number % 13), 20 + 110 * (number // 13)) for number in range(65)]
    with pytest.raises(PictureError, match="Expected at most 64 digits on a picture, and there are 65"):
        many(sheet(spots, (950, 600)))
    assert len(many(sheet(spots[:64], (950, 600)))) == 64


# As kinds


@pytest.mark.parametrize(
    "name", ["white_on_black", "photographed", "in_shadow", "ruled", "mouse", "scanned", "cropped", "tiny"]
)
def test_handwriting_is_found_again_in_pictures_of_it(name: str, test_set: LabelledImages) -> None:
    """By its likeness to the images that they were made of, boxed again; what is turned or slanted is less alike."""
    images = test_set.images[:40]
    again = pictures.found_again(getattr(pictures, name), images, np.random.default_rng(1))
    straight = np.array([boxed(image) for image in images])
    likeness = [np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(again, straight, strict=True)]
    assert np.mean(np.array(likeness) > 0.5) >= 0.9
