"""What a server must make of HTTP/2 that is right, odd or wrong: each case with its clause of RFC 9113 or 7541.

What a client sends behind its preface and its SETTINGS, unless the case is about those. Streams 1, 3, ... are requests that the
door answers with 200, unless the case says what becomes of stream 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PADDED,
    PREFACE,
    PRIORITY,
    block,
    data,
    frame,
    get,
    goaway,
    headers,
    indexed,
    initial_window,
    literal,
    padded,
    ping,
    post,
    request,
    rst_stream,
    settings,
    string,
    window_update,
)

from serving.ports.http2 import Code, Frame, Setting

BODY_BYTES: Final = 100_000  # the limit that the cases are for; the others are the settings' defaults
START: Final = PREFACE + settings()
GET: Final = request()
POST: Final = request("POST")
SOME_PRIORITY: Final = b"\x00\x00\x00\x00\x0f"  # depends on no stream, weight 16


class Case(NamedTuple):
    name: str
    clause: str  # of the RFC: its number and the section
    sent: bytes
    status: int | None = 200  # of stream 1; None: it has no answer
    reset: Code | None = None  # stream 1 is reset with it
    ends: Code | None = None  # the connection is, with it
    body: bytes = b""  # of stream 1's request, as the door gets it
    start: bytes = START

    @property
    def goes_on(self) -> bool:
        return self.ends is None


def wrong(name: str, clause: str, sent: bytes, code: Code = Code.PROTOCOL_ERROR, *, start: bytes = START) -> Case:
    """After which the connection ends."""
    return Case(name, clause, sent, None, ends=code, start=start)


def reset(name: str, clause: str, sent: bytes, code: Code = Code.PROTOCOL_ERROR) -> Case:
    """By which stream 1 ends, and it alone."""
    return Case(name, clause, sent, None, reset=code)


def refused(name: str, clause: str, sent: bytes, status: int) -> Case:
    """Stream 1 is answered, and never reaches the door."""
    return Case(name, clause, sent, status)


def fields(*further: tuple[bytes, bytes], method: str = "GET", path: str = "/x") -> bytes:
    return headers(1, request(method, path, *further))


def without(name: bytes, *, method: str = "GET") -> bytes:
    return headers(1, [field for field in request(method) if field[0] != name])


def _prefaces() -> Iterator[Case]:
    clause = "9113 3.4"
    yield Case("a plain request", clause, get())
    yield Case("SETTINGS that say nothing new", clause, settings() + get())
    yield wrong("a preface with another ending", clause, get(), start=PREFACE[:-6] + b"XX\r\n\r\n" + settings())
    yield wrong("a preface in lower case", clause, get(), start=PREFACE.lower() + settings())
    yield wrong("HTTP/1.1 in place of a preface", clause, b"", start=b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    yield wrong("no SETTINGS behind the preface", clause, get(), start=PREFACE)
    yield wrong("PING before SETTINGS", clause, ping(), start=PREFACE)
    yield wrong("an acknowledgement in place of SETTINGS", clause, frame(Frame.SETTINGS, ACK), start=PREFACE)


def _frames() -> Iterator[Case]:
    yield Case("a frame of an unknown type", "9113 4.1", frame(0xFA, 0xFF, 0, b"anything") + get())
    yield Case("an unknown frame on an idle stream", "9113 5.5", frame(0xFA, 0, 99, b"anything") + get())
    yield Case("flags that are not defined", "9113 4.1", frame(Frame.PING, 0xFE, 0, bytes(8)) + get())
    yield Case("a stream number with its reserved bit", "9113 4.1", frame(Frame.PING, 0, 1 << 31, bytes(8)) + get())
    yield wrong("a frame that is too long", "9113 4.2", data(1, bytes(16_385)), Code.FRAME_SIZE_ERROR)
    yield wrong("SETTINGS that are too long", "9113 4.2", settings(*[(99, 1)] * 2731), Code.FRAME_SIZE_ERROR)
    yield wrong("HEADERS that are too long", "9113 4.2", headers(1, bytes(16_385)), Code.FRAME_SIZE_ERROR)
    yield wrong(
        "an unknown frame within a header block",
        "9113 5.5",
        headers(1, GET, flags=0) + frame(0xFA) + frame(Frame.CONTINUATION, END_HEADERS, 1),
    )
    yield Case("DATA of the greatest length", "9113 4.2", post(1, bytes(16_384)), body=bytes(16_384))


def _data() -> Iterator[Case]:
    clause = "9113 6.1"
    start = headers(1, POST, end=False)
    yield Case("a body in one frame", clause, post(1, b"body"), body=b"body")
    yield Case("a body in three frames", clause, start + data(1, b"a", end=False) * 2 + data(1, b"b"), body=b"aab")
    yield Case("a body that ends with an empty frame", clause, start + data(1, b"a", end=False) + data(1), body=b"a")
    yield Case("an empty frame in a body", clause, start + data(1, end=False) + data(1, b"a"), body=b"a")
    yield Case("an empty body in a frame", clause, post(1))
    padding = frame(Frame.DATA, PADDED | END_STREAM, 1, padded(b"body", 200))
    yield Case("padding", clause, start + padding, body=b"body")
    yield Case("padding alone", clause, start + frame(Frame.DATA, PADDED | END_STREAM, 1, padded(b"", 9)))
    yield Case(
        "padding of no length", clause, start + frame(Frame.DATA, PADDED | END_STREAM, 1, b"\0body"), body=b"body"
    )
    yield wrong("padding as long as its frame", clause, start + frame(Frame.DATA, PADDED | END_STREAM, 1, b"\5body"))
    yield wrong("padding longer than its frame", clause, start + frame(Frame.DATA, PADDED | END_STREAM, 1, b"\xffbody"))
    yield wrong(
        "padding without its length", clause, start + frame(Frame.DATA, PADDED | END_STREAM, 1), Code.FRAME_SIZE_ERROR
    )
    yield wrong("DATA on the connection", clause, data(0, b"body"))
    yield wrong("DATA on an idle stream", "9113 5.1", data(1, b"body"))
    yield wrong("DATA on the server's idle stream", "9113 5.1", data(2, b"body"))


def _header_frames() -> Iterator[Case]:
    clause = "9113 6.2"
    first, second = block(*GET)[:9], block(*GET)[9:]
    yield wrong("HEADERS on the connection", clause, headers(0, GET))
    yield wrong("HEADERS on a stream with an even number", "9113 5.1.1", headers(2, GET))
    yield Case("HEADERS with a priority", clause, headers(1, SOME_PRIORITY + block(*GET), flags=END_HEADERS | PRIORITY))
    yield Case("HEADERS with padding", clause, headers(1, padded(block(*GET)), flags=END_HEADERS | PADDED))
    yield Case(
        "HEADERS with padding and a priority",
        clause,
        headers(1, padded(SOME_PRIORITY + block(*GET)), flags=END_HEADERS | PADDED | PRIORITY),
    )
    yield reset("HEADERS that are all padding", "9113 8.3.1", headers(1, padded(b""), flags=END_HEADERS | PADDED))
    yield wrong("padding longer than its HEADERS", clause, headers(1, b"\xffa", flags=END_HEADERS | PADDED))
    yield wrong(
        "HEADERS too short for a priority",
        clause,
        headers(1, b"\0\0", flags=END_HEADERS | PRIORITY),
        Code.FRAME_SIZE_ERROR,
    )
    yield Case("a stream number far ahead", "9113 5.1.1", get(1) + get(2**31 - 1))
    yield wrong("a stream number that goes back", "9113 5.1.1", get(5) + get(3), Code.STREAM_CLOSED)
    yield Case(
        "CONTINUATION", "9113 6.10", headers(1, first, flags=0) + frame(Frame.CONTINUATION, END_HEADERS, 1, second)
    )
    yield Case(
        "two CONTINUATIONs, and one of them empty",
        "9113 6.10",
        headers(1, first, flags=0)
        + frame(Frame.CONTINUATION, 0, 1)
        + frame(Frame.CONTINUATION, END_HEADERS, 1, second),
    )
    yield Case(
        "CONTINUATION behind empty HEADERS",
        "9113 6.10",
        headers(1, b"", flags=0) + frame(Frame.CONTINUATION, END_HEADERS, 1, block(*GET)),
    )
    clause = "9113 6.10"
    yield wrong("CONTINUATION behind nothing", clause, frame(Frame.CONTINUATION, END_HEADERS, 1, block(*GET)))
    yield wrong("CONTINUATION behind a whole block", clause, get() + frame(Frame.CONTINUATION, END_HEADERS, 1, second))
    yield wrong("CONTINUATION on the connection", clause, frame(Frame.CONTINUATION, END_HEADERS, 0))
    begun = headers(1, first, flags=0)
    for name, between in (
        ("CONTINUATION of another stream", frame(Frame.CONTINUATION, END_HEADERS, 3, second)),
        ("DATA", data(1, b"a")),
        ("HEADERS", get(3)),
        ("PING", ping()),
        ("SETTINGS", settings()),
        ("PRIORITY", frame(Frame.PRIORITY, 0, 1, SOME_PRIORITY)),
        ("RST_STREAM", rst_stream(1)),
        ("WINDOW_UPDATE", window_update(0, 1)),
        ("GOAWAY", goaway()),
    ):
        yield wrong(f"{name} within a header block", clause, begun + between)


def _streams() -> Iterator[Case]:
    clause = "9113 5.1"
    later = request("POST", "/later")  # which the door does not answer
    yield reset("DATA behind the end of a request", clause, headers(1, later) + data(1, b"a"), Code.STREAM_CLOSED)
    yield reset("HEADERS behind the end of a request", clause, headers(1, later) * 2, Code.STREAM_CLOSED)
    yield wrong("DATA on a closed stream", clause, get() + data(1, b"a"), Code.STREAM_CLOSED)._replace(status=200)
    yield wrong("HEADERS on a closed stream", clause, get() + get(), Code.STREAM_CLOSED)._replace(status=200)
    yield Case("WINDOW_UPDATE on a closed stream", clause, get() + window_update(1, 1))
    yield Case("RST_STREAM on a closed stream", clause, get() + rst_stream(1))
    yield Case("PRIORITY on a closed stream", clause, get() + frame(Frame.PRIORITY, 0, 1, SOME_PRIORITY))
    yield Case("PRIORITY on an idle stream", clause, frame(Frame.PRIORITY, 0, 9, SOME_PRIORITY) + get())
    yield wrong("WINDOW_UPDATE on an idle stream", clause, window_update(1, 1))
    yield wrong("RST_STREAM on an idle stream", "9113 6.4", rst_stream(1))
    yield wrong("WINDOW_UPDATE on the server's idle stream", clause, get(5) + window_update(2, 1))
    yield wrong("RST_STREAM on the server's idle stream", "9113 6.4", get(5) + rst_stream(2))
    yield wrong("DATA on the server's idle stream before the client's", clause, get(5) + data(2))
    yield wrong("RST_STREAM on the connection", "9113 6.4", rst_stream(0))
    yield wrong(
        "RST_STREAM of five bytes",
        "9113 6.4",
        headers(1, later) + frame(Frame.RST_STREAM, 0, 1, bytes(5)),
        Code.FRAME_SIZE_ERROR,
    )
    yield Case("RST_STREAM in the middle of a body", "9113 6.4", headers(1, POST, end=False) + rst_stream(1), None)
    yield Case("RST_STREAM before the answer", "9113 6.4", headers(1, later) + rst_stream(1), None)
    yield Case("RST_STREAM for a reason unknown", "9113 7", headers(1, later) + rst_stream(1, 0xDEAD), None)
    yield Case("PRIORITY", "9113 6.3", frame(Frame.PRIORITY, 0, 1, SOME_PRIORITY) + get())
    yield wrong("PRIORITY on the connection", "9113 6.3", frame(Frame.PRIORITY, 0, 0, SOME_PRIORITY))
    yield reset(
        "PRIORITY of four bytes",
        "9113 6.3",
        headers(1, later) + frame(Frame.PRIORITY, 0, 1, bytes(4)),
        Code.FRAME_SIZE_ERROR,
    )
    yield wrong(
        "PRIORITY of four bytes on an idle stream",
        "9113 6.3",
        frame(Frame.PRIORITY, 0, 1, bytes(4)),
        Code.FRAME_SIZE_ERROR,
    )
    yield wrong(
        "PRIORITY of four bytes on a closed stream",
        "9113 6.3",
        get() + frame(Frame.PRIORITY, 0, 1, bytes(4)),
        Code.FRAME_SIZE_ERROR,
    )._replace(status=200)
    yield wrong("PUSH_PROMISE", "9113 8.4", frame(Frame.PUSH_PROMISE, END_HEADERS, 1, bytes(4) + block(*GET)))
    yield wrong(
        "PUSH_PROMISE within a request",
        "9113 8.4",
        headers(1, POST, end=False) + frame(Frame.PUSH_PROMISE, 4, 1, bytes(4)),
    )


def _settings() -> Iterator[Case]:
    clause = "9113 6.5"
    yield Case("an acknowledgement", clause, frame(Frame.SETTINGS, ACK) + get())
    yield wrong(
        "an acknowledgement that says something", clause, frame(Frame.SETTINGS, ACK, 0, bytes(6)), Code.FRAME_SIZE_ERROR
    )
    yield wrong("SETTINGS on a stream", clause, frame(Frame.SETTINGS, 0, 1))
    yield wrong("SETTINGS of five bytes", clause, frame(Frame.SETTINGS, 0, 0, bytes(5)), Code.FRAME_SIZE_ERROR)
    clause = "9113 6.5.2"
    yield Case("a setting that is not known", clause, settings((0x99, 5)) + get())
    yield Case("ENABLE_PUSH of 0", clause, settings((Setting.ENABLE_PUSH, 0)) + get())
    yield wrong("ENABLE_PUSH of 2", clause, settings((Setting.ENABLE_PUSH, 2)))
    yield Case("INITIAL_WINDOW_SIZE of the most", clause, settings(initial_window(2**31 - 1)) + get())
    yield wrong("INITIAL_WINDOW_SIZE of more", clause, settings(initial_window(2**31)), Code.FLOW_CONTROL_ERROR)
    yield Case("MAX_FRAME_SIZE of the least", clause, settings((Setting.MAX_FRAME_SIZE, 16_384)) + get())
    yield Case("MAX_FRAME_SIZE of the most", clause, settings((Setting.MAX_FRAME_SIZE, 2**24 - 1)) + get())
    yield wrong("MAX_FRAME_SIZE of less", clause, settings((Setting.MAX_FRAME_SIZE, 16_383)))
    yield wrong("MAX_FRAME_SIZE of more", clause, settings((Setting.MAX_FRAME_SIZE, 2**24)))
    yield Case("MAX_CONCURRENT_STREAMS of 0", clause, settings((Setting.MAX_CONCURRENT_STREAMS, 0)) + get())
    yield Case(
        "MAX_HEADER_LIST_SIZE of 0, which is advice", clause, settings((Setting.MAX_HEADER_LIST_SIZE, 0)) + get()
    )
    yield Case("a setting twice", clause, settings(initial_window(0), initial_window(99)) + get())
    yield Case("HEADER_TABLE_SIZE of 0", "7541 4.2", settings((Setting.HEADER_TABLE_SIZE, 0)) + get())


def _connection_frames() -> Iterator[Case]:
    yield Case("PING", "9113 6.7", ping(b"12345678") + get())
    yield Case("PING of an acknowledgement never asked for", "9113 6.7", ping(flags=ACK) + get())
    yield wrong("PING on a stream", "9113 6.7", frame(Frame.PING, 0, 1, bytes(8)))
    yield wrong("PING of seven bytes", "9113 6.7", ping(bytes(7)), Code.FRAME_SIZE_ERROR)
    yield wrong("PING of nine bytes", "9113 6.7", ping(bytes(9)), Code.FRAME_SIZE_ERROR)
    yield wrong("GOAWAY on a stream", "9113 6.8", frame(Frame.GOAWAY, 0, 1, bytes(8)))
    yield wrong("GOAWAY of seven bytes", "9113 6.8", frame(Frame.GOAWAY, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR)
    yield wrong(
        "WINDOW_UPDATE of three bytes", "9113 6.9", frame(Frame.WINDOW_UPDATE, 0, 0, bytes(3)), Code.FRAME_SIZE_ERROR
    )
    yield wrong("WINDOW_UPDATE by 0", "9113 6.9", window_update(0, 0))
    yield Case("WINDOW_UPDATE with its reserved bit", "9113 6.9", window_update(0, 1 << 31 | 1) + get())
    yield reset("WINDOW_UPDATE by 0 on a stream", "9113 6.9", headers(1, POST, end=False) + window_update(1, 0))
    most = 2**31 - 1 - 65_535
    clause = "9113 6.9.1"
    yield Case("the largest window of the connection", clause, window_update(0, most) + get())
    yield wrong("a larger window of the connection", clause, window_update(0, most + 1), Code.FLOW_CONTROL_ERROR)
    begun = headers(1, POST, end=False)
    yield Case("the largest window of a stream", clause, begun + window_update(1, most) + data(1))
    yield reset("a larger window of a stream", clause, begun + window_update(1, most + 1), Code.FLOW_CONTROL_ERROR)
    yield wrong(
        "INITIAL_WINDOW_SIZE that makes a window too large",
        "9113 6.9.2",
        begun + window_update(1, most) + settings(initial_window(65_536)),
        Code.FLOW_CONTROL_ERROR,
    )
    yield Case(
        "an answer that waits for its window", "9113 6.9.2", settings(initial_window(0)) + get() + window_update(1, 99)
    )
    yield Case(
        "an answer that waits for INITIAL_WINDOW_SIZE",
        "9113 6.9.2",
        settings(initial_window(0)) + get() + settings(initial_window(99)),
    )


def _requests() -> Iterator[Case]:
    clause = "9113 8.3.1"
    for name in (b":method", b":scheme", b":path"):
        yield reset(f"no {name.decode()}", clause, without(name))
        value = dict(GET)[name]
        yield reset(f"{name.decode()} twice", clause, headers(1, [(name, value), *GET]))
    yield reset("an empty :path", clause, fields(path=""))
    yield reset("an empty :method", clause, fields(method=""))
    yield reset(":authority twice", clause, headers(1, [(b":authority", b"x"), *GET]))
    yield reset("a pseudo-header that is not known", "9113 8.3", headers(1, [(b":protocol", b"x"), *GET]))
    yield reset("an answer's pseudo-header", "9113 8.3", headers(1, [(b":status", b"200"), *GET]))
    yield reset("a pseudo-header behind a header", "9113 8.3", headers(1, [*GET[:3], (b"a", b"b"), GET[3]]))
    yield Case(
        "a host in place of :authority", clause, headers(1, request("GET", "/x", (b"host", b"x"), authority=None))
    )
    yield Case("a host that is its :authority", clause, fields((b"host", b"x")))
    yield reset("a host that is another than its :authority", clause, fields((b"host", b"y")))
    yield refused("no host at all", clause, without(b":authority"), 400)
    yield refused("an :authority that is no host", clause, headers(1, request(authority="a b")), 400)
    yield Case("an :authority of several hosts", "9113 8.3.1", headers(1, request(authority="10.0.0.1:80,[::1]:80")))
    yield refused("an :authority of hosts and none", clause, headers(1, request(authority="x:80,,y:80")), 400)
    yield refused("an :authority with a user", clause, headers(1, request(authority="user@x")), 400)
    yield refused("no host at all, for HEAD", clause, headers(1, request("HEAD", authority=None)), 400)
    yield refused("a :path that is a whole URL", clause, fields(path="http://x/x"), 400)
    yield refused("a :path without a slash", clause, fields(path="x"), 400)
    yield refused("a :path with a space", clause, fields(path="/x y"), 400)
    yield refused("a :path with a fragment", clause, fields(path="/x#y"), 400)
    yield Case("a :path with a query", clause, fields(path="/x?y=z"))
    yield Case("OPTIONS *", clause, fields(method="OPTIONS", path="*"))
    yield refused("GET *", clause, fields(path="*"), 400)
    yield refused("CONNECT", "9113 8.5", headers(1, [(b":method", b"CONNECT"), (b":authority", b"x:1")]), 501)
    yield reset("CONNECT with a :path", "9113 8.5", fields(method="CONNECT"))
    yield refused("a method that is no token", "9110 9.1", fields(method="G,T"), 400)
    yield refused("a method of many letters", "9110 9.1", fields(method="A" * 33), 501)

    clause = "9113 8.2.1"
    yield reset("a name in upper case", clause, fields((b"Name", b"x")))
    yield reset("an empty name", clause, fields((b"", b"x")))
    for name in (b"a b", b"a:b", b"a\x00", b"a\x7f", b"a\xff", b"a\r", b"a\n"):
        yield reset(f"the name {name!r}", clause, fields((name, b"x")))
    for value in (b"a\x00", b"a\rb", b"a\nb", b" a", b"a ", b"\ta", b"a\t"):
        yield reset(f"the value {value!r}", clause, fields((b"name", value)))
    yield Case("a value with a space within", clause, fields((b"name", b"a b\tc")))
    yield Case("an empty value", clause, fields((b"name", b"")))
    yield Case("a value that is not ASCII", clause, fields((b"name", b"\xe9\xff")))

    clause = "9113 8.2.2"
    for name, value in (
        (b"connection", b"close"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"websocket"),
        (b"te", b"gzip"),
        (b"te", b"trailers, gzip"),
    ):
        yield reset(f"{name.decode()}: {value.decode()}", clause, fields((name, value)))
    yield Case("te: trailers", clause, fields((b"te", b"trailers")))
    yield Case("a cookie in two pieces", "9113 8.2.3", fields((b"cookie", b"a=b"), (b"cookie", b"c=d")))

    clause = "9113 8.1.1"
    begun = headers(1, request("POST", "/x", (b"content-length", b"4")), end=False)
    yield Case("content-length", clause, begun + data(1, b"body"), body=b"body")
    yield Case(
        "content-length over two frames", clause, begun + data(1, b"bo", end=False) + data(1, b"dy"), body=b"body"
    )
    yield Case(
        "content-length and padding",
        clause,
        begun + frame(Frame.DATA, PADDED | END_STREAM, 1, padded(b"body")),
        body=b"body",
    )
    yield reset("a body shorter than its content-length", clause, begun + data(1, b"bod"))
    yield reset("a body longer than its content-length", clause, begun + data(1, b"body."))
    yield reset("a body longer before its end", clause, begun + data(1, b"body.", end=False))
    yield reset(
        "trailers before content-length is reached",
        clause,
        begun + data(1, b"bod", end=False) + headers(1, [(b"a", b"b")]),
    )
    yield reset("content-length without a body", clause, fields((b"content-length", b"4")))
    yield Case("content-length of 0 without a body", clause, fields((b"content-length", b"0")))
    yield refused(
        "content-length that is no number",
        "9110 8.6",
        headers(1, request("POST", "/x", (b"content-length", b"4x")), end=False),
        400,
    )
    twice = ((b"content-length", b"4"), (b"content-length", b"4"))
    yield refused("content-length twice", "9110 8.6", headers(1, request("POST", "/x", *twice), end=False), 400)

    clause = "9113 8.1"
    begun = headers(1, POST, end=False) + data(1, b"body", end=False)
    yield Case("trailers", clause, begun + headers(1, [(b"checksum", b"x")]), body=b"body")
    yield Case("no trailers in a header block", clause, begun + headers(1, []), body=b"body")
    yield reset("trailers that do not end their stream", clause, begun + headers(1, [(b"a", b"b")], end=False))
    yield reset("trailers with a pseudo-header", clause, begun + headers(1, [(b":path", b"/x")]))
    yield reset("trailers with a name in upper case", clause, begun + headers(1, [(b"A", b"x")]))
    yield reset("trailers about the connection", clause, begun + headers(1, [(b"connection", b"close")]))


def _limits() -> Iterator[Case]:
    """What is too much of something is refused with an answer, and the connection goes on."""
    for name, clause, further, status in (
        ("more headers than may be", "6585 5", [(b"a%d" % index, b"") for index in range(101)], 431),
        ("as many headers as may be", "6585 5", [(b"a%d" % index, b"") for index in range(100)], 200),
    ):
        yield Case(name, clause, fields(*further), status)
    long = indexed(b"a", bytes([65]) * 3000) + b"\xbe" * 25  # 26 times the same
    yield refused("headers that are too long when unpacked", "9113 10.5.1", headers(1, block(*GET) + long), 431)
    yield refused("a :path that is too long", "9110 15.5.15", fields(path="/" + "a" * 9000), 414)
    begun = headers(1, request("POST", "/x", (b"content-length", b"100001")), end=False)
    yield refused("content-length above the limit", "9110 15.5.14", begun, 413)
    pieces = headers(1, POST, end=False) + data(1, bytes(10_000), end=False) * 11
    yield refused("a body above the limit", "9110 15.5.14", pieces, 413)
    bomb = indexed(b"a", bytes([65]) * 4000) + b"\xbe" * 12_000
    yield refused("headers that are far too long when unpacked", "7541 7.3", headers(1, block(*GET) + bomb), 431)
    pieces = headers(1, b"", flags=0) + frame(Frame.CONTINUATION, 0, 1, bytes(16_384)) * 5
    yield wrong("a header block that is too long", "9113 10.5.1", pieces, Code.ENHANCE_YOUR_CALM)


def _hpack() -> Iterator[Case]:
    def broken(name: str, clause: str, written: bytes) -> Case:
        return wrong(name, clause, headers(1, block(*GET) + written), Code.COMPRESSION_ERROR)

    yield Case("fields from the static table", "7541 2.3.1", headers(1, b"\x82\x86\x84" + literal(b":authority", b"x")))
    table = indexed(b"name", b"value")
    yield Case("a field from the dynamic table", "7541 2.3.2", headers(1, block(*GET) + table + b"\xbe"))
    yield Case(
        "a field that is never indexed", "7541 6.2.3", headers(1, block(*GET) + b"\x10" + string(b"a") + string(b"b"))
    )
    yield Case("Huffman's code", "7541 5.2", headers(1, block(*GET) + b"\x00\x01a\x88\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f"))
    yield Case("a smaller table", "7541 6.3", headers(1, b"\x20" + block(*GET)))
    yield Case("a smaller table, and back", "7541 4.2", headers(1, b"\x20\x3f\xe1\x1f" + block(*GET)))
    yield broken("index 0", "7541 6.1", b"\x80")
    yield broken("an index beyond the tables", "7541 2.3.3", b"\xff\x00")
    yield broken("an index that does not end", "7541 5.1", b"\xff\x80\x80")
    yield broken("an index far too large", "7541 5.1", b"\xff" + b"\xff" * 30 + b"\x01")
    yield broken("a literal that ends early", "7541 5.2", b"\x00\x05abc")
    yield broken("a name that ends early", "7541 5.2", b"\x00\x01a\x05abc")
    yield broken("Huffman's end of string in a string", "7541 5.2", b"\x00\x01a\x84\xff\xff\xff\xff")
    yield broken("Huffman's padding longer than 7 bits", "7541 5.2", b"\x00\x01a\x82\x1f\xff")
    yield broken("Huffman's padding of zeros", "7541 5.2", b"\x00\x01a\x81\x00")
    yield broken("a larger table behind a field", "7541 4.2", b"\x20")
    yield wrong(
        "a larger table than was offered", "7541 6.3", headers(1, b"\x3f\xe2\x1f" + block(*GET)), Code.COMPRESSION_ERROR
    )
    yield wrong("a broken block on a stream that is refused", "9113 4.3", headers(1, b"\x80"), Code.COMPRESSION_ERROR)


CASES: Final = tuple(
    case
    for group in (
        _prefaces, _frames, _data, _header_frames, _streams, _settings, _connection_frames, _requests, _limits, _hpack,
    )
    for case in group()
)  # fmt: skip
