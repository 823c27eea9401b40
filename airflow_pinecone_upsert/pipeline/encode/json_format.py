"""A record as a JSON object, as ``POST /vectors/upsert`` takes it."""

from __future__ import annotations

from collections.abc import Mapping
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

    def decode(self, body: bytes) -> Mapping[str, Any]:
        record: Mapping[str, Any] = orjson.loads(body)
        return record


JSON: Final = _JsonFormat()
