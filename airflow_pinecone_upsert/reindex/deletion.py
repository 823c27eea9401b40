"""
Deleting what vanished from the source: last, and guarded.

Invariants:

- Only ids that the manifest has are deleted, and none that occurred in the source, whatever became of its record.
- A source that yielded nothing deletes nothing.
- A namespace is deleted as a whole, which costs as much as the smallest request, only if all of its records in the manifest
  vanished and a listing just before has no others. Otherwise its records are deleted by id; so are those of the default
  namespace, of one that an alias points to, and of one that no URL can name or the server does not describe.
- What an entry holds may be unknown, as after a deletion that was interrupted: the record is one that a run wrote or found.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa

from airflow_pinecone_upsert.api.endpoints import NO_PATH_SEGMENTS, shown_namespace
from airflow_pinecone_upsert.api.limits import MAX_IDS_PER_DELETE
from airflow_pinecone_upsert.api.models import NamespaceAlias, NamespaceDescription
from airflow_pinecone_upsert.exceptions import BadRequestError, SetupError, SourceError
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.namespaces import canonical_namespace
from airflow_pinecone_upsert.pipeline.read.chunk import as_mask, as_numpy
from airflow_pinecone_upsert.pipeline.read.prefetch import call_in_background
from airflow_pinecone_upsert.pipeline.send.requests import DeleteRequest, NamespaceDeleteRequest
from airflow_pinecone_upsert.pipeline.wording import number_of
from airflow_pinecone_upsert.reindex import audit
from airflow_pinecone_upsert.reindex.audit import listed_entries
from airflow_pinecone_upsert.reindex.id_table import IdTable
from airflow_pinecone_upsert.reindex.journal import Journal, RecordDeletion
from airflow_pinecone_upsert.reindex.keys import Keys

log = logging.getLogger(__name__)

ALWAYS_ALLOWED: Final = 10
"""So many records may be deleted, whatever their share of the manifest is."""

MAX_EXAMPLES: Final = 10


class Index(audit.Index, Protocol):
    """What a deletion needs of an index."""

    def describe_namespace(self, namespace: str) -> NamespaceDescription:
        """Return what the server says of a namespace."""
        ...

    def list_aliases(self) -> Iterator[NamespaceAlias]:
        """Yield the namespace aliases."""
        ...


def vanished_entries(table: IdTable, latest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """
    Yield the entries of ids that did not occur in the source.

    :param latest: The last entry of each id.
    """
    for batch in latest:
        is_vanished = table.vanished(batch.column("id"))
        if is_vanished.any():
            yield batch.filter(as_mask(is_vanished))


def vanished_namespaces(table: IdTable, latest: Callable[[], Iterator[pa.RecordBatch]], keys: Keys) -> dict[str, int]:
    """
    Count the entries of each namespace of which none occurred in the source.

    :param latest: Returns the last entry of each id.
    :param keys: Those of one namespace name none.
    """
    if not keys.name_namespaces:
        return {}
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    for batch in latest():
        column = batch.column("id")
        named = keys.namespaces(column)
        names: list[Any] = named.dictionary.to_pylist()
        codes = as_numpy(named.indices)
        counts.update(dict(zip(names, np.bincount(codes, minlength=len(names)).tolist(), strict=True)))
        seen.update(names[code] for code in np.unique(codes[~table.vanished(column)]).tolist())
    return {name: count for name, count in counts.items() if name not in seen}


class Deletions:
    """
    What vanished from the source, and the requests that delete it.

    :param table: What the manifest has, and which of it occurred in the source.
    :param keys: How records are named.
    :param latest: Returns the last entry of each id of the manifest.
    :param journal: Is given the bytes of what is deleted by id.
    :param index: The index.
    :param cancellation: Ends a listing early.
    :param on_turn: Called while a namespace is listed.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - its seams
        self,
        table: IdTable,
        keys: Keys,
        latest: Callable[[], Iterator[pa.RecordBatch]],
        journal: Journal,
        index: Index,
        cancellation: CancellationToken,
        on_turn: Callable[[], None],
    ) -> None:
        self._table = table
        self._keys = keys
        self._latest = latest
        self._journal = journal
        self._index = index
        self._cancellation = cancellation
        self._on_turn = on_turn
        # These are no cached properties: until Python 3.12, all instances share the lock of one, and each of them takes long.
        self._aliased: frozenset[str] | None = None
        self._whole = vanished_namespaces(table, latest, keys)
        self.count = table.unseen_count

    def check_guard(self, read: int, max_fraction: float) -> None:
        """
        Check that not too much would be deleted.

        :param read: Records of the source.
        :param max_fraction: Share of the manifest's records that may be deleted.
        :raises SourceError: The source has no records.
        :raises SetupError: The share is larger.
        """
        vanished, known = self.count, self._table.loaded_count
        if vanished and not read:
            raise SourceError(
                f"The source has no records, and the manifest has {known:,}. Nothing was deleted. Check the source; to empty "
                "a namespace, delete it."
            )
        if vanished <= max(ALWAYS_ALLOWED, max_fraction * known):
            return
        raise SetupError(
            f"{vanished:,} of the {known:,} records of the manifest ({vanished / known:.1%}) are missing from the source: "
            f"more than max_delete_fraction, {max_fraction:.1%}, allows. Nothing was deleted; upserts are complete. "
            f"{self._examples()} Check that the source is complete. If it is, set max_delete_fraction to at least "
            f"{vanished / known:.4f} for one run, or delete_missing=False."
        )

    def _examples(self) -> str:
        first = next(vanished_entries(self._table, self._latest())).column("id")[:MAX_EXAMPLES].to_pylist()
        examples = f"Missing, for example: {', '.join(repr(self._keys.label(str(key))) for key in first)}."
        if not self._whole:
            return examples
        names = ", ".join(repr(shown_namespace(name)) for name in islice(self._whole, MAX_EXAMPLES))
        return f"{examples} Of {number_of(len(self._whole), 'namespace')} nothing would be left, for example: {names}."

    def requests(self) -> Iterator[RecordDeletion]:
        """Yield the requests. A namespace that vanished is listed just before the one that deletes it."""
        pages: dict[str, dict[str, int]] = {}  # by namespace: the bytes of each id
        for key, size in _rows(vanished_entries(self._table, self._latest())):
            namespace, record_id = self._keys.place(key)
            page = pages.setdefault(namespace, {})
            page[record_id] = size
            if len(page) < self._whole.get(namespace, MAX_IDS_PER_DELETE):
                continue
            del pages[namespace]
            if namespace in self._whole and self._has_no_other_records(namespace):
                yield NamespaceDeleteRequest(namespace, list(page))
            else:
                yield from self._by_id(namespace, page)
        for namespace, page in pages.items():
            yield from self._by_id(namespace, page)

    def _by_id(self, namespace: str, sizes: Mapping[str, int]) -> Iterator[DeleteRequest]:
        rows = iter(sizes.items())
        while page := dict(islice(rows, MAX_IDS_PER_DELETE)):
            ids = list(page)
            self._journal.deletes(dict(zip(self._keys.of(namespace, ids), page.values(), strict=True)))
            yield DeleteRequest(ids, namespace)

    def _has_no_other_records(self, namespace: str) -> bool:
        """Return whether a namespace has only records that vanished, and can be deleted as a whole."""
        if not namespace or namespace in NO_PATH_SEGMENTS or self._is_aliased(namespace):
            return False
        is_empty = True
        for entries in listed_entries(self._index, self._keys, [namespace], self._cancellation, self._on_turn):
            is_empty = False
            if not self._table.vanished(entries.column("id")).all():
                log.warning(
                    "Namespace %r vanished from the source, and has records that the manifest does not know: they stay. "
                    "Those that it knows are deleted by id.",
                    namespace,
                )
                return False
        return is_empty or self._is_known(namespace)

    def _is_known(self, namespace: str) -> bool:
        """
        Return whether the server describes a namespace.

        One that has no such operations answers 404, as to the deletion of a namespace that is gone.
        """
        try:
            call_in_background(lambda: self._index.describe_namespace(namespace), self._cancellation)
        except (SetupError, BadRequestError) as exc:
            log.info("Namespace %r is emptied by id, because it cannot be described: %s", namespace, exc)
            return False
        return True

    def _is_aliased(self, namespace: str) -> bool:
        if self._aliased is None:
            self._aliased = self._list_aliased()
        return namespace in self._aliased

    def _list_aliased(self) -> frozenset[str]:
        """Return the namespaces that aliases point to; none where the server does not know aliases."""
        try:
            found = call_in_background(lambda: list(self._index.list_aliases()), self._cancellation)
        except (SetupError, BadRequestError) as exc:
            log.info("The aliases of the index cannot be listed: %s", exc)
            return frozenset()
        return frozenset(canonical_namespace(alias.target_namespace) for alias in found)


def _rows(entries: Iterator[pa.RecordBatch]) -> Iterator[tuple[Any, Any]]:
    for batch in entries:
        yield from zip(batch.column("id").to_pylist(), batch.column("bytes").to_pylist(), strict=True)
