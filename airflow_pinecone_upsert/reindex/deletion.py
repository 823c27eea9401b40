"""
Deleting what vanished from the source: last, and guarded.

Invariants:

- Only ids that the manifest has are deleted, and none that occurred in the source, whatever became of its record.
- A source that yielded nothing deletes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

import pyarrow as pa

from airflow_pinecone_upsert.api.limits import MAX_IDS_PER_DELETE
from airflow_pinecone_upsert.exceptions import SetupError, SourceError
from airflow_pinecone_upsert.pipeline.read.chunk import as_mask
from airflow_pinecone_upsert.pipeline.send.requests import DeleteRequest
from airflow_pinecone_upsert.reindex.id_table import IdTable
from airflow_pinecone_upsert.reindex.journal import Journal

ALWAYS_ALLOWED: Final = 10
"""So many records may be deleted, whatever their share of the manifest is."""

MAX_EXAMPLES: Final = 10


def vanished_entries(table: IdTable, latest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """
    Yield the entries of ids that did not occur in the source.

    :param latest: The last entry of each id.
    """
    for batch in latest:
        is_vanished = table.vanished(batch.column("id"))
        if is_vanished.any():
            yield batch.filter(as_mask(is_vanished))


def check_guard(vanished: int, known: int, read: int, max_fraction: float, examples: Sequence[Any]) -> None:
    """
    Check that not too much would be deleted.

    :param vanished: Records that would be deleted.
    :param known: Records of the manifest.
    :param read: Records of the source.
    :param max_fraction: Share of the manifest's records that may be deleted.
    :param examples: A few of the ids that would be deleted.
    :raises SourceError: The source has no records.
    :raises SetupError: The share is larger.
    """
    if vanished and not read:
        raise SourceError(
            f"The source has no records, and the manifest has {known:,}. Nothing was deleted. Check the source; to empty a "
            "namespace, delete it."
        )
    if vanished <= max(ALWAYS_ALLOWED, max_fraction * known):
        return
    names = ", ".join(map(repr, examples[:MAX_EXAMPLES]))
    raise SetupError(
        f"{vanished:,} of the {known:,} records of the manifest ({vanished / known:.1%}) are missing from the source: more "
        f"than max_delete_fraction, {max_fraction:.1%}, allows. Nothing was deleted; upserts are complete. Missing, for "
        f"example: {names}. Check that the source is complete. If it is, set max_delete_fraction to at least "
        f"{vanished / known:.4f} for one run, or delete_missing=False."
    )


def delete_requests(vanished: Iterator[pa.RecordBatch], namespace: str, journal: Journal) -> Iterator[DeleteRequest]:
    """Yield the requests that delete what vanished."""
    rows: Iterator[Any] = (
        row
        for batch in vanished
        for row in zip(batch.column("id").to_pylist(), batch.column("bytes").to_pylist(), strict=True)
    )
    while page := dict(islice(rows, MAX_IDS_PER_DELETE)):
        journal.deletes(page)
        yield DeleteRequest(list(page), namespace)
