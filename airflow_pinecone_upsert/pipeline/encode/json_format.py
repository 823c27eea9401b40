"""A record as a JSON object, as ``POST /vectors/upsert`` takes it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from airflow_pinecone_upsert.pipeline.encode.wire_format import Vector, WireFormat


class _JsonFormat(WireFormat):
    name = "JSON"
    transport = "rest"
    head = b'{"vectors":['
    separator = b","
    is_decimal = True
    max_json_growth = 1

    def tail(self, namespace: str) -> bytes:
        return b'],"namespace":%b}' % orjson.dumps(namespace) if namespace else b"]}"

    def encode(
        self,
        record_id: str,
        values: Vector | None,
        sparse: Mapping[str, Any] | None,
        metadata: Mapping[str, Any] | None,
    ) -> bytes:
        record: dict[str, Any] = {"id": record_id}
        if values is not None:
            record["values"] = values
        if sparse is not None:
            record["sparseValues"] = sparse
        if metadata is not None:
            record["metadata"] = metadata
        # Copied, because what orjson returns is the start of a larger buffer: thousands of the remainders fragment the heap,
        # and short records took twice the time.
        try:
            return b"%b" % orjson.dumps(record, None, orjson.OPT_SERIALIZE_NUMPY)
        except TypeError as exc:
            raise UnicodeError(str(exc)) from exc

    def binary_sizes(self, bodies: Sequence[bytes]) -> list[int]:
        dense_bytes = _dense_bytes(bodies[0]) if bodies else 0
        return [_binary_size(body, dense_bytes) for body in bodies]

    def decode(self, body: bytes) -> Mapping[str, Any]:
        record: Mapping[str, Any] = orjson.loads(body)
        return record


JSON: Final = _JsonFormat()

_ID: Final = re.compile(rb'\{"id":"[^"\\]*(?:\\.[^"\\]*)*","')
"""The start of a record, up to the next key. Within the id, a quotation mark follows a backslash."""

_DENSE: Final = b'values":['
_SPARSE: Final = b'sparseValues":{"indices":['
_COMPONENT_BYTES: Final = 4
_SPARSE_ENTRY_BYTES: Final = 8


def _after_id(body: bytes) -> int:
    found = _ID.match(body)
    return found.end() if found else 0


def _dense_bytes(body: bytes) -> int:
    """Return the binary size of a record's dense vector; 0 where it has none."""
    start = _after_id(body)
    if not body.startswith(_DENSE, start):
        return 0
    return _COMPONENT_BYTES * (body.count(b",", start, body.index(b"]", start)) + 1)


def _binary_size(body: bytes, dense_bytes: int) -> int:
    """
    Return the binary size of a record. Its keys count as if they were data, except for those around a vector.

    :param dense_bytes: That of its dense vector, if it has one: digits are skipped, not counted.
    """
    start = _after_id(body)
    size = start
    if body.startswith(_DENSE, start):
        size += dense_bytes
        start = body.index(b"]", start) + len(b'],"')
    if body.startswith(_SPARSE, start):
        start += len(_SPARSE)
        end = body.index(b"]", start)
        size += _SPARSE_ENTRY_BYTES * (body.count(b",", start, end) + 1)
        start = body.index(b"]", end + 1) + len(b"]}")
    return size + len(body) - start
