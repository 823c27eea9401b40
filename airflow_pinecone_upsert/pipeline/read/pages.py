"""
Read the headers of Parquet's pages, which pyarrow does not expose.

A page begins with a ``PageHeader`` in Thrift's compact protocol. It contains numbers, texts and structs, and no other types.
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md

Invariants:

- Whatever the bytes are, the result is a header or None: what is wrong with them is Arrow's to say.
- At most 4 KB are read for a header, in up to eight reads, however long the texts in it are: these are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

_BLOCK_BYTES: Final = 512
"""Of one read. A header takes 20 to 100 bytes, and the lowest and highest text of a page may take kilobytes more."""

_MAX_BLOCKS: Final = 8

_MAX_VARINT_BYTES: Final = 10
_MAX_SIZE: Final = 2**31 - 1
"""Of a page in bytes: a signed integer of 32 bits."""

_MAX_DEPTH: Final = 4
"""Of structs: the statistics, in the header of a data page, in the header of a page."""

_STOP: Final = 0
_BOOLEANS: Final = (1, 2)
_BYTE: Final = 3
_INTEGERS: Final = (4, 5, 6)
_DOUBLE: Final = 7
_BINARY: Final = 8
_STRUCT: Final = 12
"""The types of Thrift's compact protocol. The value of a boolean is its type."""

_UNCOMPRESSED: Final = 2
_COMPRESSED: Final = 3
_CHECKSUM: Final = 4
"""The numbers of fields of ``PageHeader``."""


class PageHeader(NamedTuple):
    """
    What the header of a page says.

    :param uncompressed_bytes: Of the page, without its header.
    :param end: Where the next page begins, as an offset in the file.
    :param has_checksum: Whether a flipped bit of the page can be detected.
    """

    uncompressed_bytes: int
    end: int
    has_checksum: bool


def page_headers(handle: Any, start: int, end: int) -> Iterator[PageHeader]:
    """
    Yield the headers of consecutive pages, up to the first that is not valid. It takes 10 µs for each of a local file.

    :param handle: The file.
    :param start: The offset of the first page in the file.
    :param end: The offset of the first byte after the last page; nothing after it is read.
    :raises StorageError: The storage does not answer.
    """
    while 0 <= start < end and (header := _page_header(_Bytes(handle, start, end))):
        yield header
        start = header.end


def _page_header(content: _Bytes) -> PageHeader | None:
    try:
        fields = _integers_of_struct(content, 0)
    except _MalformedError:
        return None
    uncompressed, compressed = fields.get(_UNCOMPRESSED, -1), fields.get(_COMPRESSED, -1)
    if not (0 <= uncompressed <= _MAX_SIZE and 0 <= compressed <= _MAX_SIZE):
        return None
    return PageHeader(uncompressed, content.position + compressed, _CHECKSUM in fields)


class _MalformedError(Exception):
    """The bytes are not a header."""


class _Bytes:
    """
    The bytes of a part of a file, read in blocks. Each method raises :class:`_MalformedError` where there are too few.

    :ivar position: The offset of the next byte in the file.
    """

    def __init__(self, handle: Any, start: int, end: int) -> None:
        self.position = start
        self._handle = handle
        self._end = end
        self._block = b""
        self._block_start = start
        self._blocks_read = 0

    def byte(self) -> int:
        offset = self.position - self._block_start
        if offset >= len(self._block):
            self._read_block()
            offset = 0
        self.position += 1
        return self._block[offset]

    def varint(self) -> int:
        number = 0
        for index in range(_MAX_VARINT_BYTES):
            byte = self.byte()
            number |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:  # noqa: PLR2004 - the highest bit says that another byte follows
                return number
        raise _MalformedError

    def integer(self) -> int:
        zigzag = self.varint()
        return (zigzag >> 1) ^ -(zigzag & 1)

    def skip(self, count: int) -> None:
        self.position += count

    def _read_block(self) -> None:
        size = min(_BLOCK_BYTES, self._end - self.position)
        if size <= 0 or self._blocks_read == _MAX_BLOCKS:
            raise _MalformedError
        self._blocks_read += 1
        self._handle.seek(self.position)
        self._block, self._block_start = self._handle.read(size), self.position
        if not self._block:
            raise _MalformedError


def _integers_of_struct(content: _Bytes, depth: int) -> dict[int, int]:
    """Return the integers of a struct by the number of their field, without those of structs in it."""
    if depth == _MAX_DEPTH:
        raise _MalformedError
    integers = {}
    number = 0
    while (head := content.byte()) != _STOP:
        number = number + (head >> 4) if head >> 4 else content.integer()
        kind = head & 0x0F
        if kind in _INTEGERS:
            integers[number] = content.integer()
        else:
            _skip(content, kind, depth)
    return integers


def _skip(content: _Bytes, kind: int, depth: int) -> None:
    if kind == _BYTE:
        content.skip(1)
    elif kind == _DOUBLE:
        content.skip(8)
    elif kind == _BINARY:
        content.skip(content.varint())
    elif kind == _STRUCT:
        _integers_of_struct(content, depth + 1)
    elif kind not in _BOOLEANS:
        raise _MalformedError
