"""
Dense vectors in other forms than a list of numbers: a list that contains one list, Spark's ``VectorUDT``, JSON text.

Invariant: what has no plain form is a :class:`Violation` of its record; those of its neighbours are not affected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from airflow_pinecone_upsert.api.limits import MAX_DIMENSION
from airflow_pinecone_upsert.api.models import to_vector
from airflow_pinecone_upsert.pipeline.read.chunk import list_array, stored_value
from airflow_pinecone_upsert.pipeline.read.columns import is_list_of_lists
from airflow_pinecone_upsert.pipeline.violation import Violation, preview

_Numbers = npt.NDArray[np.float64]

_REMEDY: Final = "Fix the embedding or drop the record."
_DENSE: Final = 1
"""The ``type`` of a dense vector in Spark's ``VectorUDT``; 0 is sparse."""


def plain_lists(column: pa.Array[Any], field: str) -> tuple[pa.Array[Any], Mapping[int, Violation]]:
    """
    Convert vectors to lists of numbers.

    :param column: Length n. A column of lists of numbers is returned as it is.
    :param field: The name of the column, for messages.
    :return: A column of lists of numbers, length n, which is null where a vector has no plain form, and the violations by
        offset.
    """
    if isinstance(column, (pa.StringArray, pa.LargeStringArray)):
        return _from_scalars(column, field, _from_json)
    if isinstance(column, pa.StructArray):
        return _from_scalars(column, field, _from_vector_udt)
    return _unnested(column, field) if is_list_of_lists(column.type) else (column, {})


def _unnested(column: pa.Array[Any], field: str) -> tuple[pa.Array[Any], Mapping[int, Violation]]:
    counts = pc.list_value_length(column).to_pylist()
    violations = {
        offset: Violation(field, f"expected one list of numbers, got {count} of them", _REMEDY)
        for offset, count in enumerate(counts)
        if count not in (None, 1)
    }
    ends = accumulate(count or 0 for count in counts)
    inner = [end - 1 if count == 1 else None for count, end in zip(counts, ends, strict=True)]
    flat: pa.Array[Any] = column.flatten()  # type: ignore[attr-defined]  # every array of lists has it
    return flat.take(pa.array(inner, pa.int64())), violations


def _from_scalars(
    column: pa.Array[Any], field: str, convert: Callable[[Any], _Numbers]
) -> tuple[pa.Array[Any], Mapping[int, Violation]]:
    rows: list[_Numbers | None] = []
    violations = {}
    for offset, scalar in enumerate(column):
        try:
            rows.append(convert(scalar) if scalar.is_valid else None)
        except ValueError as exc:
            rows.append(None)
            violations[offset] = Violation(field, str(exc), _REMEDY, preview(_shown(column[offset : offset + 1])))
    return list_array(rows, pa.float64()), violations


def _shown(column: pa.Array[Any]) -> Any:
    stored = stored_value(column)
    return stored.decode(errors="backslashreplace") if isinstance(stored, bytes) else column[0].as_py()


def _from_json(text: pa.StringScalar) -> _Numbers:
    try:
        parsed = orjson.loads(text.as_buffer().to_pybytes())
    except ValueError as exc:
        raise ValueError(f"not a JSON array ({exc})") from exc
    return to_vector(parsed)


def _from_vector_udt(vector: pa.StructScalar) -> _Numbers:
    """Convert Spark's form, a sparse vector to all of its components."""
    parts: dict[str, Any] = {name: part.as_py() for name, part in vector.items()}
    values = to_vector(parts["values"])
    if parts["type"] == _DENSE:
        return values
    size, indices = parts["size"], to_vector(parts["indices"]).astype(np.int64)
    if size is None or not 0 < size <= MAX_DIMENSION:
        raise ValueError(f"a vector of size {size}; it has 1 to {MAX_DIMENSION:,} components")
    is_inside = (indices >= 0) & (indices < size)
    if len(indices) != len(values) or not is_inside.all() or len(np.unique(indices)) < len(indices):
        raise ValueError(f"indices and values do not form a vector of size {size}")
    components = np.zeros(size)
    components[indices] = values
    return components
