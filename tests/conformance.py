"""What a server must make of HTTP/1.1 that is right, odd or wrong: each case with its clause of RFC 9110 or 9112.

Requests without a body are for /v2/health/live, those with one for a model, unless the case is about another target.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

PATH: Final = "/v2/health/live"
GET_LINE: Final = f"GET {PATH} HTTP/1.1"
MODEL: Final = "numpy-sigmoid.numpy"
POST_LINE: Final = f"POST /v2/models/{MODEL}/infer HTTP/1.1"
BODY_BYTES: Final = 1_000_000  # the limit that the cases are for; the others are the settings' defaults
HEAD_BYTES: Final = 65536
TARGET_BYTES: Final = 8192
HEADERS: Final = 100


class Case(NamedTuple):
    name: str
    clause: str  # of the RFC: its number and the section
    sent: bytes
    status: int | None = None  # with which it is refused; None: it is given to the door
    body: bytes = b""  # that the door gets
    goes_on: bool | None = True  # whether the connection stays, if it is not refused; None: as the server likes
    path: str | None = None  # that the door gets, where the case is about that


def head(line: str, *headers: str, host: str | None = "x") -> bytes:
    return "\r\n".join([line, *([] if host is None else [f"Host: {host}"]), *headers, "", ""]).encode("latin-1")


def get(*headers: str) -> bytes:
    return head(GET_LINE, *headers)


def post(*headers: str, body: bytes = b"") -> bytes:
    return head(POST_LINE, *headers) + body


def chunked(body: bytes) -> bytes:
    return post("Transfer-Encoding: chunked", body=body)


def target(text: str, method: str = "GET") -> bytes:
    return head(f"{method} {text} HTTP/1.1")


# Behind a body of two bytes; it must not be taken for a request where the body's length is in doubt.
SMUGGLED: Final = get()


def _messages() -> Iterator[Case]:
    """Where a message begins and its lines end."""
    clause = "9112 2.2"
    yield Case("a plain request", "9112 2.1", get())
    yield Case("an empty line before a request", clause, b"\r\n" + get())
    yield Case("eight empty lines before a request", clause, b"\r\n" * 8 + get())
    yield Case("nine empty lines before a request", clause, b"\r\n" * 9 + get(), 400)
    yield Case("a bare line feed before a request", clause, b"\n" + get(), 400)
    yield Case("a bare carriage return before a request", clause, b"\r" + get(), 400)
    yield Case("lines that end with bare line feeds", clause, get().replace(b"\r\n", b"\n"), 400)
    yield Case("lines that end with bare carriage returns", clause, get().replace(b"\r\n", b"\r") + b"\r\n\r\n", 400)
    yield Case("a bare line feed behind the request line", clause, get().replace(b"1.1\r\n", b"1.1\n"), 400)
    yield Case("a bare line feed behind a header", clause, get("A: b").replace(b"b\r\n", b"b\n"), 400)
    yield Case("a bare line feed for the empty line", clause, get()[:-2] + b"\n\r\n\r\n", 400)
    yield Case("two carriage returns before a line feed", clause, get("A: b\r"), 400)
    yield Case("a bare carriage return in a header's value", clause, get("A: b\rc"), 400)
    yield Case("a bare carriage return and a header behind it", clause, get("A: b\rContent-Length: 9"), 400)
    yield Case("a bare line feed in a header's value", clause, get("A: b\nContent-Length: 9"), 400)
    yield Case("a bare carriage return in a header's name", clause, get("A\rb: c"), 400)
    yield Case("a bare carriage return in the request line", clause, head(f"GET {PATH}\r HTTP/1.1"), 400)
    yield Case("a space before the first header", clause, head(GET_LINE, " A: b", host=None), 400)
    yield Case("a space alone before the first header", clause, head(GET_LINE, " ", "Host: x", host=None), 400)
    yield Case("a tab before the first header", clause, head(GET_LINE, "\tHost: x", host=None), 400)
    yield Case("a byte order mark before a request", clause, b"\xef\xbb\xbf" + get(), 400)
    yield Case("a NUL before a request", clause, b"\x00" + get(), 400)
    yield Case("TLS where plain HTTP was expected", clause, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400)
    yield Case("another protocol's greeting", clause, b"SSH-2.0-OpenSSH_9.6\r\n", 400)
    yield Case("an answer in place of a request", clause, b"HTTP/1.1 200 OK\r\nHost: x\r\n\r\n", 400)


def _versions() -> Iterator[Case]:
    clause = "9112 2.3"
    for version, status in (
        ("HTTP/1.1", None),
        ("HTTP/2.0", 505),
        ("HTTP/3.0", 505),
        ("HTTP/0.9", 505),
        ("HTTP/1.2", 505),
        ("HTTP/9.9", 505),
        ("http/1.1", 400),
        ("Http/1.1", 400),
        ("HTTP/1", 400),
        ("HTTP/2", 400),
        ("HTTP/1.", 400),
        ("HTTP/.1", 400),
        ("HTTP/1.10", 400),
        ("HTTP/01.1", 400),
        ("HTTP/1,1", 400),
        ("HTTP/1.1x", 400),
        ("HTTP/+1.1", 400),
        ("HTTP-1.1", 400),
        ("HTTP /1.1", 400),
        ("ICY/1.1", 400),
        ("", 400),
    ):
        number = "9110 15.6.6" if status == 505 else clause
        yield Case(f"version {version!r}", number, head(f"GET {PATH} {version}"), status)
    yield Case("HTTP/0.9's whole request", clause, f"GET {PATH}\r\n\r\n".encode(), 400)
    yield Case("the preface of HTTP/2", "9113 3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505)


def _request_lines() -> Iterator[Case]:
    clause = "9112 3"
    yield Case("two spaces before the target", clause, head(f"GET  {PATH} HTTP/1.1"), 400)
    yield Case("two spaces before the version", clause, head(f"GET {PATH}  HTTP/1.1"), 400)
    yield Case("a space behind the version", clause, head(f"{GET_LINE} "), 400)
    yield Case("a space before the method", clause, head(f" {GET_LINE}"), 400)
    yield Case("a tab before the target", clause, head(f"GET\t{PATH} HTTP/1.1"), 400)
    yield Case("a tab before the version", clause, head(f"GET {PATH}\tHTTP/1.1"), 400)
    yield Case("a vertical tab before the version", clause, head(f"GET {PATH}\x0bHTTP/1.1"), 400)
    yield Case("a method alone", clause, head("GET"), 400)
    yield Case("no target", clause, head("GET HTTP/1.1"), 400)
    yield Case("four words", clause, head(f"GET {PATH} x HTTP/1.1"), 400)
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "FOO", "M-SEARCH", "!#$%&'*+-.^_`|~9", "get", "A" * 32):
        yield Case(f"method {method}", "9110 9.1", target(PATH, method))
    for method in ("G:T", "GE(T", "G[T]", "GÉT", "G\x00T", "{GET}", '"GET"', "G,T", "G/T", "G@T", "G\x7fT"):
        yield Case(f"method {method!r}", "9110 5.6.2", target(PATH, method), 400)
    yield Case("no method", clause, target(PATH, ""), 400)
    yield Case("a method of 33 letters", clause, target(PATH, "A" * 33), 501)
    yield Case("a method without end", clause, b"A" * 70_000, 501)


def _targets() -> Iterator[Case]:
    origin, absolute, authority, asterisk = "9112 3.2.1", "9112 3.2.2", "9112 3.2.3", "9112 3.2.4"
    yield Case("a query", origin, target(f"{PATH}?a=b&c=/?"), path=PATH)
    yield Case("an empty query", origin, target(f"{PATH}?"))
    yield Case("a letter that is percent-encoded", origin, target("/v2/health/%6Cive"), path=PATH)
    yield Case("a query that is not decoded", origin, target(f"{PATH}?%zz%00"))
    yield Case("an unencoded bracket in a query", origin, target(f"{PATH}?a[]={{b}}|c"))
    for wrong in (
        f"{PATH}#a",
        f"{PATH}?a#b",
        f"{PATH}%",
        f"{PATH}%2",
        f"{PATH}%zz",
        f"{PATH}%00",
        f"{PATH}\x00",
        f"{PATH}\x01",
        f"{PATH}\x7f",
        f"{PATH}\xe9",
        f"{PATH}?\xe9",
        f"{PATH}?\x1f",
        f'{PATH}"',
        f"{PATH}<a>",
        f"{PATH}\\a",
        f"{PATH}^",
        f"{PATH}|",
        f"{PATH}{{a}}",
        f"{PATH}[a]",
    ):
        yield Case(f"target {wrong!r}", "9112 3.2", target(wrong), 400)
    yield Case("a target without a slash", "9112 3.2", target("v2/health/live"), 400)
    yield Case("a query alone", "9112 3.2", target("?a"), 400)
    yield Case("an absolute target", absolute, target(f"http://x{PATH}"), path=PATH)
    yield Case("an absolute target with a port and a query", absolute, target(f"http://x:80{PATH}?a=b"), path=PATH)
    yield Case("an absolute target in capitals", absolute, target(f"HTTP://X{PATH}"))
    yield Case("an absolute target over TLS", absolute, target(f"https://x{PATH}"))
    yield Case("an absolute target of another host", absolute, target(f"http://other{PATH}"))
    yield Case("an absolute target with an IPv6 address", absolute, target(f"http://[::1]:80{PATH}"))
    yield Case("an absolute target, and no Host", absolute, head(f"GET http://x{PATH} HTTP/1.1", host=None), 400)
    for wrong in (
        f"http://{PATH}",
        f"http://:80{PATH}",
        f"http://user@x{PATH}",
        f"http://user:secret@x{PATH}",
        f"http://x:a{PATH}",
        f"http://x:99999{PATH}",
        f"http://[::g]{PATH}",
        f"http:{PATH}",
        f"ftp://x{PATH}",
        f"//x{PATH}:"[1:] + "%",
        "http://x#a",
        "http://x y/",
    ):
        yield Case(f"target {wrong!r}", absolute, target(wrong), 400)
    yield Case("an absolute target without a path", absolute, target("http://x"), path="/")
    yield Case("an asterisk for OPTIONS", asterisk, target("*", "OPTIONS"), path="*")
    yield Case("an asterisk for GET", asterisk, target("*"), 400)
    yield Case("an asterisk and more for OPTIONS", asterisk, target("*a", "OPTIONS"), 400)
    yield Case("an authority for GET", authority, target("x:80"), 400)
    yield Case("CONNECT to an authority", "9110 9.3.6", target("x:80", "CONNECT"), 501)
    yield Case("CONNECT to a path", "9110 9.3.6", target(PATH, "CONNECT"), 501)


def _hosts() -> Iterator[Case]:
    clause = "9112 3.2"
    yield Case("no Host", clause, head(GET_LINE, host=None), 400)
    yield Case("no Host in HTTP/1.0", clause, head(f"GET {PATH} HTTP/1.0", host=None), goes_on=False)
    yield Case("two Hosts", clause, get("Host: x"), 400)
    yield Case("two different Hosts", clause, get("Host: y"), 400)
    yield Case("two Hosts in HTTP/1.0", clause, head(f"GET {PATH} HTTP/1.0", "Host: y"), 400)
    yield Case("an invalid Host in HTTP/1.0", clause, head(f"GET {PATH} HTTP/1.0", host="a b"), 400)
    for host in ("", "x:80", "x:", "EXAMPLE.org", "127.0.0.1:8000", "[::1]", "[::1]:8000", "a_b.c~d", "a%20b", "x;y"):
        yield Case(f"Host {host!r}", "9110 7.2", head(GET_LINE, host=host))
    for host in (
        "a b",
        "a/b",
        "http://x",
        "user@x",
        "x:a",
        "x:-1",
        "x:80:80",
        "x:65536",
        "x:123456",
        ":80",
        "[::1",
        "::1",
        "[]",
        "[::g]",
        "[fe80::1%eth0]",
        "[127.0.0.1]",
        "x?",
        "x#",
        "x\\y",
        "x\xe9",
        "<x>",
        "a%zz",
    ):
        yield Case(f"Host {host!r}", "9110 7.2", head(GET_LINE, host=host), 400)


def _fields() -> Iterator[Case]:
    clause = "9112 5"
    yield Case("no space behind the colon", clause, get("A:b"))
    yield Case("spaces and tabs around a value", clause, get("A: \t b \t "))
    yield Case("an empty value", clause, get("A:", "B: "))
    yield Case("names of every token's character", "9110 5.1", get("!#$%&'*+-.^_`|~9z: a"))
    yield Case("a header that is not for the body, twice", "9110 5.3", get("Accept: a", "accept: b"))
    yield Case("letters outside of ASCII in a value", "9110 5.5", get("A: \xe9\xff"))
    yield Case("a colon in a value", clause, get("A: b:c"))
    yield Case("a space before the colon", "9112 5.1", get("A : b"), 400)
    yield Case("a tab before the colon", "9112 5.1", get("A\t: b"), 400)
    yield Case("a space before the length's colon", "9112 5.1", post("Content-Length : 2", body=b"hi"), 400)
    yield Case("a space before the coding's colon", "9112 5.1", post("Transfer-Encoding : chunked"), 400)
    yield Case("a folded value", "9112 5.2", get("A: b", " c"), 400)
    yield Case("a value folded with a tab", "9112 5.2", get("A: b", "\tc"), 400)
    yield Case("a folded line that is empty", "9112 5.2", get("A: b", " "), 400)
    yield Case("a folded coding", "9112 5.2", post("Transfer-Encoding:", " chunked"), 400)
    yield Case("a line without a colon", clause, get("A"), 400)
    yield Case("an empty name", clause, get(": b"), 400)
    for name in ("A b", "A(", "A[]", "A/", "A@", 'A"', "A=", "A,", "A;", "A\x00", "A\x7f", "A\xe9", "{A}"):
        yield Case(f"name {name!r}", "9110 5.1", get(f"{name}: b"), 400)
    for code in (0, 1, 8, 11, 12, 27, 31, 127):
        yield Case(f"character {code} in a value", "9110 5.5", get(f"A: b{chr(code)}c"), 400)
    yield Case("a NUL at a value's end", "9110 5.5", get("A: b\x00"), 400)
    for name, value in (
        ("Content-Type", "application/json"),
        ("Content-Encoding", "identity"),
        ("Inference-Header-Content-Length", "0"),
        ("Expect", "100-continue"),
    ):
        twice = post(f"{name}: {value}", "Content-Length: 0", f"{name.upper()}: {value}")
        yield Case(f"{name} twice", "9110 5.3", twice, 400)


def _lengths() -> Iterator[Case]:
    clause = "9112 6.3"
    yield Case("a body with its length", "9112 6.2", post("Content-Length: 2", body=b"hi"), body=b"hi")
    yield Case("a length of nought", "9112 6.2", post("Content-Length: 0"))
    yield Case("no length", clause, post())
    yield Case("a body for GET", "9110 9.3.1", get("Content-Length: 2") + b"hi", body=b"hi")
    yield Case("a length with zeros before it", "9110 8.6", post("Content-Length: 0002", body=b"hi"), body=b"hi")
    yield Case(
        "a body that looks like a request",
        clause,
        post(f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED),
        body=SMUGGLED,
    )
    for value in ("", "-1", "+2", "2.0", "0x2", "2 2", "2,2", "2, 2", "two", "2;", "1_0", "²", "\xa02", "2\x0b", "NaN"):
        yield Case(f"length {value!r}", clause, post(f"Content-Length: {value}", body=b"hi"), 400)
    yield Case("two lengths that are the same", clause, post("Content-Length: 2", "Content-Length: 2", body=b"hi"), 400)
    yield Case("two different lengths", clause, post("Content-Length: 2", "Content-Length: 0", body=b"hi"), 400)
    for coding in ("chunked", "identity", "gzip, chunked", ""):
        both = post("Content-Length: 5", f"Transfer-Encoding: {coding}", body=b"0\r\n\r\n" + SMUGGLED)
        yield Case(f"a length and the coding {coding!r}", clause, both, 400)
    both = post("Transfer-Encoding: chunked", "Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED)
    yield Case("a coding and a length", clause, both, 400)


def _codings() -> Iterator[Case]:
    clause = "9112 6.1"
    empty = b"0\r\n\r\n"
    for coding in ("chunked", "Chunked", "CHUNKED", " chunked "):
        yield Case(f"coding {coding!r}", clause, post(f"Transfer-Encoding: {coding}", body=empty))
    for coding in ("gzip, chunked", "identity, chunked", "xchunked, chunked", ", chunked"):
        yield Case(f"coding {coding!r}", clause, post(f"Transfer-Encoding: {coding}", body=empty + SMUGGLED), 501)
    for coding in (
        "gzip",
        "identity",
        "xchunked",
        "chunke",
        "chunked, gzip",
        "chunked, chunked",
        "chunked,",
        "chunked;a=b",
        "chunked x",
        '"chunked"',
        "\x0bchunked",
        "chunked\x00",
        "",
    ):
        wrong = post(f"Transfer-Encoding: {coding}", body=empty + SMUGGLED)
        yield Case(f"coding {coding!r}", "9112 6.3", wrong, 400)
    twice = post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=empty)
    yield Case("chunked twice", clause, twice, 400)
    twice = post("Transfer-Encoding: chunked", "Transfer-Encoding: identity", body=empty)
    yield Case("two codings", clause, twice, 400)
    old = head(f"POST {PATH} HTTP/1.0", "Transfer-Encoding: chunked") + empty
    yield Case("chunked in HTTP/1.0", clause, old, 400)
    old = head(f"POST {PATH} HTTP/1.0", "Connection: keep-alive", "Transfer-Encoding: chunked") + empty
    yield Case("chunked in HTTP/1.0 that stays", clause, old, 400)
    yield Case(
        "a header that is named nearly so",
        clause,
        post("Transfer_Encoding: chunked", "Content-Length: 2", body=b"hi"),
        body=b"hi",
    )


def _chunks() -> Iterator[Case]:
    clause, extensions, trailers = "9112 7.1", "9112 7.1.1", "9112 7.1.2"
    end = b"0\r\n\r\n"
    for name, number, body in (
        ("one chunk", clause, b"2\r\nhi\r\n" + end),
        ("two chunks", clause, b"1\r\nh\r\n1\r\ni\r\n" + end),
        ("a size with zeros before it", clause, b"0002\r\nhi\r\n" + end),
        ("a last chunk of many noughts", clause, b"2\r\nhi\r\n000\r\n\r\n"),
        ("an extension", extensions, b"2;a\r\nhi\r\n" + end),
        ("an extension with a value", extensions, b"2;a=b\r\nhi\r\n" + end),
        ("an extension with a quoted value", extensions, b'2;a="b; \\"c"\r\nhi\r\n' + end),
        ("many extensions", extensions, b"2;a;b=c;d\r\nhi\r\n0;e\r\n\r\n"),
        ("a trailer", trailers, b"2\r\nhi\r\n0\r\nA: b\r\n\r\n"),
        ("a trailer that says a length", "9110 6.5.1", b"2\r\nhi\r\n0\r\nContent-Length: 9\r\n\r\n"),
        ("a trailer that says a host", "9110 6.5.1", b"2\r\nhi\r\n0\r\nHost: y\r\n\r\n"),
        ("a trailer that says a type", "9110 6.5.1", b"2\r\nhi\r\n0\r\nContent-Type: a\r\nContent-Type: b\r\n\r\n"),
    ):
        yield Case(name, number, chunked(body), body=b"hi")
    yield Case(
        "a size in hexadecimal",
        clause,
        chunked(b"a\r\n0123456789\r\nA\r\n0123456789\r\n" + end),
        body=b"0123456789" * 2,
    )
    for name, number, body in (
        ("no size", clause, b"\r\nhi\r\n" + end),
        ("an odd size", clause, b"x\r\nhi\r\n" + end),
        ("a size with 0x", clause, b"0x2\r\nhi\r\n" + end),
        ("a size with a sign", clause, b"+2\r\nhi\r\n" + end),
        ("a size below nought", clause, b"-2\r\nhi\r\n" + end),
        ("a size with an underscore", clause, b"0_2\r\nhi\r\n" + end),
        ("a space before a size", clause, b" 2\r\nhi\r\n" + end),
        ("a space behind a size", clause, b"2 \r\nhi\r\n" + end),
        ("a tab behind a size", clause, b"2\t\r\nhi\r\n" + end),
        ("a size of 21 digits", clause, b"0" * 20 + b"2\r\nhi\r\n" + end),
        ("a bare line feed behind a size", clause, b"2\nhi\r\n" + end),
        ("a bare carriage return behind a size", clause, b"2\rhi\r\n" + end),
        ("two carriage returns behind a size", clause, b"2\r\r\nhi\r\n" + end),
        ("a bare line feed behind a chunk", clause, b"2\r\nhi\n" + end),
        ("nothing behind a chunk", clause, b"2\r\nhi" + end),
        ("two other bytes behind a chunk", clause, b"2\r\nhixx" + end),
        ("a chunk longer than its size", clause, b"1\r\nhi\r\n" + end),
        ("a chunk shorter than its size", clause, b"3\r\nhi\r\n" + end + b"xx"),
        ("a last chunk with bytes", clause, b"0\r\nhi\r\n\r\n"),
        ("a bare line feed for the end", clause, b"0\r\n\n"),
        ("a bare carriage return for the end", clause, b"0\r\n\rX\n"),
        ("a bare line feed behind the last size", clause, b"0\n\r\n"),
        ("an empty extension", extensions, b"2;\r\nhi\r\n" + end),
        ("an extension without a name", extensions, b"2;=b\r\nhi\r\n" + end),
        ("an extension without its value", extensions, b"2;a=\r\nhi\r\n" + end),
        ("a space in an extension", extensions, b"2; a=b\r\nhi\r\n" + end),
        ("a bare line feed in an extension", extensions, b"2;a\nb\r\nhi\r\n" + end),
        ("a bare carriage return in an extension", extensions, b"2;a\rb\r\nhi\r\n" + end),
        ("a control in an extension", extensions, b"2;a=\x01\r\nhi\r\n" + end),
        ("an extension whose quote has no end", extensions, b'2;a="b\r\nhi\r\n' + end),
        ("an extension without end", extensions, b"2;" + b"a" * 300 + b"\r\nhi\r\n" + end),
        ("a trailer without a colon", trailers, b"0\r\nA\r\n\r\n"),
        ("a trailer with a space before its colon", trailers, b"0\r\nA : b\r\n\r\n"),
        ("a folded trailer", trailers, b"0\r\nA: b\r\n c\r\n\r\n"),
        ("a trailer that ends with a bare line feed", trailers, b"0\r\nA: b\n\r\n"),
        ("a control in a trailer", trailers, b"0\r\nA: \x00\r\n\r\n"),
    ):
        yield Case(name, number, chunked(body), 400)


def _limits() -> Iterator[Case]:
    long, too_long = "a" * (TARGET_BYTES - len(PATH) - 1), "a" * (TARGET_BYTES - len(PATH))
    yield Case("a target as long as may be", "9110 15.5.15", target(f"{PATH}?{long}"))
    yield Case("a target too long by one", "9110 15.5.15", target(f"{PATH}?{too_long}"), 414)
    yield Case("a target without end", "9110 15.5.15", b"GET /" + b"a" * 70_000, 414)
    yield Case("as many headers as may be", "6585 5", get(*["A: b"] * (HEADERS - 1)))
    yield Case("one header too many", "6585 5", get(*["A: b"] * HEADERS), 431)
    rest = HEAD_BYTES - len(get("A: "))
    yield Case("headers as long as may be", "6585 5", get("A: " + "b" * rest))
    yield Case("headers too long by one", "6585 5", get("A: " + "b" * (rest + 1)), 431)
    yield Case("a header without end", "6585 5", get()[:-2] + b"A: " + b"b" * 70_000, 431)
    yield Case("too many trailers", "6585 5", chunked(b"0\r\n" + b"A: b\r\n" * (HEADERS + 1)), 431)
    yield Case("a trailer without end", "6585 5", chunked(b"0\r\nA: " + b"b" * 70_000), 431)
    yield Case("a length over the limit", "9110 15.5.14", post(f"Content-Length: {BODY_BYTES + 1}"), 413)
    yield Case("a length of thirty digits", "9110 15.5.14", post("Content-Length: " + "9" * 30), 413)
    yield Case("a length of five thousand digits", "9110 15.5.14", post("Content-Length: " + "9" * 5000), 413)
    yield Case("a chunk over the limit", "9110 15.5.14", chunked(f"{BODY_BYTES + 1:x}\r\n".encode()), 413)
    yield Case("a chunk's size of twenty digits", "9112 7.1", chunked(b"f" * 20 + b"\r\n"), 413)
    large = chunked(b"1\r\na\r\n" + f"{BODY_BYTES:x}\r\n".encode())
    yield Case("chunks over the limit together", "9110 15.5.14", large, 413)


def _connections() -> Iterator[Case]:
    clause = "9112 9.3"
    yield Case("Connection: keep-alive", clause, get("Connection: keep-alive"))
    yield Case("an option that nobody knows", "9110 7.6.1", get("Connection: closed, x"))
    for value in ("close", "Close", "close, upgrade", "upgrade,close", "keep-alive, close", " , close ,"):
        yield Case(f"Connection: {value!r}", "9112 9.6", get(f"Connection: {value}"), goes_on=False)
    yield Case("Connection twice", "9112 9.6", get("Connection: x", "Connection: close"), goes_on=False)
    old = f"GET {PATH} HTTP/1.0"
    yield Case("HTTP/1.0", clause, head(old), goes_on=False)
    yield Case("HTTP/1.0 that stays", clause, head(old, "Connection: Keep-Alive"))
    yield Case("HTTP/1.0 that stays and closes", clause, head(old, "Connection: keep-alive, close"), goes_on=False)
    stays = head(f"POST {PATH} HTTP/1.0", "Content-Length: 2", "Connection: keep-alive") + b"hi"
    yield Case("HTTP/1.0 that stays, with a body", clause, stays, body=b"hi")
    yield Case("HEAD", "9110 9.3.2", target(PATH, "HEAD"))
    upgrade = post("Connection: Upgrade", "Upgrade: websocket", "Content-Length: 2", body=b"hi")
    yield Case("an upgrade that nobody grants", "9110 7.8", upgrade, body=b"hi")
    upgrade = get("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
    yield Case("an upgrade to HTTP/2", "9110 7.8", upgrade)
    expected = post("Expect: 100-continue", "Content-Length: 2", body=b"hi")
    # Answered before its body was wanted, nobody can know whether the client sends it.
    yield Case("an expectation with its body", "9110 10.1.1", expected, body=b"hi", goes_on=None)
    yield Case("an expectation without a body", "9110 10.1.1", get("Expect: 100-continue"))
    yield Case(
        "an expectation that nobody knows",
        "9110 10.1.1",
        post("Expect: x", "Content-Length: 2", body=b"hi"),
        body=b"hi",
    )
    expected = head(f"POST {PATH} HTTP/1.0", "Expect: 100-continue", "Content-Length: 2") + b"hi"
    yield Case("an expectation in HTTP/1.0", "9110 10.1.1", expected, body=b"hi", goes_on=False)


CASES: Final = (
    *_messages(),
    *_versions(),
    *_request_lines(),
    *_targets(),
    *_hosts(),
    *_fields(),
    *_lengths(),
    *_codings(),
    *_chunks(),
    *_limits(),
    *_connections(),
)
