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
from airflow_pinecone_upsert.pipeline.send.requests import DeleteRequest, NamespaceDeleteRequest, UpsertRequest
from airflow_pinecone_upsert.reindex.entry import unpack_entries
from airflow_pinecone_upsert.reindex.keys import Keys

log = logging.getLogger(__name__)

FLUSH_INTERVAL_S: Final = 5.0
"""How often what was confirmed is written. At most this much work is repeated after a process was killed."""

RecordDeletion = DeleteRequest | NamespaceDeleteRequest

_RequestT = TypeVar("_RequestT", bound=UpsertRequest | DeleteRequest | NamespaceDeleteRequest)


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
    :param keys: How it names records.
    :param latest: Returns the last entry of each id, for a compaction.
    :param now: Returns monotonic seconds.
    :ivar lsns: The position of the last write in each namespace, where the server reports positions.
    :ivar deleted: By namespace that was deleted from, the ids whose deletion was confirmed.
    """

    def __init__(
        self,
        manifest: Manifest,
        keys: Keys,
        latest: Callable[[], Iterator[pa.RecordBatch]],
        now: Callable[[], float],
    ) -> None:
        self._manifest = manifest
        self._keys = keys
        self._latest = latest
        self._now = now
        self._flushed_s = now()
        self._unsettled: dict[str, int] = {}  # by key, the number of requests that are announced and not settled
        self._deleted_bytes: dict[str, int] = {}  # by key, of records whose deletion is announced
        self.counts = ReindexCounts()
        self.lsns: dict[str, int | None] = {}
        self.deleted: dict[str, int] = {}

    @property
    def max_lsn(self) -> int | None:
        """The position of the last write; None where the server reports none."""
        return max((lsn for lsn in self.lsns.values() if lsn is not None), default=None)

    def announced(self, requests: Iterator[_RequestT], count: int) -> Iterator[_RequestT]:
        """
        Pass requests on, after the manifest has noted that their ids are unknown.

        :param count: Requests that are noted at a time: each time costs a file.
        """
        while group := list(islice(requests, count)):
            for request in group:
                keys = self.keys_of(request)
                if not isinstance(request, NamespaceDeleteRequest):  # no other request has its keys
                    for key in keys:
                        self._unsettled[key] = self._unsettled.get(key, 0) + 1
                self._manifest.mark_unknown(keys)
            self._manifest.flush()
            while group:
                yield group.pop(0)

    def enter(self, event: Event[UpsertRequest]) -> None:
        """Enter what became of an upsert."""
        match event:
            case Attempt() if event.error is None:
                self._note_position(event.request.namespace, event.response)
                self._confirm(event.request)
            case Rejection():
                self._settle(self.keys_of(event.request))

    def enter_deletion(self, event: Event[RecordDeletion]) -> None:
        """Enter what became of a deletion."""
        match event:
            case Attempt():
                self.counts += ReindexCounts(delete_requests=1)
                if event.error is None:
                    self._confirm_deletion(event.request, event.response)
            case Rejection(DeleteRequest()):
                self._settle(self.keys_of(event.request))

    def deletes(self, sizes: Mapping[str, int]) -> None:
        """Note the bytes of records that are to be deleted by id, by their keys."""
        self._deleted_bytes.update(sizes)

    def deletion_units(self, request: RecordDeletion) -> int:
        """Estimate the write units of a deletion, whose bytes are forgotten. Those of a namespace are the least of a request."""
        if isinstance(request, NamespaceDeleteRequest):
            return write_units()
        return write_units(sum(self._deleted_bytes.pop(key, 0) for key in self.keys_of(request)))

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
        digests, sizes, replaced = unpack_entries(request.records.entries)
        keys = self.keys_of(request)
        is_last = self._settle(keys)
        confirmed = [row for row, last in enumerate(is_last) if last]
        self._manifest.append(
            [keys[row] for row in confirmed], [digests[row] for row in confirmed], [sizes[row] for row in confirmed]
        )
        changed = sum(map(bool, replaced))
        units = write_units(sum(sizes), sum(replaced))
        self.counts += ReindexCounts(new=len(keys) - changed, changed=changed, write_units=units)

    def _confirm_deletion(self, request: RecordDeletion, response: Any) -> None:
        keys, namespace = self.keys_of(request), request.namespace
        if isinstance(request, DeleteRequest):
            self._settle(keys)
            self._note_position(namespace, response)
        self._manifest.remove(keys)
        self.deleted[namespace] = self.deleted.get(namespace, 0) + len(keys)
        self.counts += ReindexCounts(deleted=len(keys), write_units=self.deletion_units(request))

    def _note_position(self, namespace: str, response: Any) -> None:
        self.lsns[namespace] = later_lsn(self.lsns.get(namespace), response)

    def keys_of(self, request: UpsertRequest | RecordDeletion) -> Sequence[str]:
        """Return the keys of the records that a request writes or deletes."""
        ids = request.known_ids if isinstance(request, NamespaceDeleteRequest) else request.ids
        return self._keys.of(request.namespace, ids)

    def _settle(self, keys: Sequence[str]) -> list[bool]:
        """Note that a request is settled; return for each key whether no further one is announced."""
        is_last = []
        for key in keys:
            others = self._unsettled.pop(key) - 1
            if others:
                self._unsettled[key] = others
            is_last.append(not others)
        return is_last
