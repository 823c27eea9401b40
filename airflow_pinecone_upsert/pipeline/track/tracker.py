"""
The tracker of a run: what became of every record.

Invariant: nothing counts as confirmed that the server did not confirm.
"""

from __future__ import annotations

from dataclasses import replace

from airflow_pinecone_upsert.api.models import later_lsn
from airflow_pinecone_upsert.exceptions import PineconeUpsertError
from airflow_pinecone_upsert.pipeline.counts import Counts
from airflow_pinecone_upsert.pipeline.encode.encoder import EncodedChunk
from airflow_pinecone_upsert.pipeline.position import Position, RowRange, gaps
from airflow_pinecone_upsert.pipeline.read.chunk import Chunk
from airflow_pinecone_upsert.pipeline.read.source import RecordSource
from airflow_pinecone_upsert.pipeline.report import Written
from airflow_pinecone_upsert.pipeline.send.events import Attempt, Event, Failure, Rejection
from airflow_pinecone_upsert.pipeline.send.learned_limits import LearnedLimits
from airflow_pinecone_upsert.pipeline.send.requests import UpsertRequest
from airflow_pinecone_upsert.pipeline.track.checkpoint import CheckpointState
from airflow_pinecone_upsert.pipeline.track.distinct_ids import DistinctIds
from airflow_pinecone_upsert.pipeline.track.rejects import Rejects
from airflow_pinecone_upsert.pipeline.track.watermark import Watermark


class RunTracker:
    """
    Enters what is read and sent, and knows how far the run has come.

    :param source: The records.
    :param rejects: Where rejected records go.
    :param earlier: What earlier tries of the same run left.
    :param started_s: Monotonic seconds.
    :param limits: What the run learns of the server's limits.
    :ivar lsn: The log sequence number of the last write, over all tries; None where the server reports none.
    """

    def __init__(
        self,
        source: RecordSource,
        rejects: Rejects,
        earlier: CheckpointState | None,
        started_s: float,
        limits: LearnedLimits,
    ) -> None:
        self._source = source
        self._rejects = rejects
        self._earlier = earlier.counts if earlier else Counts()
        self._counts = Counts()  # of this try; rejects are counted once they are settled
        self._watermark = Watermark(earlier.position, earlier.settled_after) if earlier else Watermark()
        self._started_s = started_s
        self._limits = limits
        self._last_rejection: Rejection[UpsertRequest] | None = None
        self._distinct = DistinctIds()
        self._written = dict(earlier.namespaces) if earlier else {}
        self.lsn = earlier.lsn if earlier else None
        self.failures: list[Failure[UpsertRequest]] = []

    @property
    def share(self) -> float | None:
        """The share of the source before the watermark, from 0 to 1; None where it is unknown."""
        position = self._watermark.position
        return 0.0 if position is None else self._source.share_before(position)

    @property
    def resumed_count(self) -> int:
        """Records that earlier tries sent."""
        return self._earlier.upserted

    @property
    def distinct_count(self) -> int | None:
        """Distinct ids among the confirmed records; None where they are unknown: earlier tries sent some, or too many."""
        return None if self.resumed_count else self._distinct.count

    def read(self, rows: RowRange, pending: Chunk, encoded: EncodedChunk) -> None:
        """
        Enter what was read.

        :param rows: All rows of the chunk.
        :param pending: Those that are not settled yet.
        :param encoded: What became of those.
        :raises RecordError: One more record is invalid than is allowed.
        """
        self._watermark.read(rows)
        if encoded.errors:
            self._rejects.take_rows(pending, encoded.errors)
            self._counts += Counts(rejected=len(encoded.errors))
        for settled in gaps(rows, encoded.records.rows):
            self._watermark.settle(settled)

    def skip(self, rows: RowRange) -> None:
        """Enter rows of which none is to be sent."""
        self._watermark.read(rows)
        self._watermark.settle(rows)

    def add(self, event: Event[UpsertRequest]) -> None:
        """
        Enter what the sender reports.

        :raises RecordError: The server rejects one record more than is allowed.
        """
        match event:
            case Attempt():
                self._counts += event.counts
                self.lsn = later_lsn(self.lsn, event.response)
                if event.error is None:
                    self._distinct.add(event.request.ids, event.request.namespace)
                    self._note_written(event.request.namespace, event.confirmed, event.response)
                    self._settle(event.request)
            case Rejection():
                self._rejects.take_rejected(event.request, event.error)
                self._counts += Counts(rejected=1)
                self._settle(event.request)
                self._last_rejection = event
            case Failure():
                self.failures.append(event)

    def _note_written(self, namespace: str, count: int, response: object) -> None:
        known = self._written.get(namespace, Written(0))
        self._written[namespace] = Written(known.upserted + count, later_lsn(known.lsn, response))

    def namespaces(self) -> dict[str, Written]:
        """Return what the server confirmed in each namespace, over all tries."""
        found = dict(self._written)
        for failure in self.failures:
            if failure.confirmed:
                known = found.get(failure.request.namespace, Written(0))
                found[failure.request.namespace] = known._replace(upserted=known.upserted + failure.confirmed)
        return found

    @property
    def total_rejection(self) -> PineconeUpsertError | None:
        """The server's words where it took none of the records that it was sent; None where it took some, or got none."""
        took_some = (self._earlier + self._counts).upserted > 0
        return None if took_some or self._last_rejection is None else self._last_rejection.error

    def counts(self, now: float) -> Counts:
        """Return the counters over all tries; of records, those that need not be sent again."""
        return self._earlier + self._counts + Counts(duration_s=now - self._started_s)

    def totals(self, now: float) -> Counts:
        """Return the counters over all tries, with everything that the server confirmed and that was rejected."""
        counts = self.counts(now)
        partly_confirmed = sum(failure.confirmed for failure in self.failures)
        return replace(counts, upserted=counts.upserted + partly_confirmed, rejected=self._rejects.count)

    @property
    def position(self) -> Position | None:
        """The position before which every row is settled; None for the first row."""
        return self._watermark.position

    def state(self, now: float) -> CheckpointState | None:
        """Return what the next try needs; None where nothing was read."""
        position = self._watermark.position
        if position is None:
            return None
        settled_after = tuple(self._watermark.settled_after)
        return CheckpointState(
            position,
            settled_after,
            self.counts(now),
            self._rejects.paths,
            self.lsn,
            dict(self._written),
            self._limits.learned,
        )

    def _settle(self, request: UpsertRequest) -> None:
        for rows in request.row_ranges:
            self._watermark.settle(rows)
