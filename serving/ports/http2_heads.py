"""Header blocks of HTTP/2: from fields to the head of a request, and from an answer to bytes. RFC 9113, 8, and RFC 7541."""

from __future__ import annotations

import re
from functools import lru_cache
from http import HTTPStatus
from typing import Final, Protocol

from hpack.table import HeaderTable

from serving.errors import Kind, RequestError, malformed
from serving.messages import Head, Headers
from serving.ports.hpack import Field
from serving.ports.http1 import METHOD_BYTES, ONCE, LocalError, content_length, is_host, read_target


class HeadLimits(Protocol):
    @property
    def head_bytes(self) -> int: ...
    @property
    def target_bytes(self) -> int: ...
    @property
    def headers(self) -> int: ...
    @property
    def body_bytes(self) -> int: ...


class Malformed(Exception):
    """A request is what RFC 9113, 8.1.1, calls malformed: its stream is reset."""


_PSEUDO: Final = frozenset({b":method", b":scheme", b":authority", b":path"})
_OF_CONNECTIONS: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
_METHOD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NAME: Final = re.compile(rb"[!-9;-@\[-~]+")  # 9113 8.2.1: visible, not upper case, no colon
_VALUE: Final = re.compile(rb"(?![ \t])[^\x00\n\r]*+(?<![ \t])")


def read_head(fields: list[Field], ends: bool, limits: HeadLimits, *, whole: bool) -> Head:
    """A request's head from its header block's fields.

    Args:
        ends: whether no body follows.
        whole: whether these are all fields: no more are kept than the limits allow.

    Raises:
        Malformed: its stream is to be reset.
        RequestError: it is refused with an answer.
    """
    if not whole:
        raise RequestError(
            Kind.HEAD_TOO_LARGE,
            f"The headers are longer than {limits.head_bytes} bytes, or more than {limits.headers}.",
        )
    pseudo: dict[bytes, bytes] = {}
    headers: dict[bytes, bytes] = {}
    twice = b""
    for name, value in fields:
        if name[:1] == b":":
            if headers or name in pseudo or name not in _PSEUDO:
                raise Malformed  # those four, once each, before all others
            pseudo[name] = value
            if _VALUE.fullmatch(value) is None:
                raise Malformed
            continue
        check_field(name, value)
        if name not in headers:
            headers[name] = value
        elif name == b"cookie":
            headers[name] += b"; " + value  # 8.2.3
        else:
            if name in ONCE:
                twice = name
            headers[name] += b", " + value
    method, path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    if not method or (method != b"CONNECT" and not (path and pseudo.get(b":scheme"))):
        raise Malformed
    if method == b"CONNECT" and (b":path" in pseudo or b":scheme" in pseudo):
        raise Malformed
    host = headers.get(b"host")
    authority = pseudo.get(b":authority", host)
    if host is not None and authority != host:
        raise Malformed
    if ends and headers.get(b"content-length", b"0").strip(b"0"):
        raise Malformed  # nothing comes

    if len(method) > METHOD_BYTES:
        raise RequestError(Kind.UNSUPPORTED, f"There is no method of more than {METHOD_BYTES} letters.")
    if _METHOD.fullmatch(method) is None:
        raise malformed("This is no method.")
    if len(path) > limits.target_bytes:
        raise RequestError(Kind.TARGET_TOO_LONG, f"The path and query are longer than {limits.target_bytes} bytes.")
    if twice:
        raise malformed(f"The header {twice.decode()} was expected once, came twice.")
    if not authority:
        raise malformed("An :authority was expected.")
    if not all(is_host(one) for one in authority.split(b",")):  # a gRPC client of several addresses names them all
        raise malformed("The :authority is not a host.")
    if path and not path.startswith(b"/") and path != b"*":
        raise malformed("A path was expected, such as /v2.")  # in :path, the whole URL is none
    decoded, query = read_target(method, path)
    headers[b"host"] = authority
    length = 0 if ends else None
    if b"content-length" in headers:
        length = content_length(headers[b"content-length"], limits.body_bytes)
    expects = not ends and headers.get(b"expect", b"").lower() == b"100-continue"
    return Head(method.decode(), path, decoded, query, headers, False, length, True, expects)


_NO_HEAD: Final = Head("", b"", "", "", {}, False, None, True, False)


def head_of_refused(fields: list[Field]) -> Head:
    """Of a request whose head is refused: what its answer needs."""
    said = dict(fields)
    kind = {name: said[name] for name in (b"content-type",) if name in said}
    return _NO_HEAD._replace(method=said.get(b":method", b"")[:METHOD_BYTES].decode("latin-1"), headers=kind)


def check_field(name: bytes, value: bytes) -> None:
    """Raises Malformed if it is no field of a request or of its trailers (8.2)."""
    if _NAME.fullmatch(name) is None:
        raise Malformed
    if _VALUE.fullmatch(value) is None:
        raise Malformed
    if name in _OF_CONNECTIONS or (name == b"te" and value != b"trailers"):
        raise Malformed  # 8.2.2: they are about a connection


# Writing an answer

_BODILESS: Final = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
_OWN: Final = frozenset({b"content-length", b"date"})  # that the machine says itself
_INDEXED_STATUS: Final = {200: 8, 204: 9, 206: 10, 304: 11, 400: 12, 404: 13, 500: 14}  # in the static table


@lru_cache(256)
def answer_block(status: int, headers: Headers, date: bytes, extra: bytes) -> tuple[bytes, bool]:
    """An answer's header block, and whether it has a body: then its length is to be added.

    Raises:
        LocalError: a header that is none, or a status that is no final one.
    """
    if not 200 <= status <= 999:
        raise LocalError(f"{status} is no status of an answer.")
    fields = [
        (name, value)
        for name, value in ((name.lower(), value) for name, value in headers)
        if name not in _OWN and name not in _OF_CONNECTIONS
    ]
    for line in (date + extra).splitlines():
        name, _, value = line.partition(b": ")
        fields.append((name, value))
    return header_block(status, tuple(fields)), status not in _BODILESS


def header_block(status: int | None, headers: Headers) -> bytes:
    """A header block, which leaves the client's table as it is. `status` is None in trailers; names are in lower case.

    Raises:
        LocalError: a header that is none.
    """
    block = b""
    if status is not None:
        index = _INDEXED_STATUS.get(status)
        block = b"\x08\x03%d" % status if index is None else bytes([0x80 | index])
    for name, value in headers:
        if _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
            raise LocalError(f"This is not a header: {name!r}: {value!r}.")
        found = HeaderTable.STATIC_TABLE_MAPPING.get(name)
        block += b"\x00" + _string(name) if found is None else _integer(found[0], 4)
        block += _string(value)
    return block


def _string(text: bytes) -> bytes:
    return _integer(len(text), 7) + text


def _integer(number: int, bits: int) -> bytes:
    """RFC 7541, 5.1; the bits before it are 0."""
    most = (1 << bits) - 1
    if number < most:
        return bytes([number])
    number -= most
    written = bytearray([most])
    while number >= 128:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)
