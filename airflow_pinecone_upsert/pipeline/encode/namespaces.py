"""
Check the namespaces that the records of a chunk name, as a whole column.

Invariant: a name that cannot be read is a :class:`Violation` of its record; those of its neighbours are not affected.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import types

from airflow_pinecone_upsert.pipeline.namespaces import VALID_NAMESPACE, canonical_namespace, to_namespace
from airflow_pinecone_upsert.pipeline.read.chunk import NAMESPACE, Chunk
from airflow_pinecone_upsert.pipeline.violation import Violation, preview


class CheckedNamespaces(NamedTuple):
    """
    The namespaces of n records.

    :param names: Length n; ``""`` is the default one. That of the run where a record names none, or none that is valid.
    :param violations: What each breaks, by its offset.
    """

    names: list[str]
    violations: dict[int, Violation]


def check_namespaces(chunk: Chunk, default: str) -> CheckedNamespaces:
    """
    Return the namespace of each record of a chunk.

    :param chunk: Its column ``namespace`` is text or integers; without it, all records are for the default one.
    :param default: The namespace of the run, for records that name none.
    """
    if NAMESPACE not in chunk.records.schema.names:
        return CheckedNamespaces([default] * len(chunk.rows), {})
    default = canonical_namespace(default)
    column: Any = chunk.records.column(NAMESPACE)
    if types.is_null(column.type):
        return CheckedNamespaces([default] * len(column), {})
    encoded = column.dictionary_encode()  # few names for many records
    field = chunk.names[NAMESPACE]
    checked = [_checked(scalar, field) for scalar in encoded.dictionary]
    found = [None if code is None else checked[code] for code in encoded.indices.to_pylist()]
    return CheckedNamespaces(
        [one if isinstance(one, str) else default for one in found],
        {offset: one for offset, one in enumerate(found) if isinstance(one, Violation)},
    )


def _checked(scalar: pa.Scalar[Any], field: str) -> str | Violation:
    try:
        value = scalar.as_py()
    except UnicodeDecodeError:
        stored = scalar.as_buffer().to_pybytes()  # type: ignore[attr-defined]  # a scalar of text
        return Violation(field, "the namespace is not UTF-8 text", VALID_NAMESPACE, preview(stored))
    try:
        return to_namespace(value)
    except ValueError as exc:
        return Violation(field, str(exc), VALID_NAMESPACE, preview(value))
