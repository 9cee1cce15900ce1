"""/classify and /compare: a picture in, however clients send one, and what models make of it out. Every refusal says why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

import orjson
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from digits.card import Card
from digits.contract import Images, Probabilities
from digits.errors import PictureError
from digits.picture.found import Box, Found
from serving.errors import Kind, RequestError, malformed

MULTIPART: Final = b"multipart/form-data"
JSON: Final = b"application/json"
# What curl --data-binary says by itself, whatever it sends.
CURLS: Final = b"application/x-www-form-urlencoded"
MAX_PARAMETERS: Final = 16  # of a query; more are not looked at
IMAGE_TYPES: Final = tuple(
    f"image/{name}" for name in ("png", "jpeg", "webp", "bmp", "gif", "tiff")
)  # for the document

Headers = Mapping[bytes, bytes]


class Asked(NamedTuple):
    """What the query says."""

    many: bool = False  # every digit of the picture, not one
    image: bool = False  # the answer shows what the model saw
    model: str | None = None  # recipe or recipe.backend


class Row(NamedTuple):
    """What one model answered to one image."""

    model: str  # recipe:version
    recipe: str
    backend: str
    card: Card
    probabilities: Probabilities  # [1, 10]
    run_ns: int
    accuracy: float


def read_query(query: str, *takes: str) -> Asked:
    """What a query such as `many=true&model=torch-conv` asks for.

    Args:
        takes: the parameters that there are.

    Raises:
        RequestError: 400, one is unknown, comes twice or has a value that makes no sense.
    """
    if not query:
        return Asked()
    found: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS, errors="strict")
    except ValueError as error:
        raise malformed(f"The query cannot be read; it takes {_named(takes)}.") from error
    for name, value in pairs:
        if name not in takes:
            raise malformed(f"The query has no parameter {name[:20]!r}; it takes {_named(takes)}.")
        if name in found:
            raise malformed(f"The parameter {name} comes twice; send it once.")
        found[name] = value if name == "model" else _flag(name, value)
    return Asked(**found)


def _named(takes: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(takes[:-1]), takes[-1])))


def _flag(name: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise malformed(f"The parameter {name} takes true or false; got {value[:20]!r}.")
    return value == "true"


def check_type(headers: Headers, *, json: bool = False) -> None:
    """Whether a body with these headers can be a picture, or where `json` says so a JSON document.

    Raises:
        RequestError: 415, it cannot; 400, the header makes no sense.
    """
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise RequestError(Kind.MEDIA_TYPE, "The body must not be compressed; send it as it is.")
    kind = media_type(headers)
    if kind == MULTIPART:
        _boundary(headers)
    elif not (
        kind.startswith(b"image/") or kind in (b"", b"application/octet-stream", CURLS) or (json and kind == JSON)
    ):
        came = kind[:60].decode("latin-1")
        also = ", or application/json with one image" if json else ""
        raise RequestError(
            Kind.MEDIA_TYPE,
            f"Expected a picture: its bytes as image/png or the like, or one file in multipart/form-data{also}; "
            f"got {came!r}.",
        )


def media_type(headers: Headers) -> bytes:
    """Of the body, in lower case, without its parameters; empty if nothing is said."""
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def read_picture(body: bytes, headers: Headers) -> bytes:
    """The bytes of the picture in a body: all of it, or its one file where it is multipart/form-data.

    Raises:
        RequestError: 400, there is none, or more than one.
    """
    picture = _read_file(body, _boundary(headers)) if media_type(headers) == MULTIPART else body
    if not picture:
        raise malformed("The picture is empty: 0 bytes came. Send a file's bytes.")
    return picture


def _boundary(headers: Headers) -> bytes:
    boundary = parse_options_header(headers[b"content-type"])[1].get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:  # RFC 2046, 5.1.1
        raise malformed("multipart/form-data needs a boundary of 1 to 70 characters; let the client make the header.")
    return boundary


class _Parts:
    """Follows a multipart body: what each part is, and where the file's bytes are. Nothing is copied but these."""

    def __init__(self) -> None:
        self.file: bytearray | None = None
        self.ended = False
        self._name = bytearray()
        self._value = bytearray()
        self._headers: dict[bytes, bytes] = {}

    def callbacks(self) -> dict[str, Any]:
        return {
            "on_part_begin": self._headers.clear,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin,
            "on_part_data": self._take,
            "on_end": self._end,
        }

    def _end_header(self) -> None:
        name = bytes(self._name).lower()
        if name in self._headers:
            raise malformed("A part of the form has a header twice.")
        self._headers[name] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _begin(self) -> None:
        disposition, parameters = parse_options_header(self._headers.get(b"content-disposition", b""))
        if disposition != b"form-data":
            raise malformed("Each part of a form needs a header Content-Disposition: form-data.")
        if b"filename" not in parameters:  # which every client gives a file, and no other field
            field = parameters.get(b"name", b"")[:20].decode("latin-1")
            raise malformed(
                f"The form has a field {field!r} that is no file; send the picture alone. many, image and model go into "
                "the query; with curl: -F file=@picture.png, with the @."
            )
        if self.file is not None:
            raise malformed("The form has more than one file; send one picture in each request.")
        encoding = self._headers.get(b"content-transfer-encoding", b"binary").strip().lower()
        if encoding not in (b"binary", b"8bit", b"7bit"):
            raise malformed("The file in the form must be sent as it is, not encoded (RFC 7578, 4.7).")
        self.file = bytearray()

    def _take(self, data: bytes, start: int, end: int) -> None:
        assert self.file is not None  # `_begin` was called
        self.file += memoryview(data)[start:end]

    def _end(self) -> None:
        self.ended = True


def _read_file(body: bytes, boundary: bytes) -> bytes:
    """The contents of the one file in a form."""
    parts = _Parts()
    parser = MultipartParser(boundary, parts.callbacks())  # type: ignore[arg-type]
    try:
        parser.write(body)
    except FormParserError as error:
        raise malformed("The body is not multipart/form-data with the boundary that the header names.") from error
    if not parts.ended:
        raise malformed("The form does not end with its boundary: part of it is missing. Send it again.")
    if parts.file is None:
        raise malformed("The form has no file; with curl: -F file=@picture.png")
    return bytes(parts.file)


def refused_picture(error: PictureError, headers: Headers) -> RequestError:
    """What is said of a picture that cannot be read, or in which there is nothing."""
    if error.too_large:
        return RequestError(Kind.TOO_LARGE, str(error))
    if not error.unknown:
        return malformed(str(error))
    advice = ""
    if media_type(headers) == CURLS:
        advice = " With curl: --data-binary @picture.png, not -d, which changes the bytes; or -F file=@picture.png."
    return RequestError(Kind.MEDIA_TYPE, f"{error}{advice}")


def write_classified(
    found: Sequence[Found], probabilities: Probabilities, *, model: str, backend: str, card: Card, image: bool
) -> bytes:
    """The answer of /classify: each digit that was found, with the model's probabilities `[N, 10]`."""
    predictions = _predictions(probabilities, card)
    for one, prediction in zip(found, predictions, strict=True):
        prediction["box"] = list(one.box)
        if image:
            prediction["image"] = one.image.tolist()
    return orjson.dumps({"model": model, "backend": backend, "predictions": predictions})


def write_compared(image: Images, box: Box | None, rows: Sequence[Row], *, show: bool) -> bytes:
    """The answer of /compare: an image `[28, 28]`, where it was, and what each model makes of it."""
    answers = []
    for row in rows:
        (prediction,) = _predictions(row.probabilities, row.card)
        answers.append(
            {"model": row.model, "recipe": row.recipe, "backend": row.backend}
            | prediction
            | {"run_ms": row.run_ns / 1e6, "accuracy": row.accuracy}
        )
    document: dict[str, Any] = {"image": image.tolist()} if show else {}
    document |= {"box": None if box is None else list(box), "answers": answers, "note": "asked one after another"}
    return orjson.dumps(document)


def _predictions(probabilities: Probabilities, card: Card) -> list[dict[str, Any]]:
    """Of each image: the most probable digit, and whether to believe it, by the model's own calibration."""
    sure: list[bool | None] = [None] * len(probabilities)
    if card.confidence is not None:
        probabilities = card.confidence.calibrated(probabilities)
        sure = card.confidence.believes(probabilities).tolist()
    digits = probabilities.argmax(axis=1).tolist()
    return [
        {"digit": digit, "sure": believed, "probability": row[digit], "probabilities": row}
        for digit, believed, row in zip(digits, sure, probabilities.tolist(), strict=True)
    ]
