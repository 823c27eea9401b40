"""
The wire format of protobuf, as far as this package writes and reads it.

https://protobuf.dev/programming-guides/encoding/. It is written by hand because vectors are copied as they are in memory: a message class of protobuf's own library takes a
Python float for each component. That library is the judge in the tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_PAYLOAD_BITS: Final = 7
_MORE: Final = 0x80
_HEADS_REMEMBERED: Final = 8_192
_UINT32_SHIFTS: Final = np.array([0, 7, 14, 21, 28], np.uint64)
"""Of the groups of seven bits of a uint32."""

_WIRE_TYPE_BITS: Final = 3
_VARINT, _EIGHT_BYTES, _DELIMITED, _FOUR_BYTES = 0, 1, 2, 5


@lru_cache(_HEADS_REMEMBERED)
def head(tag: bytes, size: int) -> bytes:
    """
    Encode what precedes the content of a field that has a length. Remembered: each record has a dozen of them.

    :param tag: The number of the field and the wire type 2, encoded.
    :param size: Bytes of the content.
    """
    return tag + varint(size)


def varint(number: int) -> bytes:
    """
    Encode an unsigned integer.

    :param number: Not negative.
    """
    groups = bytearray()
    while number >= _MORE:
        groups.append(number & (_MORE - 1) | _MORE)
        number >>= _PAYLOAD_BITS
    groups.append(number)
    return bytes(groups)


def delimited(tag: bytes, content: bytes) -> bytes:
    """
    Encode a field that has a length: text, bytes, or a message.

    :param tag: The number of the field and the wire type 2, encoded.
    :param content: The encoded value.
    """
    return head(tag, len(content)) + content


def packed_varints(numbers: npt.NDArray[Any]) -> bytes:
    """
    Encode the content of a packed field of uint32.

    :param numbers: Integers from 0 to 2**32 - 1, shape (n,); of any other only the low 35 bits are written.
    """
    groups = numbers.astype(np.uint64)[:, None] >> _UINT32_SHIFTS
    is_written = groups > 0
    is_written[:, 0] = True
    content = (groups & np.uint64(_MORE - 1)).astype(np.uint8)
    content[groups >= _MORE] |= _MORE
    encoded: bytes = content[is_written].tobytes()
    return encoded


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """
    Yield the fields of a message, in order.

    :param message: The encoded message.
    :return: The number of each field, and an integer or, of any other type, its encoded value.
    :raises ValueError: It is not a message.
    """
    position = 0
    while position < len(message):
        key, position = _read_varint(message, position)
        kind = key & (1 << _WIRE_TYPE_BITS) - 1
        value: int | bytes
        if kind == _VARINT:
            value, position = _read_varint(message, position)
        elif kind in (_EIGHT_BYTES, _DELIMITED, _FOUR_BYTES):
            size, position = (
                _read_varint(message, position) if kind == _DELIMITED else (8 if kind == 1 else 4, position)
            )
            value, position = message[position : position + size], position + size
            if len(value) < size:
                raise ValueError("the message ends within a field")
        else:
            raise ValueError(f"wire type {kind}")
        yield key >> _WIRE_TYPE_BITS, value


def read_packed_varints(content: bytes) -> list[int]:
    """Decode the content of a packed field of integers."""
    numbers = []
    position = 0
    while position < len(content):
        number, position = _read_varint(content, position)
        numbers.append(number)
    return numbers


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    while position < len(message):
        byte = message[position]
        position += 1
        number |= (byte & (_MORE - 1)) << shift
        if byte < _MORE:
            return number, position
        shift += _PAYLOAD_BITS
    raise ValueError("the message ends within a number")
