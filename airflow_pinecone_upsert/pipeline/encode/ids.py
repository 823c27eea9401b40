"""
Check a column of ids, as a whole.

Invariant: an id that cannot be read is a :class:`Violation` of its record; those of its neighbours are not affected.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_pinecone_upsert.api.limits import MAX_ID_LENGTH
from airflow_pinecone_upsert.api.models import to_id
from airflow_pinecone_upsert.pipeline.read.chunk import as_numpy
from airflow_pinecone_upsert.pipeline.violation import Violation, preview

VALID_ID: Final = f"An id has 1 to {MAX_ID_LENGTH} ASCII characters, none of them NUL. Change it at its source."


class CheckedIds(NamedTuple):
    """
    The ids of n records.

    :param texts: Length n; ``""`` where the id is missing or cannot be read.
    :param violations: The first rule that each breaks, by its offset.
    """

    texts: list[str]
    violations: dict[int, Violation]


def check_ids(column: pa.Array[Any], field: str) -> CheckedIds:
    """
    Convert ids to text and check them.

    :param column: Text, binary text, or numbers; length n. :func:`to_id` says which of their values are ids.
    :param field: The name of the column, for messages.
    """
    violations: dict[int, Violation] = {}
    texts: list[str | None] = []
    is_converted = not pa.types.is_floating(column.type)  # Arrow writes a whole number as 7.0 or 1e+20
    if is_converted:
        try:
            column = column.cast(pa.string())
            texts = column.to_pylist()
        except ValueError:  # bytes that are not UTF-8
            is_converted = False
    if not is_converted:
        texts, violations = _convert_one_by_one(column, field)
        column = pa.array(texts, pa.string())
    for offset in _suspects(column):
        violations.setdefault(offset, _violation(texts[offset], field))
    return CheckedIds([text or "" for text in texts], violations)


def _suspects(column: pa.Array[Any]) -> list[int]:
    """Return the offsets of the ids that break a rule."""
    # Compared in numpy: Arrow imports pandas for a comparison with a Python scalar.
    rows = np.flatnonzero(as_numpy(column.is_valid()))
    text: Any = column.drop_null()  # Any: the stubs do not derive the class of an array from its type
    length = as_numpy(pc.utf8_length(text))
    is_invalid = (length == 0) | (length > MAX_ID_LENGTH) | ~as_numpy(pc.string_is_ascii(text))
    is_invalid |= as_numpy(pc.match_substring(text, "\0"))
    return [*np.flatnonzero(as_numpy(column.is_null())).tolist(), *rows[is_invalid].tolist()]


def _violation(text: str | None, field: str) -> Violation:
    if text is None:
        return Violation(field, "the id is missing", "Give each record an id.", preview(text))
    if not text:
        reason = "the id is empty"
    elif len(text) > MAX_ID_LENGTH:
        reason = f"the id has {len(text)} characters"
    else:
        reason = "the id contains a NUL" if text.isascii() else "the id is not ASCII"
    return Violation(field, reason, VALID_ID, preview(text))


def _convert_one_by_one(column: pa.Array[Any], field: str) -> tuple[list[str | None], dict[int, Violation]]:
    texts: list[str | None] = []
    violations = {}
    for offset, scalar in enumerate(column):
        value = _value(scalar) if scalar.is_valid else None
        try:
            texts.append(to_id(value))
        except ValueError as exc:
            texts.append(None)
            violations[offset] = Violation(field, str(exc), VALID_ID, preview(value))
    return texts, violations


def _value(scalar: pa.Scalar[Any]) -> Any:
    """Return bytes, also of text, which may be invalid; or a float of the column's own precision."""
    if pa.types.is_floating(scalar.type):
        return np.dtype(f"f{scalar.type.bit_width // 8}").type(scalar.as_py())
    encoded: bytes = scalar.as_buffer().to_pybytes()  # type: ignore[attr-defined]  # a scalar of text or bytes
    return encoded
