"""What a client's header blocks mean: RFC 7541, read as fast as Python can.

The Huffman code and the static table are `hpack`'s, which is the oracle of the tests. Its decoder copies the rest of the block
for each field and stops where a list is too long; this one reads such a block to its end, so that the connection can go on.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from hpack import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

TABLE_BYTES: Final = 4096  # of the dynamic table, which is what every client begins with
ENTRY_BYTES: Final = 32  # that a field counts for besides its name and value (RFC 7541, 4.1)
INTEGER_BYTES: Final = 5  # of an integer beyond its prefix

Field = tuple[bytes, bytes]

_STATIC: Final[tuple[Field, ...]] = ((b"", b""), *HeaderTable.STATIC_TABLE)  # indices begin with 1
_FIRST_DYNAMIC: Final = len(_STATIC)


class Broken(Exception):
    """A block cannot be read, and so none that follows."""


class Decoder:
    """The dynamic table of one connection, and its reader.

    Attributes:
        version: changes with the table; as long as it does not, the same bytes mean the same fields.
    """

    def __init__(self) -> None:
        self.version = 0
        self._entries: deque[Field] = deque()  # the newest first
        self._size = 0
        self._max_size = TABLE_BYTES

    def decode(self, block: bytes, *, max_bytes: int, max_fields: int) -> tuple[list[Field], bool]:
        """The fields of a header block, and whether they are all: it is read to its end, but no more are kept than may be.

        Args:
            max_bytes: of names and values together, each field counted with ENTRY_BYTES more.

        Raises:
            Broken: it is no header block.
        """
        fields: list[Field] = []
        entries = self._entries
        at, end = 0, len(block)
        size = 0
        try:
            while at < end:
                first = block[at]
                if first & 0x80:
                    index = first & 0x7F
                    at += 1
                    if index == 0x7F:
                        index, at = _integer(block, at, index)
                    field = _STATIC[index] if index < _FIRST_DYNAMIC else entries[index - _FIRST_DYNAMIC]
                    if not index:
                        raise Broken("Its index is 0.")
                elif first & 0xE0 == 0x20:
                    if size:
                        raise Broken("The table's size changes behind a field.")
                    at = self._resize(block, at)
                    continue
                else:
                    most = 0x3F if first & 0x40 else 0x0F
                    index = first & most
                    at += 1
                    if index == most:
                        index, at = _integer(block, at, index)
                    if index:
                        name = _STATIC[index][0] if index < _FIRST_DYNAMIC else entries[index - _FIRST_DYNAMIC][0]
                    else:
                        name, at = _string(block, at)
                    value, at = _string(block, at)
                    field = name, value
                    if most == 0x3F:
                        self._add(field)
                size += len(field[0]) + len(field[1]) + ENTRY_BYTES
                if size <= max_bytes and len(fields) < max_fields:
                    fields.append(field)
                else:
                    max_fields = 0
        except IndexError:
            raise Broken("It ends early, or an index is beyond its tables.") from None
        except HPACKDecodingError:
            raise Broken("A string in it is not of Huffman's code.") from None
        return fields, max_fields > 0

    def _add(self, field: Field) -> None:
        self.version += 1
        self._entries.appendleft(field)
        self._size += len(field[0]) + len(field[1]) + ENTRY_BYTES
        if self._size > self._max_size:
            self._evict()

    def _resize(self, block: bytes, at: int) -> int:
        size, at = block[at] & 0x1F, at + 1
        if size == 0x1F:
            size, at = _integer(block, at, size)
        if size > TABLE_BYTES:
            raise Broken(f"The table may have {TABLE_BYTES} bytes.")
        self.version += 1
        self._max_size = size
        self._evict()
        return at

    def _evict(self) -> None:
        while self._size > self._max_size:
            name, value = self._entries.pop()
            self._size -= len(name) + len(value) + ENTRY_BYTES


def _integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """An integer whose prefix is full, and where the next begins (RFC 7541, 5.1)."""
    for shift in range(0, 7 * INTEGER_BYTES, 7):
        byte = block[at]
        at += 1
        prefix += (byte & 0x7F) << shift
        if byte < 0x80:
            return prefix, at
    raise Broken("An integer in it is too large.")


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    first = block[at]
    length = first & 0x7F
    at += 1
    if length == 0x7F:
        length, at = _integer(block, at, length)
    end = at + length
    if end > len(block):
        raise Broken("A string in it ends early.")
    text = block[at:end]
    return (decode_huffman(text) if first & 0x80 else text), end
