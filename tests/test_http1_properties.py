"""What holds of the HTTP/1.1 machine for all bytes.

Cut anyhow they mean the same, and other parsers agree with what it accepts.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import h11
import httptools
import pytest
from conformance import CASES, Case, get
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from machine_limits import DEFAULT, NARROW

from serving.errors import RequestError
from serving.messages import Answer
from serving.ports.http1 import Body, Http1Limits, Machine, State

quick = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Run(NamedTuple):
    events: list[Any]
    written: list[bytes]  # without what says that a body is wanted, which depends on when that comes
    state: State  # where the last answer was given: LINGERING, as it is if bytes were left then


def run(pieces: list[bytes], limits: Http1Limits, *, early: frozenset[str] = frozenset(), end: bool = False) -> Run:
    """Gives `pieces` to a machine. Requests whose method is in `early` are answered before their bodies are read."""
    machine = Machine(limits, 0)
    events: list[Any] = []
    written: list[bytes] = []

    def pump() -> None:
        try:
            while event := machine.next_event(0):
                events.append(event)
                if isinstance(event, Body):
                    written.append(machine.answer(Answer(200, event.data), 0, date=b""))
                elif event.method in early:
                    written.append(machine.answer(Answer(404, b"no"), 0, date=b""))
                else:
                    machine.accept(0)
        except RequestError as error:
            events.append((error.kind, str(error)))
            written.append(machine.refuse(error, 0, date=b""))

    for piece in pieces:
        machine.receive(piece, 0)
        pump()
    if end:
        machine.receive_end(0)
        pump()
    return Run(events, written, State.LINGERING if machine.state is State.CLOSED else machine.state)


def cut(sent: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted({place % (len(sent) + 1) for place in cuts}), len(sent)]
    return [sent[start:end] for start, end in itertools.pairwise(places) if start < end]


# Requests, right and nearly so

TOKEN: Final = st.text("abcXYZ019-_!#$%&'*+.^`|~", min_size=1, max_size=8)
NAMES: Final = TOKEN.map(lambda name: f"X-{name}")
VALUES: Final = st.text(
    st.one_of(
        st.sampled_from('ab ,;=:\t"\\/'),
        st.characters(min_codepoint=0x21, max_codepoint=0xFF, blacklist_characters="\x7f", blacklist_categories=["Cc"]),
    ),
    max_size=12,
)
SPACES: Final = st.sampled_from(["", " ", "\t", "  \t"])
PATHS: Final = st.text("ab/.-_~!$&'()*+,;=:@19", max_size=20).map("/".__add__)
QUERIES: Final = st.one_of(st.just(""), st.text('ab=&/?%[]{}|^`"<>', max_size=12).map("?".__add__))
METHODS: Final = st.sampled_from(["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "M-SEARCH", "get", "X!"])
HOSTS: Final = st.sampled_from(["x", "example.org:80", "127.0.0.1:8000", "[::1]:1", "a-b.c", "x:"])
BODIES: Final = st.binary(max_size=60)


@st.composite
def chunks(draw: st.DrawFn, body: bytes) -> bytes:
    sent, at = b"", 0
    while at < len(body):
        size = draw(st.integers(1, len(body) - at))
        extension = draw(st.sampled_from(["", ";a", ";a=b", ';a="b;\\"c"', ";a;b=c"]))
        zeros = "0" * draw(st.integers(0, 2))
        sent += f"{zeros}{size:{draw(st.sampled_from('xX'))}}{extension}\r\n".encode() + body[at : at + size] + b"\r\n"
        at += size
    trailers = draw(st.lists(st.tuples(NAMES, VALUES), max_size=2))
    return sent + b"0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in trailers).encode("latin-1") + b"\r\n"


class Sent(NamedTuple):
    method: str
    target: str
    headers: dict[bytes, bytes]
    body: bytes
    bytes_: bytes


@st.composite
def requests(draw: st.DrawFn) -> Sent:
    """A request that is right in every way, and for HTTP/1.1."""
    method, target = draw(METHODS), draw(PATHS) + draw(QUERIES)
    fields = [("Host", draw(HOSTS))]
    fields += draw(st.lists(st.tuples(NAMES, VALUES), max_size=4, unique_by=lambda field: field[0].lower()))
    body = draw(BODIES)
    match draw(st.sampled_from(["length", "chunked", "none"])):
        case "length":
            fields.append((draw(st.sampled_from(["Content-Length", "content-length"])), str(len(body))))
            encoded = body
        case "chunked":
            fields.append(("Transfer-Encoding", draw(st.sampled_from(["chunked", "Chunked"]))))
            encoded = draw(chunks(body))
        case _:
            body = encoded = b""
    fields = draw(st.permutations(fields))
    lines = [f"{name}:{draw(SPACES)}{value}{draw(SPACES)}\r\n" for name, value in fields]
    headers = {name.lower().encode(): value.strip(" \t").encode("latin-1") for name, value in fields}
    sent = f"{method} {target} HTTP/1.1\r\n{''.join(lines)}\r\n".encode("latin-1") + encoded
    return Sent(method, target, headers, body, sent)


@st.composite
def nearly(draw: st.DrawFn) -> bytes:
    """Requests of which a few bytes were changed, left out or put in; or one of the table's cases."""
    if draw(st.booleans()):
        sent = draw(st.sampled_from([case.sent for case in CASES if len(case.sent) < 2000])) + get()
    else:
        sent = b"".join(request.bytes_ for request in draw(st.lists(requests(), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(sent)))
        what = draw(
            st.sampled_from(
                [b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b"\x00", b":", b"0", b"\xff", b",", b"%", b"#", b";"]
            )
        )
        sent = sent[:at] + what + sent[at + draw(st.integers(0, 2)) :]
    return sent


CUTS: Final = st.lists(st.integers(0, 5000), max_size=12)


@quick
@given(nearly(), CUTS, st.frozensets(st.sampled_from(["GET", "POST", "PUT", "HEAD"])), st.booleans())
def test_any_cut_of_the_bytes_gives_the_same_events_and_answers(
    sent: bytes, cuts: list[int], early: frozenset[str], narrow: bool
) -> None:
    limits = NARROW if narrow else DEFAULT
    assert run(cut(sent, cuts), limits, early=early) == run([sent], limits, early=early)


@quick
@given(nearly(), st.frozensets(st.sampled_from(["GET", "POST", "PUT", "HEAD"])))
def test_byte_by_byte_gives_the_same_events_and_answers(sent: bytes, early: frozenset[str]) -> None:
    whole = run([sent], NARROW, early=early)
    assert run([sent[at : at + 1] for at in range(len(sent))], NARROW, early=early) == whole


@quick
@given(st.lists(requests(), min_size=1, max_size=4), CUTS)
def test_every_request_that_is_right_is_read_as_it_was_meant(sent: list[Sent], cuts: list[int]) -> None:
    assume(all(len(request.bytes_) < 5000 for request in sent))
    found = run(cut(b"".join(request.bytes_ for request in sent), cuts), DEFAULT, end=True)
    heads, bodies = found.events[::2], found.events[1::2]
    assert [body.data for body in bodies] == [request.body for request in sent]
    for head, request in zip(heads, sent, strict=True):
        assert (head.method, head.target.decode()) == (request.method, request.target)
        assert head.headers == request.headers
    assert found.state is State.LINGERING


@quick
@given(st.binary(max_size=300), CUTS)
def test_any_bytes_at_all_end_in_a_request_or_a_refusal(sent: bytes, cuts: list[int]) -> None:
    found = run(cut(sent, cuts), NARROW, end=True)
    assert found.state is State.LINGERING
    assert found == run([sent], NARROW, end=True)


# Other parsers as judges: what the machine accepts, they accept too, with the same meaning and the same end. But for this:
#
# - empty lines before a request: h11 knows none;
# - methods outside of llhttp's own list;
# - trailers that say how to read a body: llhttp refuses them, the machine drops them, as RFC 9110 6.5.1 has it;
# - a tab behind `chunked`, which is optional whitespace: llhttp refuses it;
# - Upgrade: llhttp stops behind the head, where the body belongs to the request until somebody has agreed to it.

LLHTTP_METHODS: Final = frozenset({"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "M-SEARCH"})
LLHTTP_REFUSES: Final = re.compile(
    rb"\ntransfer-encoding:[ \t]*chunked *\t|\r\n\r\n(?s:.)*\n(?:content-length|transfer-encoding):|\nupgrade:",
    re.IGNORECASE,
)


class Read(NamedTuple):
    method: str
    target: bytes
    headers: dict[bytes, bytes]
    body: bytes


def accepted(sent: bytes) -> list[tuple[Read, bytes]]:
    """Every request that the machine reads, with its own bytes."""
    machine = Machine(DEFAULT, 0)
    found: list[tuple[Read, bytes]] = []
    came = b""
    for byte in sent:
        came += bytes([byte])
        machine.receive(bytes([byte]), 0)
        try:
            event = machine.next_event(0)
            if event is not None and not isinstance(event, Body):
                head = event
                machine.accept(0)
                event = machine.next_event(0)
            if isinstance(event, Body):
                read = Read(head.method, head.target, joined(head.headers.items()), event.data)
                found.append((read, came.lstrip(b"\r\n")))
                came = b""
                machine.answer(Answer(204, b""), 0, date=b"")
        except RequestError:
            break
        if machine.state in (State.LINGERING, State.CLOSED):
            break
    return found


def joined(fields: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for name, value in fields:
        name, value = name.lower(), value.strip(b" \t")
        if name == b"transfer-encoding":
            value = value.lower()  # as h11 gives it
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def read_with_h11(sent: bytes) -> tuple[Read | None, bytes]:
    """The request, if it is whole, and what is behind it."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=100_000)
    connection.receive_data(sent)
    body = b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            headers = joined(request.headers)
            return Read(request.method.decode(), request.target, headers, body), connection.trailing_data[0]
        else:
            return None, b""


class Llhttp:
    def __init__(self) -> None:
        self.target = self.body = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.heads: list[dict[bytes, bytes]] = []
        self.whole = 0

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:  # trailers come behind it
        self.heads.append(joined(self.fields))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.whole += 1


def read_with_llhttp(sent: bytes) -> Read | None:
    """The request, if it is whole with the last byte and not before."""
    found = Llhttp()
    parser = httptools.HttpRequestParser(found)
    parser.feed_data(sent[:-1])
    assert found.whole == 0, "it ended earlier"
    parser.feed_data(sent[-1:])
    if found.whole == 0:
        return None
    return Read(parser.get_method().decode(), found.target, found.heads[0], found.body)


def judge(sent: bytes) -> int:
    """How many requests were accepted, and so judged."""
    requests = accepted(sent)
    for read, own in requests:
        assert read_with_h11(own) == (read, b"")
        if read.method in LLHTTP_METHODS and not LLHTTP_REFUSES.search(own):
            assert read_with_llhttp(own) == read
    return len(requests)


@quick
@given(nearly())
def test_what_is_accepted_means_the_same_to_other_parsers(sent: bytes) -> None:
    judge(sent)


@pytest.mark.parametrize("case", [case for case in CASES if len(case.sent) < 20_000], ids=lambda case: case.name)
def test_what_is_accepted_of_the_cases_means_the_same_to_other_parsers(case: Case) -> None:
    assert judge(case.sent + get()) == (0 if case.status else 1 + (case.goes_on is not False))
