"""
The stages that every run has, from a chunk to the books: what an upsert and a reindexing run have in common.

::

    read ──> select ──> encode ──> batch ──> send ──> track

A run chooses what is selected, and may do more at each stage; :mod:`airflow_pinecone_upsert.pipeline.run` shows the
simplest one. Everything before ``send`` is a generator, and ``send`` pulls the next request only when its window has room:
that bounds memory by the window and one chunk, however long the source is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal, NamedTuple, Protocol, TypeVar

from airflow_pinecone_upsert.api.backoff import Random
from airflow_pinecone_upsert.api.models import IndexStats, UpsertResponse
from airflow_pinecone_upsert.exceptions import (
    AuthenticationError,
    BadRequestError,
    IncompleteUpsertError,
    InputError,
    SetupError,
)
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.encode.encoder import EncodedChunk, encode
from airflow_pinecone_upsert.pipeline.encode.json_format import JSON
from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.encode.wire_format import WireFormat
from airflow_pinecone_upsert.pipeline.freshness import Freshness, Goal, Polling, wait_until_searchable
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.learned import Learned
from airflow_pinecone_upsert.pipeline.observer import Observer
from airflow_pinecone_upsert.pipeline.options import UpsertOptions
from airflow_pinecone_upsert.pipeline.read.chunk import Chunk
from airflow_pinecone_upsert.pipeline.read.prefetch import call_in_background
from airflow_pinecone_upsert.pipeline.read.source import RecordSource
from airflow_pinecone_upsert.pipeline.report import UpsertReport
from airflow_pinecone_upsert.pipeline.send.batch import Batcher
from airflow_pinecone_upsert.pipeline.send.events import Attempt, Event
from airflow_pinecone_upsert.pipeline.send.grouping import NamespaceBatcher
from airflow_pinecone_upsert.pipeline.send.learned_limits import LearnedLimits
from airflow_pinecone_upsert.pipeline.send.limiters import Limiters, NamespaceLimiters, SharedLimiter
from airflow_pinecone_upsert.pipeline.send.rate_limiter import RateLimiter
from airflow_pinecone_upsert.pipeline.send.requests import Envelope, UpsertRequest
from airflow_pinecone_upsert.pipeline.send.sender import Sender
from airflow_pinecone_upsert.pipeline.send.transport import Transport
from airflow_pinecone_upsert.pipeline.track.checkpoint import CheckpointState, TaskState
from airflow_pinecone_upsert.pipeline.track.rejects import Rejects, RejectsFolder
from airflow_pinecone_upsert.pipeline.track.tracker import RunTracker
from airflow_pinecone_upsert.pipeline.track.writer import CheckpointWriter
from airflow_pinecone_upsert.pipeline.wording import number_of

log = logging.getLogger(__name__)

_FORBIDDEN: Final = 403
_MAX_CAUSES_SHOWN: Final = 3

ReportT = TypeVar("ReportT", bound=UpsertReport)


class Index(Protocol):
    """What a run needs of the index: :class:`airflow_pinecone_upsert.client.IndexClient` has it."""

    @property
    def host(self) -> str:
        """The index's URL."""
        ...

    def describe_index_stats(self) -> IndexStats:
        """Return dimension, metric and record counts."""
        ...

    def max_indexed_lsn(self, record_id: str = ..., *, namespace: str = "") -> int | None:
        """Return the position of the last write that a query sees; None where the server does not report it."""
        ...

    def upsert(self, request: UpsertRequest) -> UpsertResponse:
        """Send one request, once."""
        ...


class Books(NamedTuple):
    """What becomes of the records of one try, and what it learns: parts of which none sets another's state."""

    rejects: Rejects
    tracker: RunTracker
    writer: CheckpointWriter
    limits: LearnedLimits

    @classmethod
    def open(  # noqa: PLR0913, PLR0917
        cls,
        source: RecordSource,
        options: UpsertOptions,
        folder: RejectsFolder | None,
        task_state: TaskState | None,
        earlier: CheckpointState | None,
        learned: Learned | None,
        started_s: float,
    ) -> Books:
        """Continue what earlier tries left."""
        counts, paths = (earlier.counts.rejected, earlier.rejects_paths) if earlier else (0, ())
        rejects = Rejects(options.max_rejects, folder, counts, paths)
        limits = LearnedLimits(options, learned)
        tracker = RunTracker(source, rejects, earlier, started_s, limits)
        return cls(rejects, tracker, CheckpointWriter(tracker, rejects, task_state, started_s), limits)


@dataclass(frozen=True)
class Stages:
    """
    The stages of one run.

    :param source: The records.
    :param options: The options.
    :param transport: Carries the requests, and has the clock.
    :param cancellation: Ends the run early.
    :param observers: Called for each attempt, and at the end.
    :param random: A source of floats in [0, 1), for the backoff.
    """

    source: RecordSource
    options: UpsertOptions
    transport: Transport[UpsertRequest]
    cancellation: CancellationToken
    observers: Sequence[Observer]
    random: Random

    @cached_property
    def envelope(self) -> Envelope:
        """The part of each request around its records, and with it the format of all."""
        return Envelope(self.options.namespace, wire_format_of(self.options.transport))

    def encoded(
        self, shape: IndexShape, books: Books, select: Callable[[Chunk], Chunk]
    ) -> Iterator[tuple[Chunk, EncodedChunk]]:
        """
        Read, select, encode, and reject what is invalid.

        :param shape: The index that the records are for.
        :param select: Returns the records of a chunk that are to be sent; perhaps none.
        :return: What was selected of each chunk, and what became of it. Nothing where that is no record.
        """
        longest_record = self.options.longest_request_bytes - self.envelope.size
        for chunk in self.source.chunks(shape, books.tracker.position):
            pending = select(chunk)
            if not len(pending.rows):
                books.tracker.skip(chunk.row_range)
                continue
            encoded = encode(
                pending,
                shape,
                max_bytes=longest_record,
                wire_format=self.envelope.wire_format,
                namespace=self.options.namespace,
            )
            books.tracker.read(chunk.row_range, pending, encoded)
            yield pending, encoded

    def batcher(self, records: Iterable[EncodedRecords], books: Books) -> Iterable[UpsertRequest]:
        """Return the stage that fills requests, each for one namespace."""
        max_records, size = self.options.batch_size, books.limits.size
        if not self.options.has_many_namespaces:
            return Batcher(records, self.envelope, max_records=max_records, size=size)

        def create(namespace: str) -> Batcher:
            envelope = replace(self.envelope, namespace=namespace, is_one_of_many=True)
            return Batcher((), envelope, max_records=max_records, size=size)

        return NamespaceBatcher(records, create)

    def _limiters(self, limits: LearnedLimits) -> Limiters:
        def create() -> RateLimiter:
            return RateLimiter(self.options.max_requests_per_second, limits.new_rate(), self.random)

        return NamespaceLimiters(create) if self.options.has_many_namespaces else SharedLimiter(create())

    def send(  # noqa: PLR0913 - what a run may do at each stage
        self,
        batcher: Iterable[UpsertRequest],
        books: Books,
        *,
        is_proven: bool,
        announced: Callable[[Iterator[UpsertRequest]], Iterator[UpsertRequest]] = iter,
        entered: Callable[[Event[UpsertRequest]], None] = lambda _: None,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Send every request, and enter what becomes of it.

        :param is_proven: See :class:`Sender`.
        :param announced: Passes the requests on, each before it is sent.
        :param entered: Called with each event after it was entered.
        :param on_turn: Called several times a second.
        :raises SetupError: A request failed, and a retry cannot help.
        :raises InputError: Likewise, or one record more is invalid than is allowed.
        :raises IncompleteUpsertError: A request failed for another reason, or the run was cancelled.
        """
        limits = books.limits

        def enter(event: Event[UpsertRequest]) -> None:
            if isinstance(event, Attempt):
                limits.size.settled(event.request, event.error)
                for observer in self.observers:
                    observer.attempted(event)
            books.tracker.add(event)
            entered(event)

        def turn() -> None:
            books.writer.write_if_due(self.transport.now())
            on_turn()

        options = self.options
        sender = Sender(
            announced(iter(batcher)),
            self.transport,
            rate_limiter=self._limiters(limits),
            max_pulled=options.max_pulled,
            max_unsettled=options.max_concurrency,
            random=self.random,
            cancellation=self.cancellation,
            is_proven=is_proven,
            is_probe=limits.size.is_probe,
            on_turn=turn,
        )
        with self.transport:
            sender.send_all(enter)
        totals = books.tracker.totals(self.transport.now())
        _raise_failures(books.tracker, totals.upserted, totals.rejected, is_proven=is_proven)

    def wait_until_searchable(self, index: Index, done: UpsertReport, sleep: Callable[[float], None]) -> None:
        """
        Wait until queries see what was written, where the options say so.

        :param done: What was written. Of nothing, nothing is waited for.
        :param sleep: Waits, in seconds.
        :raises NotSearchableError: It takes too long.
        """
        if not self.options.wait_until_searchable or (done.lsn is None and not done.upserted_count):
            return
        at_least = done.distinct_count or min(1, done.upserted_count)
        now = self.transport.now
        polling = Polling(self.options.searchable_timeout_s, now, sleep, self.cancellation)
        goals = [Goal(self.options.namespace, done.lsn, fallback_records=at_least)]
        if done.namespaces is not None:
            goals = [
                Goal(name, written.lsn, fallback_records=min(1, written.upserted))
                for name, written in done.namespaces.items()
                if written.lsn is not None or written.upserted
            ]
        for goal in goals:
            wait_until_searchable(Freshness(index, goal, now), polling)

    def fail(self, books: Books, report: Callable[[], UpsertReport]) -> None:
        """Write what would be lost, after an error that is to be raised again."""
        books.writer.write_after_failure(self.transport.now())
        done = report()
        confirmed = f"{done.upserted_count:,}"
        log.error("Upsert stopped. The server has confirmed %s records so far.%s", confirmed, rejects_note(done))

    def end(self, report: ReportT) -> ReportT:
        """Call the observers, however the run ended, and return the report."""
        for observer in self.observers:
            observer.ended(report)
        return report


def wire_format_of(transport: Literal["rest", "grpc"]) -> WireFormat:
    """Return how the requests of a transport are written."""
    if transport == "rest":
        return JSON
    from airflow_pinecone_upsert.pipeline.encode.protobuf_format import PROTOBUF

    return PROTOBUF


def index_stats(index: Index, cancellation: CancellationToken) -> IndexStats | None:
    """Ask for the index's statistics, which proves host and key before anything is sent; None where that is forbidden."""
    try:
        stats = call_in_background(index.describe_index_stats, cancellation)
    except AuthenticationError as exc:
        if exc.response is None or exc.response.status != _FORBIDDEN:  # such a key may write, but not read
            raise
        log.warning("The key may not read the index's dimension; vectors are not checked against it. %s", exc)
        return None
    log.info("%s contains %s, %s.", index.host, number_of(stats.total_vector_count, "record"), stats.vectors)
    return stats


def index_shape(stats: IndexStats | None) -> IndexShape:
    """Return the shape of an index; of one whose statistics are forbidden, nothing is known."""
    if stats is None:
        return IndexShape()
    return IndexShape(stats.dimension or None, stats.vector_type == "sparse", stats.metric)


def _raise_failures(tracker: RunTracker, confirmed: int, rejected: int, *, is_proven: bool) -> None:
    """
    Raise the error of a run with failed requests, or without a single record that the server took.

    :param confirmed: Records.
    :param rejected: Records.
    :param is_proven: The server has taken records of this source before.
    :raises SetupError: The first of them is a fault of the setup, which is final.
    :raises InputError: It is a fault of the input, or the server rejected every record; likewise.
    :raises IncompleteUpsertError: It is another one; the run can be tried again.
    """
    failures = tracker.failures
    if not failures and not is_proven and (rejection := tracker.total_rejection):
        message = f"The server rejected every record that it was sent ({rejected:,}): {rejection}"
        raise BadRequestError(message, response=rejection.response) from rejection
    if not failures:
        return
    first = failures[0].error
    unconfirmed = sum(failure.unconfirmed for failure in failures)
    causes = " ".join(f"{failure.error} [{failure.request.location}]" for failure in failures[:_MAX_CAUSES_SHOWN])
    more = len(failures) - _MAX_CAUSES_SHOWN
    message = (  # the reason first, because a log view cuts off the end
        f"{causes}{f' … and {more} more.' if more > 0 else ''} {confirmed:,} records are confirmed, {unconfirmed:,} are "
        f"not (failed requests: {len(failures)}); nothing after them was sent."
    )
    kind = type(first) if isinstance(first, (SetupError, InputError)) else IncompleteUpsertError
    raise kind(message, response=first.response) from first


def rejects_note(report: UpsertReport) -> str:
    """Say where the records are that the server does not have."""
    if not report.rejected_count:
        return ""
    where = f"written to {', '.join(report.rejects_paths)}" if report.rejects_paths else "written nowhere"
    return f" Invalid records: {report.rejected_count:,}, {where}."
