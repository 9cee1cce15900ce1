"""Header blocks of HTTP/2: heads from fields, and answers' headers as `hpack` reads them."""

from __future__ import annotations

from typing import Final

import hpack
import pytest
from machine_limits import NARROW2

from serving.errors import Kind, RequestError
from serving.messages import Head
from serving.ports.http1 import METHOD_BYTES, LocalError
from serving.ports.http2_heads import Malformed, head_of_refused, header_block, read_head

Fields = list[tuple[bytes, bytes]]
REQUEST: Final = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a%20b?c=d"), (b":authority", b"host:1")]


def fields(*further: tuple[bytes, bytes], without: tuple[bytes, ...] = (), **pseudo: bytes) -> Fields:
    replaced = {f":{name}".encode(): value for name, value in pseudo.items()}
    kept = [(name, replaced.get(name, value)) for name, value in REQUEST if name not in without]
    return [*kept, *further]


def read(*further: tuple[bytes, bytes], ends: bool = False, without: tuple[bytes, ...] = (), **pseudo: bytes) -> Head:
    return read_head(fields(*further, without=without, **pseudo), ends, NARROW2, whole=True)


def test_a_head_says_all_that_its_fields_say() -> None:
    assert read((b"a", b"b"), (b"content-length", b"12"), (b"expect", b"100-Continue")) == Head(
        "POST",
        b"/a%20b?c=d",
        "/a b",
        "c=d",
        {b"a": b"b", b"content-length": b"12", b"expect": b"100-Continue", b"host": b"host:1"},
        False,
        12,
        True,
        True,
    )
    assert read(ends=True) == Head("POST", b"/a%20b?c=d", "/a b", "c=d", {b"host": b"host:1"}, False, 0, True, False)
    assert read().length is None


def test_fields_of_one_name_are_joined() -> None:
    head = read((b"cookie", b"a=1"), (b"accept", b"x"), (b"cookie", b"b=2"), (b"accept", b"y"), (b"cookie", b"c=3"))
    assert head.headers == {b"cookie": b"a=1; b=2; c=3", b"accept": b"x, y", b"host": b"host:1"}


@pytest.mark.parametrize(
    ("said", "ends", "expects"),
    [
        ((b"expect", b"100-continue"), True, False),
        ((b"expect", b"something"), False, False),
        ((b"a", b"b"), False, False),
    ],
    ids=["without a body", "something else", "nothing"],
)
def test_who_expects_100_is_only_who_says_so_and_sends_a_body(
    said: tuple[bytes, bytes], ends: bool, expects: bool
) -> None:
    assert read(said, ends=ends).expects_continue is expects


@pytest.mark.parametrize("zeros", [b"0", b"000"])
def test_a_request_without_a_body_may_say_that_its_length_is_zero(zeros: bytes) -> None:
    assert read((b"content-length", zeros), ends=True).length == 0
    with pytest.raises(Malformed):
        read((b"content-length", zeros + b"1"), ends=True)
    with pytest.raises(Malformed):  # nothing comes, and this says otherwise
        read((b"content-length", b"X0X"), ends=True)


@pytest.mark.parametrize("name", [b":method", b":scheme", b":path"])
def test_a_request_without_one_of_these_is_malformed(name: bytes) -> None:
    with pytest.raises(Malformed):
        read(without=(name,))


@pytest.mark.parametrize("without", [(b":path",), (b":scheme",), ()])
def test_connect_has_neither_a_path_nor_a_scheme(without: tuple[bytes, ...]) -> None:
    with pytest.raises(Malformed):
        read(without=without, method=b"CONNECT")
    with pytest.raises(RequestError, match="takes no CONNECT"):
        read(without=(b":path", b":scheme"), method=b"CONNECT")


def test_what_is_just_as_long_as_may_be_is_taken() -> None:
    assert read(method=b"M" * METHOD_BYTES).method == "M" * METHOD_BYTES
    assert len(read(path=b"/" + b"x" * 79).target) == 80
    with pytest.raises(RequestError) as found:
        read(method=b"M" * (METHOD_BYTES + 1))
    assert found.value.kind is Kind.UNSUPPORTED
    with pytest.raises(RequestError) as found:
        read(path=b"/" + b"x" * 80)
    assert found.value.kind is Kind.TARGET_TOO_LONG


def test_of_a_refused_head_remains_what_its_answer_needs() -> None:
    head = head_of_refused(fields((b"content-type", b"application/grpc"), (b"a", b"b"), method=b"HE\xc4D" * 20))
    assert head.method == ("HE\xc4D" * 20)[:METHOD_BYTES]
    assert head.headers == {b"content-type": b"application/grpc"}
    assert (head_of_refused([]).method, head_of_refused([]).headers) == ("", {})


# Writing


def decoded(block: bytes) -> Fields:
    return [
        (bytes(name), bytes(value))
        for name, value in hpack.Decoder(max_header_list_size=1 << 20).decode(block, raw=True)
    ]


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 128, 129, 254, 255, 256, 382, 16_384, 40_000])
def test_a_string_of_any_length_is_read_as_it_was_written(length: int) -> None:
    text = bytes(33 + one % 90 for one in range(length))
    assert decoded(header_block(None, ((b"grpc-message", text),))) == [(b"grpc-message", text)]
    if length:
        name = b"n" * length
        assert decoded(header_block(None, ((name, b"x"),))) == [(name, b"x")]


@pytest.mark.parametrize("status", [200, 204, 206, 304, 400, 404, 418, 500, 503])
def test_a_status_is_written_as_the_static_table_has_it(status: int) -> None:
    block = header_block(status, ())
    assert decoded(block) == [(b":status", b"%d" % status)]
    assert len(block) == (1 if status in (200, 204, 206, 304, 400, 404, 500) else 5)


def test_names_of_the_static_table_cost_a_byte_or_two() -> None:
    block = header_block(None, ((b"content-type", b"a"), (b"www-authenticate", b"b"), (b"age", b"c")))
    assert decoded(block) == [(b"content-type", b"a"), (b"www-authenticate", b"b"), (b"age", b"c")]
    assert len(block) == 3 * 4


@pytest.mark.parametrize("bad", [(b"a b", b"x"), (b"a", b"x\r\n"), (b"A", b"x"), (b"a", b" x")])
def test_what_is_no_header_is_the_servers_mistake(bad: tuple[bytes, bytes]) -> None:
    with pytest.raises(LocalError, match="This is not a header"):
        header_block(200, (bad,))
