"""
The books of one run: every record is confirmed, set aside or failed, and how far that holds is kept for the next try.

What always holds: records that were set aside are written before the checkpoint moves past them; nothing is called
confirmed that the server did not confirm.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from airflow_pinecone_upsert.pipeline.encode.encoder import EncodedChunk, EncodedRecords
from airflow_pinecone_upsert.pipeline.position import Position, RowRange
from airflow_pinecone_upsert.pipeline.read.chunk import Chunk
from airflow_pinecone_upsert.pipeline.read.source import RecordSource
from airflow_pinecone_upsert.pipeline.report import UpsertReport
from airflow_pinecone_upsert.pipeline.send.events import Attempt, Event, Failure, Rejection
from airflow_pinecone_upsert.pipeline.track.checkpoint import COUNTS, Checkpoint, CheckpointState
from airflow_pinecone_upsert.pipeline.track.progress import Progress, ProgressSample, eta_s, rates
from airflow_pinecone_upsert.pipeline.track.rejects import Rejects
from airflow_pinecone_upsert.pipeline.track.tally import Tally
from airflow_pinecone_upsert.pipeline.track.watermark import Watermark

log = logging.getLogger(__name__)

SAVE_INTERVAL_S: Final = 5.0
"""At most so much work is done again after a process was killed, and so often does the log tell of progress."""


class RunTracker:
    """
    The books of one run.

    :param source: The records.
    :param rejects: Where records are set aside; counts them.
    :param checkpoint: Where the watermark is kept; None for nowhere.
    :param kept: What earlier tries of the same run have left.
    :param now: Monotonic seconds.
    :param observe: Is told of each request that is over.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - its seams
        self,
        source: RecordSource,
        rejects: Rejects,
        checkpoint: Checkpoint | None,
        kept: CheckpointState | None,
        now: float,
        observe: Callable[[Attempt], None] = lambda _: None,
    ) -> None:
        self._source = source
        self._observe = observe
        self._rejects = rejects
        self._checkpoint = checkpoint
        self._earlier: Mapping[str, float] = kept.counts if kept else dict.fromkeys(COUNTS, 0)
        self._confirmed_earlier: Sequence[RowRange] = kept.confirmed_beyond if kept else ()
        self._watermark = Watermark(kept.place if kept else None)
        self._tally = Tally()
        self._fragments = 0
        self._started_s = now
        self._first = self._last = ProgressSample(now, share=self._share())

    @property
    def place(self) -> Position | None:
        """Where all before it is settled; None for the first row."""
        return self._watermark.place

    @property
    def failures(self) -> Sequence[Failure]:
        """What was given up."""
        return self._tally.failures

    def sift(self, chunk: Chunk, encoded: EncodedChunk) -> EncodedRecords:
        """
        Set the invalid records of a chunk aside, and leave out what an earlier try has sent.

        :return: What is to be sent.
        :raises RecordError: One more is invalid than is tolerated.
        """
        fragments, errors = encoded
        if self._watermark.place is None:
            # A first batch that waits for its third try must not keep what is confirmed behind it from being kept.
            self._watermark.place = Position(chunk.origin, chunk.first_row)
        confirmed = [
            rows for rows in self._confirmed_earlier if rows.origin == chunk.origin and rows.end > chunk.first_row
        ]
        if confirmed:
            fragments = fragments.only(
                not any(rows.first <= row < rows.end for rows in confirmed) for row in fragments.rows
            )
        if errors:
            self._rejects.take_rows(chunk, errors)
            for error in errors:
                self._watermark.set_aside(self._fragments + bisect_left(fragments.rows, error.row))
        self._fragments += len(fragments.ids)
        return fragments

    def add(self, event: Event) -> None:
        """
        Enter what the sender tells.

        :raises RecordError: The server refuses one record more than is tolerated.
        """
        self._tally.add(event)
        if isinstance(event, Attempt):
            self._observe(event)
        match event:
            case Attempt(error=None):
                self._watermark.settle(event.batch, confirmed=True)
            case Rejection():
                self._rejects.take_refused(event.batch, event.error)
                self._watermark.settle(event.batch, confirmed=False)

    def keep_if_due(self, now: float, in_flight: int) -> None:
        """
        Keep the watermark and tell of progress, every few seconds.

        :raises SetupError: Rejected records cannot be written.
        """
        if now - self._last.at_s >= SAVE_INTERVAL_S:
            log.info("%s.", self.keep(now, in_flight))

    def keep(self, now: float, in_flight: int = 0) -> Progress:
        """
        Write what was rejected, then keep the watermark, and show how far it is.

        :raises SetupError: It cannot be written; the watermark stays where it was.
        """
        progress = self._progress(now, in_flight)
        self._rejects.write()
        place = self._watermark.place
        if self._checkpoint is not None and place is not None:
            still_beyond = [
                rows for rows in self._confirmed_earlier if rows.origin != place.origin or rows.end > place.row
            ]
            beyond = [*still_beyond, *self._watermark.confirmed_beyond]
            self._checkpoint.save(CheckpointState(place, beyond, self._counts(now), self._rejects.paths))
            self._checkpoint.show(progress.as_state())
        return progress

    def report(self, now: float, *, namespace: str, index_host: str) -> UpsertReport:
        """Sum up all tries."""
        earlier, tally = self._earlier, self._tally
        return UpsertReport(
            upserted_count=int(earlier["upserted"]) + tally.upserted_count,
            resumed_count=int(earlier["upserted"]),
            rejected_count=self._rejects.count,
            rejects_paths=self._rejects.paths,
            request_count=int(earlier["requests"]) + tally.request_count,
            request_bytes=int(earlier["requestBytes"]) + tally.request_bytes,
            retry_count=int(earlier["retries"]) + tally.retry_count,
            throttled_count=int(earlier["throttled"]) + tally.throttled_count,
            duration_s=earlier["durationSeconds"] + now - self._started_s,
            namespace=namespace,
            index_host=index_host,
        )

    def _counts(self, now: float) -> dict[str, float]:
        """Return what the next try begins to count from: of records, only what it will not send again."""
        report = self.report(now, namespace="", index_host="")
        counts = (
            self._earlier["upserted"] + self._watermark.confirmed,
            self._earlier["rejected"] + self._watermark.rejected,
            report.request_count,
            report.request_bytes,
            report.retry_count,
            report.throttled_count,
            report.duration_s,
        )
        return dict(zip(COUNTS, counts, strict=True))

    def _progress(self, now: float, in_flight: int) -> Progress:
        tally = self._tally
        reading = ProgressSample(now, tally.upserted_count, tally.request_bytes, self._share())
        records_per_second, bytes_per_second = rates(self._last, reading)
        self._last = reading
        return Progress(
            records=int(self._earlier["upserted"]) + tally.upserted_count,
            records_per_second=records_per_second,
            bytes_per_second=bytes_per_second,
            in_flight=in_flight,
            throttled=tally.throttled_count,
            rejected=self._rejects.count,
            share=reading.share,
            eta_s=eta_s(self._first, reading),
        )

    def _share(self) -> float | None:
        place = self._watermark.place
        return 0.0 if place is None else self._source.share_before(place)
