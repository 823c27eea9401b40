"""
Metadata of one record: from what people keep in tables and dicts to the flat JSON that Pinecone takes.

Nothing is changed silently: a null is left out, a date becomes its ISO 8601 text, a decimal its nearest float64;
whatever else Pinecone would refuse or round is a :class:`Problem`.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from airflow_pinecone_upsert.api.limits import MAX_METADATA_BYTES
from airflow_pinecone_upsert.upsert.problem import Problem, shown

_EXACT_INTEGERS: Final = 2**53
"""Up to here float64, which Pinecone stores numbers as, holds every integer."""

_KINDS: Final = "A value is a string, a number, a boolean or a list of strings."


def metadata_json(metadata: Mapping[Any, Any], field: str) -> bytes | Problem | None:
    """
    Encode the metadata of one record.

    :param metadata: Keys and values as they come from a table, a JSON text or Python.
    :param field: The column, for a problem's message.
    :return: Compact JSON; None where no key has a value; the first broken rule otherwise.
    """
    plain = {}
    for key, value in metadata.items():
        if value is None:
            continue
        checked = value if type(value) is str else _plain(value, f"{field}.{key}")
        if isinstance(checked, Problem):
            return checked
        if not isinstance(key, str) or key.startswith("$"):
            return Problem(
                f"{field}.{key}", "a key is a string that does not start with '$'", "Rename the key.", shown(key)
            )
        plain[key] = checked
    if not plain:
        return None
    try:
        encoded = orjson.dumps(plain)
    except TypeError as exc:  # lone surrogates
        return Problem(field, f"not valid Unicode ({exc})", "Mend the text's encoding.")
    if len(encoded) > MAX_METADATA_BYTES:
        reason = f"the metadata are {len(encoded):,} bytes of JSON, the limit is {MAX_METADATA_BYTES:,}"
        longest = max(plain, key=lambda key: len(orjson.dumps(plain[key])))
        return Problem(field, reason, f"Shorten or drop the longest key, {longest!r}; keep long text elsewhere.")
    return encoded


def _plain(value: Any, field: str) -> Any:  # noqa: C901, PLR0911, PLR0912 - one answer a type
    """Turn one value into what JSON and Pinecone take, or tell why not."""
    match value:
        case np.generic():
            return _plain(value.item(), field)
        case str() | bool():
            return value
        case int():
            if abs(value) <= _EXACT_INTEGERS or _fits_float64(value):
                return value
            reason = "Pinecone stores numbers as float64, which cannot hold this integer exactly"
            return Problem(field, reason, "Store it as a string.", shown(value))
        case float():
            if math.isfinite(value):
                return value
            return Problem(field, "a number must be finite", "Leave the key out or set a number.", shown(value))
        case Decimal():
            if not value.is_finite():
                return _plain(float(value), field)
            return _plain(int(value) if value == value.to_integral_value() else float(value), field)
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case UUID():
            return str(value)
        case np.ndarray():
            return _plain(value.tolist(), field)
        case list() | tuple():
            odd = next((item for item in value if not isinstance(item, str)), None)
            if all(isinstance(item, str) for item in value):
                return list(value)
            return Problem(field, "a list may hold strings only", "Turn its elements into strings.", shown(odd))
        case Mapping():
            return Problem(field, "a nested object is not allowed", "Flatten it into keys of its own.", shown(value))
    return Problem(field, f"a value of type {type(value).__name__} is not allowed", _KINDS, shown(value))


def _fits_float64(value: int) -> bool:
    try:
        return int(float(value)) == value
    except OverflowError:
        return False


def metadata_rows(column: pa.Array, field: str) -> list[bytes | Problem | None]:
    """
    Encode a column of metadata.

    :param column: JSON strings, structs or maps; length n.
    :param field: The column's name, for messages.
    :return: For each of the n rows what :func:`metadata_json` returns; None for a null.
    """
    if pa.types.is_null(column.type):
        return [None] * len(column)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return [None if text is None else _from_json(text, field) for text in column.to_pylist()]
    if pa.types.is_map(column.type):
        return [None if items is None else _from_items(items, field) for items in column.to_pylist()]
    rows = _readable(column).to_pylist()
    return [None if row is None else metadata_json(row, field) for row in rows]


def _from_json(text: str, field: str) -> bytes | Problem | None:
    try:
        parsed = orjson.loads(text)
        if isinstance(parsed, dict) and any(_may_be_rounded(value) for value in parsed.values()):
            parsed = json.loads(text)
    except ValueError as exc:
        return Problem(field, f"not valid JSON ({exc})", "Write a JSON object or leave it null.", shown(text))
    if parsed is None:
        return None
    if not isinstance(parsed, dict):
        return Problem(field, "the JSON is not an object", 'Write an object such as {"year": 2024}.', shown(text))
    return metadata_json(parsed, field)


def _may_be_rounded(value: Any) -> bool:
    """Suspect an integer beyond 64 bits, which orjson reads as a float and the standard library as it is."""
    return isinstance(value, float) and abs(value) >= 2**63


def _from_items(items: Sequence[tuple[Any, Any]], field: str) -> bytes | Problem | None:
    row = dict(items)
    if len(row) < len(items):
        return Problem(field, "the map holds a key twice", "Keep one of them.", shown(items))
    return metadata_json(row, field)


def _readable(column: pa.StructArray) -> pa.StructArray:
    """Turn times into text while their unit is known: Python's datetime has no nanoseconds."""
    fields = [column.type.field(index) for index in range(column.type.num_fields)]
    children = [_iso_8601(child) if pa.types.is_temporal(child.type) else child for child in column.flatten()]
    names = [field.name for field in fields]
    return pa.StructArray.from_arrays(children, names=names, mask=column.is_null())


def _iso_8601(column: pa.Array) -> pa.Array:
    kind = column.type
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind)):
        return column  # a duration: no metadata value, as metadata_json will say
    try:
        exact = column.cast(pa.timestamp("us", kind.tz)) if pa.types.is_timestamp(kind) else column
        return pa.array([None if value is None else value.isoformat() for value in exact.to_pylist()], pa.string())
    except (pa.ArrowInvalid, ValueError, OverflowError):  # nanoseconds, or a year that Python does not know
        if not pa.types.is_timestamp(kind):
            return column.cast(pa.string())
        text = pc.replace_substring(column.cast(pa.timestamp(kind.unit)).cast(pa.string()), " ", "T")
        return pc.binary_join_element_wise(text, "+00:00", "") if kind.tz else text
