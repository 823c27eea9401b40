"""
Keys: how a manifest names a record.

Where a run has one namespace, a key is the id. Where records name their namespaces, one manifest has all of them, and a key
is the namespace, NUL and the id: neither may contain NUL, so a key means one record. What a run keeps of records (the
journal, the table, the samples, the manifest's files) it keeps by key, and need not know which kind it is.

Invariant: the default namespace is ``""`` in a key, however a record names it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_pinecone_upsert.api.endpoints import shown_namespace
from airflow_pinecone_upsert.pipeline.encode.namespaces import check_namespaces
from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.namespaces import canonical_namespace
from airflow_pinecone_upsert.pipeline.options import UpsertOptions
from airflow_pinecone_upsert.pipeline.read.chunk import NAMESPACE, Chunk

_SEPARATOR: Final = "\0"


class Place(NamedTuple):
    """Where a record is: its namespace, of which ``""`` is the default one, and its id."""

    namespace: str
    id: str


class Keys(Protocol):
    """How the records of a run are named."""

    @property
    def name_namespaces(self) -> bool:
        """Whether a key names a namespace, because the records do."""
        ...

    def of(self, namespace: str, ids: Sequence[str]) -> Sequence[str]:
        """Return the keys of some ids of a namespace."""
        ...

    def of_records(self, records: EncodedRecords) -> Sequence[str]:
        """Return the keys of records."""
        ...

    def place(self, key: str) -> Place:
        """Return where a record is."""
        ...

    def label(self, key: str) -> str:
        """Return the name of a record for a message."""
        ...

    def prefixes(self, chunk: Chunk) -> Sequence[bytes | None] | None:
        """
        Return what precedes the id in the key of each record of a chunk.

        :return: None for nothing; of a single record, None where it names no valid namespace, so that it has no key.
        """
        ...

    def named_in(self, chunk: Chunk) -> Collection[str]:
        """Return the namespaces that the records of a chunk name."""
        ...

    def namespaces(self, keys: pa.Array[Any]) -> pa.DictionaryArray[Any, Any]:
        """
        Return the namespaces that a column of keys names, where they do.

        :param keys: ``large_string``, length n.
        :return: Length n.
        """
        ...


class IdKeys:
    """
    The keys of one namespace: ids.

    :param namespace: ``""`` is the default one.
    """

    name_namespaces = False

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def of(self, namespace: str, ids: Sequence[str]) -> Sequence[str]:  # noqa: ARG002 - there is one
        """Return the ids."""
        return ids

    def of_records(self, records: EncodedRecords) -> Sequence[str]:
        """Return their ids."""
        return records.ids

    def place(self, key: str) -> Place:
        """Return the namespace of the run, and the id."""
        return Place(self._namespace, key)

    def label(self, key: str) -> str:
        """Return the id."""
        return key

    def prefixes(self, chunk: Chunk) -> None:
        """Return that there are none."""

    def named_in(self, chunk: Chunk) -> Collection[str]:  # noqa: ARG002
        """Return nothing."""
        return ()

    def namespaces(self, keys: pa.Array[Any]) -> pa.DictionaryArray[Any, Any]:
        """Never called: they name none."""
        raise NotImplementedError


class NamespacedKeys:
    """
    The keys of many namespaces.

    :param default: The namespace of records that name none.
    """

    name_namespaces = True

    def __init__(self, default: str) -> None:
        self._default = default
        self._last: tuple[Chunk, Sequence[bytes | None]] | None = None

    def of(self, namespace: str, ids: Sequence[str]) -> Sequence[str]:
        """Return namespace and id of each."""
        prefix = _prefix(namespace)
        return [prefix + record_id for record_id in ids]

    def of_records(self, records: EncodedRecords) -> Sequence[str]:
        """Return namespace and id of each."""
        pairs: Iterable[tuple[str, str]] = zip(records.namespaces, records.ids, strict=True)
        return [_prefix(namespace) + record_id for namespace, record_id in pairs]

    def place(self, key: str) -> Place:
        """Return the two parts of a key."""
        namespace, _, record_id = key.partition(_SEPARATOR)
        return Place(namespace, record_id)

    def label(self, key: str) -> str:
        """Return namespace and id."""
        namespace, record_id = self.place(key)
        return f"{shown_namespace(namespace)}/{record_id}"

    def prefixes(self, chunk: Chunk) -> Sequence[bytes | None]:
        """Return the namespace of each record, as the encoder reads it."""
        if self._last is None or self._last[0] is not chunk:  # a chunk is asked about twice
            self._last = chunk, self._prefixes(chunk)
        return self._last[1]

    def _prefixes(self, chunk: Chunk) -> Sequence[bytes | None]:
        names, violations = check_namespaces(chunk, self._default)
        known = {name: _prefix(name).encode() for name in set(names)}
        found: list[bytes | None] = [known[name] for name in names]
        for row in violations:
            found[row] = None
        for row, violation in chunk.violations.items():
            if violation.field == chunk.names.get(NAMESPACE):
                found[row] = None
        return found

    def named_in(self, chunk: Chunk) -> Collection[str]:
        """Return the names that are valid."""
        return {self.place(prefix.decode()).namespace for prefix in set(self.prefixes(chunk)) if prefix is not None}

    def namespaces(self, keys: pa.Array[Any]) -> pa.DictionaryArray[Any, Any]:
        """Return the first part of each key."""
        parts = pc.split_pattern(keys, _SEPARATOR, max_splits=1).flatten()
        # Without list_element(), which imports pandas, for 30 MB.
        firsts = pa.py_buffer(np.arange(0, len(parts), 2, dtype=np.int64).tobytes())
        found = parts.take(pa.Array.from_buffers(pa.int64(), len(keys), [None, firsts]))
        encoded: pa.DictionaryArray[Any, Any] = found.dictionary_encode()
        return encoded


def keys_of(options: UpsertOptions) -> Keys:
    """Return how the records of a run are named."""
    return (NamespacedKeys if options.has_many_namespaces else IdKeys)(options.namespace)


def _prefix(namespace: str) -> str:
    return canonical_namespace(namespace) + _SEPARATOR
