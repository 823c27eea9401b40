"""
The journal of a run: what the manifest must know, and when.

Invariants:

- Before a request that writes or deletes an id is sent, the manifest says durably that what the index holds for this id is
  unknown. So after a crash no id whose write was in flight counts as confirmed at its old digest, and no id that may be in
  the index is missing from the manifest.
- The manifest says a digest, or that an id is gone, only after the server confirmed the last request of this run that was
  announced for the id. Where the same id is in a further request that waits or is in flight, it stays unknown.
- A record that the server rejects, and one of a request that was given up, stays unknown: an earlier attempt may have been
  applied. The next run sends it again, or deletes it if the source does not have it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Protocol, TypeVar

import pyarrow as pa

from airflow_pinecone_upsert.api.cost import write_units
from airflow_pinecone_upsert.api.models import later_lsn
from airflow_pinecone_upsert.exceptions import PineconeUpsertError
from airflow_pinecone_upsert.pipeline.counts import ReindexCounts
from airflow_pinecone_upsert.pipeline.send.events import Attempt, Event, Rejection
from airflow_pinecone_upsert.pipeline.send.requests import DeleteRequest, UpsertRequest
from airflow_pinecone_upsert.reindex.entry import unpack_entries

log = logging.getLogger(__name__)

FLUSH_INTERVAL_S: Final = 5.0
"""How often what was confirmed is written. At most this much work is repeated after a process was killed."""

_RequestT = TypeVar("_RequestT", UpsertRequest, DeleteRequest)


class Manifest(Protocol):
    """What a run needs of a manifest."""

    @property
    def compaction_is_due(self) -> bool:
        """Whether so much was journaled that the next run would load it slowly."""
        ...

    @property
    def last_run(self) -> Mapping[str, Any] | None:
        """What the last successful run reported."""
        ...

    def entries(self) -> Iterator[pa.RecordBatch]:
        """Yield all entries that are written, with the columns ``id``, ``digest`` and ``bytes``; of an id the last counts."""
        ...

    def mark_unknown(self, ids: Sequence[str]) -> None:
        """Enter that something may be sent for these ids."""
        ...

    def append(self, ids: Sequence[str], digests: Sequence[bytes], sizes: Sequence[int]) -> None:
        """Enter records that the server has confirmed."""
        ...

    def remove(self, ids: Sequence[str]) -> None:
        """Enter deletions that the server has confirmed."""
        ...

    def flush(self) -> None:
        """Write what was entered since the last time."""
        ...

    def commit(self, entries: Iterable[pa.RecordBatch], summary: Mapping[str, Any] | None = None) -> None:
        """Replace all entries by these, each id once."""
        ...


class Journal:
    """
    Enters what is announced, confirmed and deleted.

    :param manifest: The manifest.
    :param latest: Returns the last entry of each id, for a compaction.
    :param now: Returns monotonic seconds.
    :ivar max_lsn: The position of the last write, where the server reports positions.
    """

    def __init__(
        self, manifest: Manifest, latest: Callable[[], Iterator[pa.RecordBatch]], now: Callable[[], float]
    ) -> None:
        self._manifest = manifest
        self._latest = latest
        self._now = now
        self._flushed_s = now()
        self._unsettled: dict[str, int] = {}  # by id, the number of requests that are announced and not settled
        self._deleted_bytes: dict[str, int] = {}  # of ids whose deletion is announced
        self.counts = ReindexCounts()
        self.max_lsn: int | None = None

    def announced(self, requests: Iterator[_RequestT], count: int) -> Iterator[_RequestT]:
        """
        Pass requests on, after the manifest has noted that their ids are unknown.

        :param count: Requests that are noted at a time: each time costs a file.
        """
        while group := list(islice(requests, count)):
            ids = [record_id for request in group for record_id in request.ids]
            for record_id in ids:
                self._unsettled[record_id] = self._unsettled.get(record_id, 0) + 1
            self._manifest.mark_unknown(ids)
            self._manifest.flush()
            while group:
                yield group.pop(0)

    def enter(self, event: Event[UpsertRequest]) -> None:
        """Enter what became of an upsert."""
        match event:
            case Attempt() if event.error is None:
                self.max_lsn = later_lsn(self.max_lsn, event.response)
                self._confirm(event.request)
            case Rejection():
                self._settle(event.request.ids)

    def enter_deletion(self, event: Event[DeleteRequest]) -> None:
        """Enter what became of a deletion."""
        match event:
            case Attempt():
                self.counts += ReindexCounts(delete_requests=1)
                if event.error is None:
                    self.max_lsn = later_lsn(self.max_lsn, event.response)
                    self._confirm_deletion(event.request.ids)
            case Rejection():
                self._settle(event.request.ids)

    def deletes(self, sizes: Mapping[str, int]) -> None:
        """Note the bytes of records that are to be deleted."""
        self._deleted_bytes.update(sizes)

    def deletion_units(self, ids: Sequence[str]) -> int:
        """Estimate the write units of a deletion, whose bytes are forgotten."""
        return write_units(sum(self._deleted_bytes.pop(record_id, 0) for record_id in ids))

    def flush_if_due(self) -> None:
        """Write what was entered, and compact the manifest, where the last time was long enough ago."""
        if self._now() - self._flushed_s < FLUSH_INTERVAL_S:
            return
        self._flushed_s = self._now()
        self._manifest.flush()
        if self._manifest.compaction_is_due:
            self._manifest.commit(self._latest())

    def flush_after_failure(self) -> None:
        """Write what was entered; where that fails, too, log it: it must not hide the first error."""
        try:
            self._manifest.flush()
        except PineconeUpsertError as exc:
            log.error("%s", exc)  # noqa: TRY400

    def _confirm(self, request: UpsertRequest) -> None:
        ids = request.ids
        digests, sizes, replaced = unpack_entries(request.records.entries)
        is_last = self._settle(ids)
        confirmed = [row for row, last in enumerate(is_last) if last]
        self._manifest.append(
            [ids[row] for row in confirmed], [digests[row] for row in confirmed], [sizes[row] for row in confirmed]
        )
        changed = sum(map(bool, replaced))
        units = write_units(sum(sizes), sum(replaced))
        self.counts += ReindexCounts(new=len(ids) - changed, changed=changed, write_units=units)

    def _confirm_deletion(self, ids: Sequence[str]) -> None:
        self._settle(ids)
        self._manifest.remove(ids)
        self.counts += ReindexCounts(deleted=len(ids), write_units=self.deletion_units(ids))

    def _settle(self, ids: Sequence[str]) -> list[bool]:
        """Note that a request is settled; return for each id whether no further one is announced."""
        is_last = []
        for record_id in ids:
            others = self._unsettled.pop(record_id) - 1
            if others:
                self._unsettled[record_id] = others
            is_last.append(not others)
        return is_last
