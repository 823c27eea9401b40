"""The filter of a reindexing run: which records of a chunk are sent, and what the manifest will say of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.read.chunk import Chunk
from airflow_pinecone_upsert.reindex.digest import RecordDigests, digest_records
from airflow_pinecone_upsert.reindex.entry import pack_entries
from airflow_pinecone_upsert.reindex.id_table import IdTable
from airflow_pinecone_upsert.reindex.keys import Keys


class Changes:
    """
    Selects what is new or changed.

    :param table: What the manifest says of each record.
    :param keys: How records are named.
    :param is_full: Select everything.
    :ivar read: Records so far.
    :ivar unchanged: Of these, those that were not selected.
    :ivar unchanged_bytes: Their bytes, by Pinecone's cost rule.
    :ivar without_namespace: Of those read, those that name no valid namespace, where records name theirs.
    """

    def __init__(self, table: IdTable, keys: Keys, *, is_full: bool) -> None:
        self._table = table
        self._keys = keys
        self._is_full = is_full
        self.read = 0
        self.unchanged = 0
        self.unchanged_bytes = 0
        self.without_namespace = 0
        self.is_unchanged: npt.NDArray[np.bool_] = np.zeros(0, bool)
        self._selected = RecordDigests.none()
        self._is_known: npt.NDArray[np.bool_] = np.zeros(0, bool)

    def select(self, chunk: Chunk) -> Chunk:
        """Return the records of a chunk that are to be sent, and those that cannot be compared."""
        records = digest_records(chunk, self._keys)
        self.without_namespace += (self._keys.prefixes(chunk) or ()).count(None)
        found = self._table.compare(records)
        is_unchanged = np.zeros_like(found.is_unchanged) if self._is_full else found.is_unchanged
        self.is_unchanged = is_unchanged
        self.read += len(is_unchanged)
        self.unchanged += int(np.count_nonzero(is_unchanged))
        self.unchanged_bytes += int(records.sizes[is_unchanged].sum())
        is_selected = ~is_unchanged
        if is_selected.any():
            self._selected = records.only(is_selected)
            self._is_known = ~found.is_new[is_selected]
        return chunk if is_selected.all() else chunk.only(is_selected)

    def with_entries(self, selected: Chunk, records: EncodedRecords) -> EncodedRecords:
        """
        Note that records are to be sent, and return them with their entries.

        :param selected: What :meth:`select` returned last.
        :param records: Those of them that are valid.
        """
        kept = np.searchsorted(np.asarray(selected.rows), np.asarray(records.rows, np.int64))
        chosen = self._selected.only(kept)
        self._table.update(chosen.id_hashes, chosen.digests)
        return records._replace(entries=pack_entries(chosen.digests, chosen.sizes, self._is_known[kept]))
