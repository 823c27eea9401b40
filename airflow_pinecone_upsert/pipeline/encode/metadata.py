"""
Convert the metadata of records, from tables, JSON or Python, to the flat JSON objects that Pinecone accepts.

A null is left out. A date or time becomes ISO 8601 text, a UUID its text, and a decimal the float64 of the same digits.

Invariants:

- Nothing else is changed: a value that Pinecone would reject or round is a :class:`Violation`.
- The result for one record does not depend on the other records of its chunk.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Context, Decimal
from itertools import pairwise, repeat
from typing import Any, Final
from uuid import UUID

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from airflow_pinecone_upsert.api.limits import MAX_METADATA_BYTES
from airflow_pinecone_upsert.pipeline.read.chunk import as_numpy, stored_value, without_dictionary
from airflow_pinecone_upsert.pipeline.violation import Violation, key_path, preview

_EXACT_INTEGERS: Final = 2**53
"""Pinecone stores numbers as float64, which holds every integer up to this one exactly."""

_ORJSON_BITS: Final = 64

_MAX_FLOAT64_DIGITS: Final = 767
"""No float64 has more significant digits, written in full: 4.9406564584124654e-324 and its like have so many."""

_FEW_DIGITS: Final = re.compile(r"\s*-?[\d.]{1,15}(?![\d.eE])")
"""A JSON number of at most 15 digits, all of which float64 keeps; exponents may exceed its range."""

_MAX_DECIMAL_BITS: Final = 4_096
"""Larger integers are shown in hexadecimal, because Python limits the digits of a decimal number to a few thousand."""

_MAX_DEPTH: Final = 20

_LONG_DOUBLE: Final = "g"
"""numpy's code for a long double, whose ``item()`` and ``tolist()`` return a long double and not a Python number."""

_Row = dict[str, Any] | Violation | None
"""The metadata of one record: the object to write, the first rule that it breaks, or nothing."""

_UNREADABLE: Final = (ValueError, OverflowError)
"""What Arrow raises for a value that Python does not have: text that is not UTF-8, a year beyond 9999."""

_ALLOWED_VALUES: Final = "A value is a string, a number, a boolean or a list of strings."


def too_long(plain: Mapping[str, Any], size: int, field: str) -> Violation | None:
    """
    Check the size of an object that is otherwise valid.

    :param plain: An object that :func:`metadata_rows` returned.
    :param size: Bytes of its JSON.
    :param field: The name of the column, for messages.
    """
    if size <= MAX_METADATA_BYTES:
        return None
    reason = f"the metadata are {size:,} bytes of JSON, the limit is {MAX_METADATA_BYTES:,}"
    longest = max(plain, key=lambda key: len(orjson.dumps(plain[key])))
    return Violation(field, reason, f"Shorten or drop the longest key, {preview(longest)}; store long text elsewhere.")


def _plain_metadata(metadata: Mapping[Any, Any], field: str) -> _Row:
    # A dict only: orjson writes no other mappings.
    if type(metadata) is dict and _is_plain(metadata):
        return metadata or None
    return _plain_items(metadata, field) or None


def _is_plain(metadata: Mapping[Any, Any]) -> bool:
    """Return whether nothing must be changed or rejected. This is the common case: it costs 0.5 µs per record."""
    for key, value in metadata.items():
        kind = type(value)
        fits = (
            kind is str
            or kind is bool
            or (kind is int and -_EXACT_INTEGERS <= value <= _EXACT_INTEGERS)
            or (kind is float and math.isfinite(value))
        )
        if not fits or type(key) is not str or key[:1] == "$":
            return False
    return True


def _plain_items(metadata: Mapping[Any, Any], field: str) -> dict[str, Any] | Violation:
    plain = {}
    for key, value in metadata.items():
        if value is None:
            continue
        checked = _plain(value, path := key_path(field, key))
        if isinstance(checked, Violation):
            return checked
        if not isinstance(key, str) or key.startswith("$"):
            return Violation(path, "a key is a string that does not start with '$'", "Rename the key.", preview(key))
        plain[str(key)] = checked
    return plain


def _plain(value: Any, field: str) -> Any:  # noqa: C901, PLR0911, PLR0912 - one case per type
    """Convert one value to a form that JSON and Pinecone accept, or return a :class:`Violation`."""
    match value:
        case np.datetime64() if not np.isnat(value):  # its item() may be a bare integer
            return str(value)
        case np.generic() if value.dtype.char == _LONG_DOUBLE:
            number = float(value)
            is_same = value == number or math.isnan(number)
            return _plain(number, field) if is_same else _rounded(value, number, field)
        case np.generic() if value.dtype.kind not in "mMc":
            return _plain(value.item(), field)
        case str() | bool():
            return value
        case int():
            if abs(value) <= _EXACT_INTEGERS:
                return value
            if _fits_float64(value):  # orjson writes larger integers only as floats
                return value if value.bit_length() < _ORJSON_BITS else float(value)
            reason = "Pinecone stores numbers as float64, which cannot hold this integer exactly"
            return Violation(field, reason, "Store it as a string.", preview(value))
        case float():
            if math.isfinite(value):
                return value
            return Violation(field, "a number must be finite", "Leave the key out or set a number.", preview(value))
        case Decimal():
            return _plain_decimal(value, field)
        case dt.date() | dt.time() if value == value:  # noqa: PLR0124 - pandas' NaT is a datetime and not equal to itself
            return value.isoformat()
        case UUID():
            return str(value)
        case np.ma.MaskedArray() if np.ma.is_masked(value):
            return Violation(field, "an element is masked", "Leave masked elements out.", preview(value))
        case np.ndarray():
            return _plain(value.tolist() if value.ndim else value[()], field)
        case list() | tuple():
            others = [item for item in value if not isinstance(item, str)]
            if not others:
                return list(value)
            return Violation(
                field, "a list may hold strings only", "Turn its elements into strings.", preview(others[0])
            )
        case Mapping():
            return Violation(
                field, "a nested object is not allowed", "Flatten it into keys of its own.", preview(value)
            )
    return Violation(field, f"a value of type {type(value).__name__} is not allowed", _ALLOWED_VALUES, preview(value))


def _plain_decimal(value: Decimal, field: str) -> int | float | Violation:
    """Convert a decimal whose digits float64 keeps: read back from it, they are the same."""
    if not value.is_finite():
        return Violation(field, "a number must be finite", "Leave the key out or set a number.", preview(value))
    number = float(value)  # first: an integer of 10**999999 takes half a minute, this takes microseconds
    if not math.isfinite(number) or not _has_digits(number, value):
        return _rounded(value, number, field)
    is_negative_zero = number == 0 and value.is_signed()
    is_integer = abs(number) <= _EXACT_INTEGERS and number.is_integer() and not is_negative_zero
    return int(number) if is_integer else number


def _has_digits(number: float, digits: Decimal) -> bool:
    """Return whether digits are those of a number: its shortest form, or as many of its exact value as they are."""
    if Decimal(repr(number)) == digits:
        return True
    shortened = Context(prec=_MAX_FLOAT64_DIGITS).normalize(digits)
    return Context(prec=len(shortened.as_tuple().digits)).create_decimal(number) == digits


def _rounded(value: Any, number: float, field: str) -> Violation:
    reason = f"Pinecone stores numbers as float64, which would change this one to {number!r}"
    return Violation(field, reason, "Round it, or store it as a string.", preview(value))


def _fits_float64(value: int) -> bool:
    try:
        return int(float(value)) == value
    except OverflowError:
        return False


def metadata_rows(column: pa.Array[Any], field: str) -> tuple[list[dict[str, Any] | None], dict[int, Violation]]:
    """
    Convert a column of metadata.

    :param column: JSON strings, structs or maps; length n.
    :param field: The name of the column, for messages.
    :return: For each of the n rows the object to write, or None if no key has a value; and by row the first rule that a
        row breaks. The size of the objects is not checked: see :func:`too_long`.
    :raises LookupError: No row can be read: the time zone of a column is unknown.
    """
    try:
        return _rows(column, field)
    except _UNREADABLE as exc:
        if len(column) == 1:
            return [None], {0: _unreadable(column, field, exc)}
    # One value suffices, so the rows that can be read are found by halving.
    half = len(column) // 2
    first, second = metadata_rows(column.slice(0, half), field), metadata_rows(column.slice(half), field)
    return first[0] + second[0], first[1] | {half + offset: violation for offset, violation in second[1].items()}


def _unreadable(column: pa.Array[Any], field: str, exc: Exception) -> Violation:
    """Name the key of a row that Python cannot read, and show what it is stored as."""
    if isinstance(column, pa.StructArray):
        for child, one in zip(column.type, column.flatten(), strict=True):
            try:
                _times_as_text(one).to_pylist()
            except _UNREADABLE as of_child:
                return _unreadable(one, key_path(field, child.name), of_child)
    stored = stored_value(column)
    found = None if stored is None else preview(stored)
    return Violation(field, f"the value cannot be read ({exc})", "Fix it, or leave it null.", found)


def _rows(column: pa.Array[Any], field: str) -> tuple[list[dict[str, Any] | None], dict[int, Violation]]:
    if isinstance(column, pa.NullArray):
        return [None] * len(column), {}
    if isinstance(column, (pa.StringArray, pa.LargeStringArray)):
        return _split_violations(None if text is None else _from_json(text, field) for text in column.to_pylist())
    if isinstance(column, pa.MapArray):
        return _split_violations(
            None if pairs is None else _from_pairs(pairs, field, "map") for pairs in _map_pairs(column)
        )
    rows, names, children = _struct_dicts(column)  # type: ignore[arg-type]  # a struct: other types were rejected earlier
    if rows and names and all(map(_is_plain_column, names, children)):
        return rows, {}
    return _split_violations(None if row is None else _plain_metadata(row, field) for row in rows)


def _split_violations(rows: Iterable[_Row]) -> tuple[list[dict[str, Any] | None], dict[int, Violation]]:
    plain: list[dict[str, Any] | None] = []
    violations = {}
    for offset, row in enumerate(rows):
        if isinstance(row, Violation):
            violations[offset] = row
            plain.append(None)
        else:
            plain.append(row)
    return plain, violations


def metadata_values(values: Iterable[Any], field: str) -> tuple[list[dict[str, Any] | None], dict[int, Violation]]:
    """
    Convert metadata that came as Python values: mappings, JSON texts, or nothing.

    :param values: One for each of n records.
    :param field: The name of the field, for messages.
    :return: As :func:`metadata_rows`.
    """
    return _split_violations(_from_value(value, field) for value in values)


def _from_value(value: Any, field: str) -> _Row:
    if isinstance(value, Mapping):
        return _plain_metadata(value, field)
    if isinstance(value, str):
        return _from_json(value, field)
    if is_missing(value):
        return None
    return Violation(field, "metadata come as a dict or as JSON text", "Convert it or leave it out.", preview(value))


def is_missing(value: Any) -> bool:
    """Return whether a value is None or one of the values that pandas uses for missing data."""
    is_nan = isinstance(value, float) and math.isnan(value)
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType")


def readable_json(metadata: Any) -> str:
    """
    Write metadata that may break a rule as JSON, so that the user can fix them.

    :return: Valid values are written as they would be sent, and all others as :func:`legible` shows them.
    """
    if not isinstance(metadata, Mapping):
        return json.dumps(legible(metadata))
    checked = {key: _plain(value, "") for key, value in metadata.items() if value is not None}
    return json.dumps(
        legible({key: metadata[key] if isinstance(value, Violation) else value for key, value in checked.items()})
    )


def readable_column(column: pa.Array[Any]) -> str | None:
    """
    Write the metadata of one row as JSON, so that the user can fix them.

    :param column: As for :func:`metadata_rows`, but of length 1.
    :return: As :func:`readable_json`. JSON text is left as it is. A map that contains a key twice becomes a list of pairs.
        Bytes that are not UTF-8 are written in hexadecimal.
    """
    if isinstance(column, pa.MapArray):
        (pairs,) = _map_pairs(column)
        return None if pairs is None else readable_json(pairs if len(dict(pairs)) < len(pairs) else dict(pairs))
    if isinstance(column, pa.StructArray):
        children = zip(column.type, column.flatten(), strict=True)
        return (
            readable_json({field.name: _readable_value(one) for field, one in children}) if column[0].is_valid else None
        )
    text: str | None = _readable_value(column)
    return text


def _readable_value(column: pa.Array[Any]) -> Any:
    """Return the value of one row, or what it is stored as."""
    try:
        (value,) = _times_as_text(column).to_pylist()
    except _UNREADABLE:
        stored = stored_value(column)
        return stored.decode(errors="backslashreplace") if isinstance(stored, bytes) else f"unreadable: {stored}"
    return value


def legible(value: Any, depth: int = 0) -> Any:  # noqa: PLR0911 - one case per type
    """
    Convert any value to a form that JSON can hold and the user recognises.

    :param depth: The depth of the value in the one to show. It is limited, because a value may contain itself.
    """
    if depth > _MAX_DEPTH:
        return preview(value)
    if isinstance(value, BaseModel):
        value = value.model_dump()
    match value:
        case None | bool() | str() | float():
            return value
        case int():
            return value if value.bit_length() <= _MAX_DECIMAL_BITS else hex(value)
        case Mapping():
            keys = [key if isinstance(key, str) else preview(key) for key in value]
            items = [legible(item, depth + 1) for item in value.values()]
            pairs = list(zip(keys, items, strict=True))
            return dict(pairs) if len(set(keys)) == len(keys) else pairs
        case list() | tuple() | set() | frozenset():
            return [legible(item, depth + 1) for item in value]
        case dt.date() | dt.time():
            return value.isoformat()
        case np.generic() | np.ndarray() if value.dtype.char.lower() != _LONG_DOUBLE:
            return legible(value.tolist(), depth + 1)
    try:
        return str(value) if isinstance(value, Decimal) else repr(value)
    except Exception:  # noqa: BLE001 - a user's class may raise anything
        return preview(value)


def _from_json(text: str, field: str) -> _Row:
    try:
        parsed = orjson.loads(text)
        if isinstance(parsed, dict) and _may_have_lost(text, parsed):
            parsed = json.loads(text, parse_float=Decimal, object_pairs_hook=_dict_or_pairs)
            if isinstance(parsed, list):
                return _from_pairs(parsed, field, "JSON")
    except (ValueError, RecursionError) as exc:
        return Violation(field, f"not valid JSON ({exc})", "Write a JSON object or leave it null.", preview(text))
    if parsed is None:
        return None
    if not isinstance(parsed, dict):
        return Violation(field, "the JSON is not an object", 'Write an object such as {"year": 2024}.', preview(text))
    return _plain_metadata(parsed, field)


def _may_have_lost(text: str, parsed: dict[str, Any]) -> bool:
    """
    Return False only if orjson lost nothing. Of a key that occurs twice it keeps the last, and of a number the nearest float64.

    Every key has a colon of its own, so that a key that was dropped leaves a surplus of them.
    """
    surplus = text.count(":") - len(parsed)
    for key, value in parsed.items():
        kind = type(value)
        if kind is str:
            surplus -= value.count(":") if surplus else 0
        elif kind is float and not _has_few_digits(text, key):
            return True
    return surplus != 0 or ("\\" in text and "\\u003" in text)  # an escaped colon


def _has_few_digits(text: str, key: str) -> bool:
    """Return True only if the number after a key has so few digits that none of them was lost."""
    quoted = f'"{key}":'
    start = text.find(quoted)
    if start < 0 or text[start - 1] == "\\" or "\\" in key:  # perhaps a part of another string
        return False
    return _FEW_DIGITS.match(text, start + len(quoted)) is not None


def _dict_or_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any] | list[tuple[str, Any]]:
    row = dict(pairs)
    return row if len(row) == len(pairs) else pairs


def _map_pairs(column: pa.MapArray[Any, Any]) -> list[list[tuple[Any, Any]] | None]:
    # If the column is a slice, keys and items are still those of the whole array.
    offsets: list[int] = as_numpy(column.offsets).tolist()
    first, length = offsets[0], offsets[-1] - offsets[0]
    pairs = list(
        zip(
            column.keys.slice(first, length).to_pylist(),
            _times_as_text(column.items.slice(first, length)).to_pylist(),
            strict=True,
        )
    )
    return [
        pairs[start - first : end - first] if is_present else None
        for (start, end), is_present in zip(pairwise(offsets), column.is_valid().to_pylist(), strict=True)
    ]


def _from_pairs(pairs: Sequence[tuple[Any, Any]], field: str, kind: str) -> _Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        return Violation(field, f"the {kind} contains a key twice", "Keep one of them.", preview(pairs))
    return _plain_metadata(row, field)


def _struct_dicts(column: pa.StructArray) -> tuple[list[dict[str, Any] | None], list[str], list[pa.Array[Any]]]:
    """Return the rows, and the names and arrays of the fields that they were made from."""
    names = [column.type.field(index).name for index in range(column.type.num_fields)]
    children = [_times_as_text(child) for child in column.flatten()]
    rows: pa.Array[Any] = pa.StructArray.from_arrays(children, names=names, mask=column.is_null())
    return rows.to_pylist(), names, children


def _is_plain_column(name: str, column: pa.Array[Any]) -> bool:
    """Return for the column of a key what :func:`_is_plain` returns for a record."""
    kind = column.type
    if column.null_count or name.startswith("$"):
        return False
    if pa.types.is_integer(kind):
        bounds = pc.min_max(column)
        return bool(bounds["min"].as_py() >= -_EXACT_INTEGERS and bounds["max"].as_py() <= _EXACT_INTEGERS)
    if pa.types.is_float32(kind) or pa.types.is_float64(kind):
        return bool(np.isfinite(as_numpy(column)).all())
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind))


def _times_as_text(column: pa.Array[Any]) -> pa.Array[Any]:
    """
    Decode dictionaries, and write dates and times as ISO 8601.

    Times are converted while they are in Arrow, because Python's have no nanoseconds. Each is written on its own, so that
    its text does not depend on the other records of the chunk.
    """
    if isinstance(column, pa.DictionaryArray):
        return _times_as_text(without_dictionary(column))
    kind = column.type
    is_timestamp = pa.types.is_timestamp(kind)
    if not (is_timestamp or pa.types.is_date(kind) or pa.types.is_time(kind)):
        return column
    nanoseconds: Iterable[int] = repeat(0)
    if not pa.types.is_date(kind) and kind.unit == "ns":
        ticks = np.asarray(column.cast(pa.int64()).fill_null(0))
        nanoseconds = (ticks % 1_000).tolist()
        microseconds = pa.array(ticks // 1_000, mask=np.asarray(column.is_null()))
        column = microseconds.cast(pa.timestamp("us", kind.tz) if is_timestamp else pa.time64("us"))
    texts = [
        None if value is None else _iso_8601(value, extra_ns)
        for value, extra_ns in zip(column.to_pylist(), nanoseconds, strict=False)
    ]
    return pa.array(texts, pa.string())


def _iso_8601(value: dt.date | dt.time, extra_ns: int) -> str:
    """
    Write a date or a time as ISO 8601.

    :param value: Rounded down to a microsecond.
    :param extra_ns: The nanoseconds beyond that, below 1,000.
    """
    if not extra_ns or not isinstance(value, (dt.datetime, dt.time)):
        return value.isoformat()
    text = value.isoformat(timespec="microseconds")
    end = text.index(".") + len(".000000")
    return f"{text[:end]}{extra_ns:03d}{text[end:]}"
