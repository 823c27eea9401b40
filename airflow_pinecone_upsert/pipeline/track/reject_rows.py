"""
A rejected record as a row of a file that a person fixes and the operator reads again.

Invariants: the valid parts of a record are in their columns, exactly as they would have been sent; a record with a part
that fits no column is in ``record`` as a whole; nothing of a record is rounded, cut or left out.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa

from airflow_pinecone_upsert.api.models import to_id
from airflow_pinecone_upsert.exceptions import RecordError
from airflow_pinecone_upsert.pipeline.encode.metadata import is_missing, legible, readable_column, readable_json
from airflow_pinecone_upsert.pipeline.encode.vector_forms import plain_lists
from airflow_pinecone_upsert.pipeline.read.chunk import NAMESPACE, PARTS, Chunk, stored_value
from airflow_pinecone_upsert.pipeline.read.columns import is_list_of_numbers
from airflow_pinecone_upsert.pipeline.read.objects import SPARSE_FIELDS, fields_of, record_fields

_SPARSE: Final[Mapping[str, pa.DataType]] = {"indices": pa.int64(), "values": pa.float64()}

_COLUMNS: Final[Mapping[str, pa.DataType]] = {
    "file": pa.string(),
    "row": pa.int64(),
    "id": pa.string(),
    "namespace": pa.string(),
    "reason": pa.string(),
    "field": pa.string(),
    "detail": pa.string(),
    "values": pa.list_(pa.float64()),
    "sparse_values": pa.struct([(name, pa.list_(kind)) for name, kind in _SPARSE.items()]),
    "metadata": pa.string(),
    "record": pa.string(),
}

SCHEMA: Final = pa.schema(_COLUMNS)
"""
The columns of a file of rejects. Once fixed, it is a source with the default column names; ``record`` is the whole
record as JSON where a part of it fits no column. ``namespace`` is what the record names, where records name namespaces.
"""

_TUPLE: Final = ("id", "values", "metadata")


def reject_row(error: RecordError, record: Mapping[str, Any]) -> dict[str, Any]:
    """
    Build a row of a file of rejects.

    :param error: Why the record is rejected.
    :param record: ``id``, ``values``, ``sparse_values`` and ``metadata`` as the source has them, and anything else that
        it has.
    """
    parts = {part: _fitting(part, record.get(part)) for part in (*PARTS, NAMESPACE)}
    fits = all(parts.get(name) is not None for name, part in record.items() if part is not None)
    return {
        "file": error.origin,
        "row": error.row,
        "reason": error.reason,
        "field": error.field,
        "detail": " ".join(filter(None, (f"Found {error.value}." if error.value else "", error.remedy))),
        **parts,
        "record": None if fits else json.dumps(legible(record)),
    }


def source_record(chunk: Chunk, row: int) -> Mapping[str, Any]:
    """Return a record as its source has it, under the names of :data:`SCHEMA`."""
    offset = bisect_left(chunk.rows, row)
    if chunk.objects:
        found = dict(_python_record(chunk.objects[offset]))
        if NAMESPACE in chunk.names:
            found[NAMESPACE] = found.pop(chunk.names[NAMESPACE], None)
        return found
    record: dict[str, Any] = {}
    if chunk.metadata is not None:
        record["metadata"] = None if is_missing(chunk.metadata[offset]) else chunk.metadata[offset]
    for name in chunk.records.schema.names:
        column = chunk.records.column(name)[offset : offset + 1]
        if name == "values":
            plain, violations = plain_lists(column, name)
            column = column if violations else plain
        try:
            record[name] = readable_column(column) if name == "metadata" else column[0].as_py()
        except (pa.ArrowException, ValueError, OverflowError) as exc:
            record[name] = stored_value(column) or f"unreadable: {exc}"
    return record


def sent_record(decoded: Mapping[str, Any], namespace: str | None = None) -> Mapping[str, Any]:
    """
    Return a record as it was sent, under the names of :data:`SCHEMA`.

    :param namespace: Where the records name theirs.
    """
    return {**_renamed(decoded), **({} if namespace is None else {NAMESPACE: namespace})}


def _python_record(row: Any) -> Mapping[str, Any]:
    fields = row if isinstance(row, Mapping) else record_fields(row)
    if fields is not None:
        return _renamed(fields)
    more = {"more": list(row[len(_TUPLE) :])} if len(row) > len(_TUPLE) else {}
    return {**dict(zip(_TUPLE, row, strict=False)), **more}


def _renamed(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Use our name for what the API calls ``sparseValues``."""
    if "sparse_values" in record:
        return record
    return {"sparse_values" if name == "sparseValues" else name: part for name, part in record.items()}


def _fitting(name: str, part: Any) -> Any:
    """Convert a part of a record to the type of its column; return None where that is not possible."""
    if part is None:
        return None
    try:
        match name:
            case "id" | "namespace":
                return _text(to_id(part))
            case "values":
                return _numbers(part, pa.float64())
            case "sparse_values":
                return _sparse(part)
            case _:
                return _text(part if isinstance(part, str) else readable_json(part))
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None


def _text(part: Any) -> str | None:
    if not isinstance(part, str):
        return None
    part.encode()  # a lone surrogate fits no column
    return str(part)


def _numbers(part: Any, kind: pa.DataType) -> Any:
    """Convert with Arrow, whose cast fails instead of rounding."""
    if isinstance(part, (list, tuple)) and len(part) == 1 and isinstance(part[0], (list, tuple, np.ndarray)):
        part = part[0]
    if not isinstance(part, (list, tuple)):
        part = np.asarray(part)
        part = part[0] if part.ndim == 2 and len(part) == 1 else part  # noqa: PLR2004 - as to_vector
        if part.ndim != 1:
            return None
    if isinstance(part, np.ndarray) and part.dtype == object:
        part = part.tolist()
    # Checked first: Arrow overflows the stack, and the process dies, where a list contains itself.
    if not isinstance(part, np.ndarray) and not all(map(_is_kind_of_number, set(map(type, part)))):
        return None
    found = pa.array([part])
    return found.cast(pa.list_(kind))[0].as_py() if is_list_of_numbers(found.type) else None


def _is_kind_of_number(kind: type) -> bool:
    return issubclass(kind, (int, float, np.integer, np.floating, type(None))) and kind is not bool


def _sparse(part: Any) -> Any:
    part = part if isinstance(part, Mapping) else fields_of(part, SPARSE_FIELDS)
    if part is None or not {"indices", "values"}.issuperset(part):
        return None
    numbers = {name: _numbers(part[name], kind) for name, kind in _SPARSE.items() if part.get(name) is not None}
    return None if None in numbers.values() else {name: numbers.get(name) for name in _SPARSE}
