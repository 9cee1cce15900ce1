"""The reader of header blocks against `hpack`, whose Huffman code and static table it shares."""

from __future__ import annotations

import string as letters
from typing import Final

import hpack
import pytest
from frames import block, indexed, literal, string
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.ports.hpack import TABLE_BYTES, Broken, Decoder, Field

quick = settings(max_examples=300, deadline=None)
NAMES: Final = st.sampled_from([b":path", b"accept", b"content-length", b"traceparent", b"x"]) | st.binary(max_size=9)
VALUES: Final = st.binary(max_size=30) | st.text(letters.printable, max_size=300).map(str.encode)
FIELDS: Final = st.lists(st.tuples(NAMES, VALUES), max_size=12)


def decoded(decoder: Decoder, written: bytes) -> list[Field]:
    fields, whole = decoder.decode(written, max_bytes=1 << 20, max_fields=1000)
    assert whole
    return fields


@quick
@given(st.lists(st.tuples(FIELDS, st.booleans(), st.integers(0, TABLE_BYTES)), max_size=8))
def test_it_reads_what_another_has_written_whatever_came_before(blocks: list[tuple[list[Field], bool, int]]) -> None:
    encoder, decoder = hpack.Encoder(), Decoder()
    for fields, huffman, table_bytes in blocks:
        encoder.header_table_size = table_bytes
        version = decoder.version
        assert decoded(decoder, encoder.encode(fields, huffman=huffman)) == fields
        assert decoder.version >= version


PIECES: Final = st.one_of(
    st.binary(max_size=6),
    st.sampled_from(
        [b"\x82", b"\xbe", b"\xbf", b"\xff\x00", b"\x20", b"\x3f\xe1\x1f", b"\x3f\xe2\x1f", b"\x7f\x00", b"\x1f\x0f"]
    ),
    st.builds(literal, NAMES, VALUES),
    st.builds(indexed, NAMES, VALUES),
    st.builds(lambda value: b"\x7e" + string(value), VALUES),
    st.builds(lambda value: b"\x0f\x2f" + string(value), VALUES),
)


@quick
@given(st.lists(st.lists(PIECES, max_size=6).map(b"".join), min_size=1, max_size=4))
def test_of_any_bytes_it_makes_what_hpack_makes_of_them(blocks: list[bytes]) -> None:
    theirs, ours = hpack.Decoder(1 << 20), Decoder()
    for written in blocks:
        try:
            expected = [tuple(field) for field in theirs.decode(written, raw=True)]
        except hpack.HPACKError:
            with pytest.raises(Broken):
                decoded(ours, written)
            return
        assert decoded(ours, written) == expected


def test_the_version_tells_whether_the_same_bytes_still_mean_the_same() -> None:
    decoder = Decoder()
    assert decoded(decoder, block((b"a", b"b"))) == [(b"a", b"b")]
    assert decoder.version == 0
    decoded(decoder, indexed(b"a", b"b"))
    assert decoder.version == 1
    assert decoded(decoder, b"\xbe") == [(b"a", b"b")]
    assert decoder.version == 1
    decoded(decoder, b"\x20")
    assert decoder.version == 2
    with pytest.raises(Broken, match="beyond its tables"):
        decoded(decoder, b"\xbe")


def test_a_field_larger_than_the_table_empties_it() -> None:
    decoder = Decoder()
    decoded(decoder, indexed(b"a", b"b") + indexed(b"c", bytes(TABLE_BYTES)))
    with pytest.raises(Broken):
        decoded(decoder, b"\xbe")


def test_of_a_block_with_too_much_only_what_may_be_is_kept_and_the_next_can_be_read() -> None:
    decoder = Decoder()
    bomb = indexed(b"a", bytes(4000)) + b"\xbe" * 10_000
    fields, whole = decoder.decode(bomb, max_bytes=3 * 4033, max_fields=100)
    assert (len(fields), whole) == (3, False)
    assert decoder.decode(bomb, max_bytes=1 << 30, max_fields=100)[1] is False
    assert decoder.decode(b"\xbe", max_bytes=4033, max_fields=1) == ([(b"a", bytes(4000))], True)
    assert decoder.decode(b"\xbe", max_bytes=4032, max_fields=1) == ([], False)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (b"\x80", "Its index is 0"),
        (b"\xbe", "beyond its tables"),
        (b"\xff", "ends early"),
        (b"\x82\x20", "size changes behind a field"),
        (b"\x3f\xe2\x1f", "The table may have 4096 bytes"),
        (b"\xff\xff\xff\xff\xff\xff\x00", "integer in it is too large"),
        (b"\x00\x05abc", "A string in it ends early"),
        (b"\x00\x01a", "It ends early"),
        (b"\x00\x01a\x81\x00", "Huffman"),
    ],
    ids=["index 0", "no entry", "half an index", "late size", "size", "integer", "name", "no value", "huffman"],
)
def test_what_cannot_be_read_is_told(written: bytes, said: str) -> None:
    with pytest.raises(Broken, match=said):
        decoded(Decoder(), written)
