"""
A record as the message ``Vector`` of Pinecone's gRPC API, with the tag and the length that it has in an ``UpsertRequest``.

Repeated fields of concatenated messages concatenate, so a request is its records one after another, and the namespace.

The messages (https://github.com/pinecone-io/pinecone-api, ``db_data_2025-04.proto``; https://protobuf.dev/reference/protobuf/google.protobuf/#struct)::

    UpsertRequest  1 vectors: repeated Vector   2 namespace: string
    Vector         1 id: string   2 values: repeated float   3 metadata: Struct   4 sparse_values: SparseValues
    SparseValues   1 indices: repeated uint32   2 values: repeated float
    Struct         1 fields: map of string to Value
    Value          2 number_value: double   3 string_value: string   4 bool_value: bool   6 list_value: ListValue
    ListValue      1 values: repeated Value

Invariant: the components of a vector are copied from the memory of their column, little-endian, and so arrive bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any, Final

import numpy as np

from airflow_pinecone_upsert.api.protobuf import delimited, fields, head, packed_varints, read_packed_varints, varint
from airflow_pinecone_upsert.pipeline.encode.wire_format import Vector, WireFormat

_FLOAT32: Final = np.dtype("<f4")
_EXACT_INTEGERS: Final = 2**53
_NUMBER_BYTES: Final = 8
_HEADS_REMEMBERED: Final = 1_024
"""Of entries, by key and by length of the text: a dictionary's look-up instead of a dozen of calls."""

_pack_double: Final = Struct("<d").pack
_unpack_double: Final = Struct("<d").unpack

# A tag is the number of the field times 8, and the wire type: 0 varint, 1 eight bytes, 2 with a length.
_FIRST, _SECOND, _THIRD, _FOURTH, _SIXTH = (bytes([number << 3 | 2]) for number in (1, 2, 3, 4, 6))
_NUMBER_VALUE, _TEXT_VALUE, _BOOL_VALUE, _LIST_VALUE = 2, 3, 4, 6
_NUMBER_TAG: Final = bytes([_NUMBER_VALUE << 3 | 1])
_BOOL_TAG: Final = bytes([_BOOL_VALUE << 3])


class _ProtobufFormat(WireFormat):
    name = "protobuf"
    transport = "grpc"
    head = b""
    separator = b""
    is_decimal = False
    max_json_growth = 6  # a control character is one byte here, and \u0001 in JSON

    def tail(self, namespace: str) -> bytes:
        return delimited(_SECOND, namespace.encode()) if namespace else b""

    def encode(
        self,
        record_id: str,
        values: Vector | None,
        sparse: Mapping[str, Any] | None,
        metadata: Mapping[str, Any] | None,
    ) -> bytes:
        # Lengths are added up by hand: a call for each part would take a sixth of the time.
        encoded_id = record_id.encode()
        id_head = head(_FIRST, len(encoded_id))
        size = len(id_head) + len(encoded_id)
        vector: Any = b""
        vector_head = struct = struct_head = sparse_values = sparse_head = b""
        if values is not None and (count := values.nbytes):
            vector, vector_head = values, head(_SECOND, count)
            size += len(vector_head) + count
        if metadata:
            struct = _struct(metadata)
            struct_head = head(_THIRD, len(struct))
            size += len(struct_head) + len(struct)
        if sparse is not None:
            sparse_values = _sparse_values(sparse)
            sparse_head = head(_FOURTH, len(sparse_values))
            size += len(sparse_head) + len(sparse_values)
        ends = (struct_head, struct, sparse_head, sparse_values)
        return b"".join((head(_FIRST, size), id_head, encoded_id, vector_head, vector, *ends))

    def binary_sizes(self, bodies: Sequence[bytes]) -> list[int]:
        return list(map(len, bodies))  # with a few bytes of tags and lengths

    def decode(self, body: bytes) -> Mapping[str, Any]:
        ((_, vector),) = fields(body)
        record: dict[str, Any] = {}
        for number, content in fields(_content(vector)):
            match number:
                case 1:
                    record["id"] = _content(content).decode()
                case 2:
                    record["values"] = _floats(content)
                case 3:
                    record["metadata"] = dict(_entry(_content(entry)) for _, entry in fields(_content(content)))
                case 4:
                    parts = dict(fields(_content(content)))
                    indices = read_packed_varints(_content(parts.get(1, b"")))
                    record["sparseValues"] = {"indices": indices, "values": _floats(parts.get(2, b""))}
        return record


PROTOBUF: Final = _ProtobufFormat()


def _sparse_values(sparse: Mapping[str, Any]) -> bytes:
    values = delimited(_SECOND, sparse["values"].tobytes())
    return delimited(_FIRST, packed_varints(sparse["indices"])) + values


def _struct(metadata: Mapping[str, Any]) -> bytes:
    parts: list[bytes] = []
    for key, value in metadata.items():
        kind = type(value)
        if kind is str:
            text = value.encode()
            parts += (_text_head(key, len(text)), text)
        elif kind is float or kind is int:
            parts += (_number_head(key), _pack_double(value))
        elif kind is bool:
            parts.append(_bool_field(key, value))
        else:
            parts.append(_other_field(key, value))
    return b"".join(parts)


@lru_cache(_HEADS_REMEMBERED)
def _text_head(key: str, size: int) -> bytes:
    """Return an entry up to its text."""
    return _head_before(key, head(_THIRD, size), size)


@lru_cache(_HEADS_REMEMBERED)
def _number_head(key: str) -> bytes:
    """Return an entry up to its number."""
    return _head_before(key, _NUMBER_TAG, _NUMBER_BYTES)


@lru_cache(_HEADS_REMEMBERED)
def _bool_field(key: str, value: bool) -> bytes:  # noqa: FBT001 - the value of a key
    return _head_before(key, _BOOL_TAG + varint(value), 0)


def _other_field(key: str, value: Any) -> bytes:
    """Encode an entry with a list of strings, or of a subclass of a type that is more common."""
    if isinstance(value, list):
        texts = b"".join([delimited(_FIRST, delimited(_THIRD, text.encode())) for text in value])
        return _head_before(key, head(_SIXTH, len(texts)), len(texts)) + texts
    if isinstance(value, str):
        text = value.encode()
        return _text_head(key, len(text)) + text
    return _number_head(key) + _pack_double(value)


def _head_before(key: str, start: bytes, size: int) -> bytes:
    """
    Return the bytes of an entry before the last ones of its value.

    :param start: The first bytes of the value.
    :param size: How many follow.
    """
    before = delimited(_FIRST, key.encode()) + head(_SECOND, len(start) + size) + start
    return head(_FIRST, len(before) + size) + before


def _content(value: int | bytes) -> bytes:
    assert isinstance(value, bytes)  # noqa: S101 - this module wrote it
    return value


def _floats(value: int | bytes) -> Vector:
    return np.frombuffer(_content(value), _FLOAT32)


def _entry(entry: bytes) -> tuple[str, Any]:
    parts = dict(fields(entry))
    return _content(parts[1]).decode(), _read_value(_content(parts[2]))


def _read_value(value: bytes) -> Any:
    ((kind, content),) = fields(value)
    if kind == _BOOL_VALUE:
        return bool(content)
    encoded = _content(content)
    if kind == _TEXT_VALUE:
        return encoded.decode()
    if kind == _LIST_VALUE:
        return [_read_value(_content(item)) for _, item in fields(encoded)]
    (number,) = _unpack_double(encoded)
    is_integer = number.is_integer() and abs(number) <= _EXACT_INTEGERS and str(number) != "-0.0"
    return int(number) if is_integer else number
