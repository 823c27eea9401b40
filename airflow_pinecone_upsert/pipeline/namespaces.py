"""
The names of namespaces: what is one, and which of them are the same.

Invariant: within a run, the default namespace is ``""``, however a record names it.
"""

from __future__ import annotations

import sys
from typing import Final
from uuid import UUID

from airflow_pinecone_upsert.api.endpoints import shown_namespace
from airflow_pinecone_upsert.api.limits import MAX_NAMESPACE_LENGTH
from airflow_pinecone_upsert.api.models import is_integer

VALID_NAMESPACE: Final = (
    f"A namespace has at most {MAX_NAMESPACE_LENGTH} ASCII characters, none of them NUL. Change it at its source."
)


def check_namespace(name: str) -> str:
    """
    Return a name that a namespace may have.

    :raises ValueError: It may not.
    """
    if len(name) > MAX_NAMESPACE_LENGTH or not name.isascii() or "\0" in name:
        raise ValueError(f"a namespace has at most {MAX_NAMESPACE_LENGTH} ASCII characters, none of them NUL")
    return name


def canonical_namespace(name: str) -> str:
    """Return the one name within a run of a namespace: the default one is ``""`` and ``__default__``."""
    return "" if name == shown_namespace("") else name


def to_namespace(value: object) -> str:
    """
    Convert what a record names its namespace by: text, an integer or a UUID.

    :return: The same object for the same name, because each record in memory refers to it.
    :raises ValueError: The value is of another type, or is not the name of a namespace.
    """
    if isinstance(value, UUID) or is_integer(value):
        return sys.intern(str(value))
    if not isinstance(value, str):
        raise ValueError("a namespace is a string, an integer or a UUID")  # noqa: TRY004 - one error for one bad record
    return sys.intern(str(canonical_namespace(check_namespace(value))))
