"""A small HTTP/1.1 client over a bare socket: whole requests, pipelined ones, and whatever bytes a test wants to send."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPMethod, HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self
from urllib.parse import urlsplit

TIMEOUT_SECONDS: Final = 30.0
_WITHOUT_BODY: Final = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}
_NO_HEADERS: Final[Mapping[str, str]] = {}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage  # a name is found in any case
    body: bytes


class Client:
    """One connection, kept; to be closed, as by `with`. Whatever goes wrong with it is an OSError."""

    def __init__(self, url: str, *, ca_file: Path | None = None, timeout: float = TIMEOUT_SECONDS) -> None:
        """Connects.

        Args:
            url: http:// or https://, a host and a port; what comes after is ignored.
            ca_file: whose signature a server's certificate must have; None: one that this machine trusts.
            timeout: seconds to wait for each piece of an answer.
        """
        host, secure = connect(url, ca_file=ca_file, timeout=timeout)
        self._host, self.socket = host, secure
        self._answers = self.socket.makefile("rb")

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = _NO_HEADERS) -> Answer:
        """The final answer to a request."""
        self.send(request_bytes(method, path, body, {"Host": self._host, **headers}))
        while (answer := self.read(head=method == HTTPMethod.HEAD)).status < HTTPStatus.OK:
            pass
        return answer

    def send(self, sent: bytes) -> None:
        self.socket.sendall(sent)

    def read(self, *, head: bool = False) -> Answer:
        """The next answer, also an interim one; `head`: to a HEAD request, and so without a body."""
        return read_answer(self._answers, head=head)

    def close(self) -> None:
        self._answers.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def get(url: str, *, ca_file: Path | None = None, timeout: float = TIMEOUT_SECONDS) -> Answer:
    """What a GET of `url` gives, over a connection of its own. Raises OSError."""
    parts = urlsplit(url)
    with Client(url, ca_file=ca_file, timeout=timeout) as client:
        return client.ask("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))


def connect(url: str, *, ca_file: Path | None = None, timeout: float = TIMEOUT_SECONDS) -> tuple[str, socket.socket]:
    """What `Host` says, and a connection, which sends at once and speaks TLS if the URL does. Raises OSError."""
    parts = urlsplit(url)
    assert parts.hostname is not None, f"{url} names no host"
    secure = parts.scheme == "https"
    connection = socket.create_connection((parts.hostname, parts.port or (443 if secure else 80)), timeout=timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not secure:
        return parts.netloc, connection
    try:
        context = ssl.create_default_context(cafile=ca_file)
        return parts.netloc, context.wrap_socket(connection, server_hostname=parts.hostname)
    except BaseException:
        connection.close()
        raise


def request_bytes(method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """A whole request with these headers, and the length of `body` unless they tell it or it has none."""
    names = {name.lower() for name in headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if not names & {"content-length", "transfer-encoding"} and (body or method in ("POST", "PUT", "PATCH")):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def read_answer(answers: BinaryIO, *, head: bool = False) -> Answer:
    """The next answer of a connection, also an interim one; `head`: to a HEAD request, and so without a body.

    Raises:
        ConnectionError: the connection ended before the answer did, or what came is none.
    """
    line = answers.readline(65_536)
    version, _, rest = line.partition(b" ")
    if not line.endswith(b"\n") or version not in (b"HTTP/1.1", b"HTTP/1.0") or not rest[:3].isdigit():
        raise ConnectionError(f"expected an answer of HTTP/1.1, got {line[:200]!r}")
    status = int(rest[:3])
    try:
        headers = http.client.parse_headers(answers)
        if head or status < HTTPStatus.OK or status in _WITHOUT_BODY:
            body = b""
        elif headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = _read_chunks(answers)
        elif (length := headers.get("Content-Length")) is not None:
            body = _read_whole(answers, int(length))
        else:
            body = answers.read()
    except (http.client.HTTPException, ValueError) as error:
        raise ConnectionError(f"an answer of status {status} that cannot be read: {error!r}") from error
    return Answer(status, headers, body)


def _read_chunks(answers: BinaryIO) -> bytes:
    body = b""
    while size := int(answers.readline(65_536).partition(b";")[0], 16):
        body += _read_whole(answers, size)
        answers.readline(3)  # the end of the line
    while answers.readline(65_536).strip():  # trailers
        pass
    return body


def _read_whole(answers: BinaryIO, size: int) -> bytes:
    body = answers.read(size)
    if len(body) < size:
        raise ConnectionError(f"the answer ended after {len(body)} of {size} bytes of its body")
    return body
