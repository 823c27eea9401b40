"""
The whole flow on one screen: records come in as Arrow, leave as bytes, and every one of them is accounted for.

::

    read ──> filter ──> encode ──> batch ──> send ──> track ──> report, checkpoint, rejects

Everything before ``send`` is a generator, and ``send`` pulls the next request only when its window has room: that bounds
memory by the window and one chunk, however long the source is.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from airflow_pinecone_upsert.api.backoff import Random
from airflow_pinecone_upsert.api.models import IndexStats, UpsertResponse
from airflow_pinecone_upsert.exceptions import (
    AuthenticationError,
    BadRequestError,
    IncompleteUpsertError,
    InputError,
    RequestTooLargeError,
    SetupError,
)
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.encode.encoder import encode
from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.observer import Observer
from airflow_pinecone_upsert.pipeline.options import Columns, UpsertOptions
from airflow_pinecone_upsert.pipeline.read.prefetch import call_in_background
from airflow_pinecone_upsert.pipeline.read.source import RecordSource
from airflow_pinecone_upsert.pipeline.report import UpsertReport, number_of
from airflow_pinecone_upsert.pipeline.send.batch import Batcher
from airflow_pinecone_upsert.pipeline.send.events import Attempt, Event
from airflow_pinecone_upsert.pipeline.send.rate_limiter import RateLimiter
from airflow_pinecone_upsert.pipeline.send.requests import Envelope, UpsertRequest
from airflow_pinecone_upsert.pipeline.send.sender import Sender
from airflow_pinecone_upsert.pipeline.send.transport import ThreadTransport, Transport
from airflow_pinecone_upsert.pipeline.track.checkpoint import Checkpoint, CheckpointState, StateStore
from airflow_pinecone_upsert.pipeline.track.rejects import Rejects, RejectsFolder
from airflow_pinecone_upsert.pipeline.track.settled_rows import SettledRows
from airflow_pinecone_upsert.pipeline.track.tracker import RunTracker
from airflow_pinecone_upsert.pipeline.track.writer import CheckpointWriter

log = logging.getLogger(__name__)

_FORBIDDEN: Final = 403
_MAX_CAUSES_SHOWN: Final = 3


class Index(Protocol):
    """What a run needs of the index: :class:`airflow_pinecone_upsert.client.IndexClient` has it."""

    @property
    def host(self) -> str:
        """The index's URL."""
        ...

    def describe_index_stats(self) -> IndexStats:
        """Return dimension, metric and record counts."""
        ...

    def upsert(self, request: UpsertRequest) -> UpsertResponse:
        """Send one request, once."""
        ...


def upsert(  # noqa: PLR0913 - what a run may be given
    source: RecordSource,
    index: Index,
    options: UpsertOptions,
    *,
    rejects_folder: RejectsFolder | None = None,
    state: StateStore | None = None,
    cancellation: CancellationToken | None = None,
    observers: Sequence[Observer] = (),
    random: Random = random.random,
    transport: Transport[UpsertRequest] | None = None,
) -> UpsertReport:
    """
    Upsert every record of a source. Return once each of them is confirmed by the server, or rejected where allowed.

    :param source: The records.
    :param index: Where they go.
    :param options: The rest.
    :param rejects_folder: Where rejected records are written; None for nowhere.
    :param state: Where a try that fails leaves what the next one needs to resume; None for nowhere.
    :param cancellation: Ends the run early.
    :param observers: Called for each attempt, and at the end.
    :param random: A source of floats in [0, 1), for the backoff.
    :param transport: Carries the requests, and has the clock; None for threads and real time.
    :return: What the server confirmed, and what was rejected.
    :raises InputError: The source or a record of it is invalid; nothing of its chunk was sent.
    :raises SetupError: Key, index, quota or a parameter; a retry cannot help.
    :raises TransientError: The index, or the storage of the source, did not answer.
    :raises IncompleteUpsertError: Records stayed unconfirmed for another reason.
    """
    cancellation = cancellation or CancellationToken()
    transport = transport or ThreadTransport(index.upsert, options.max_concurrency)
    started_s = transport.now()
    checkpoint = _checkpoint(source, index, options, state)
    earlier = checkpoint.load() if checkpoint else None
    books = _Books.open(source, options, rejects_folder, checkpoint, earlier, started_s)

    def report() -> UpsertReport:
        tracker, paths = books.tracker, books.rejects.paths
        totals = tracker.totals(transport.now())
        return UpsertReport(totals, tracker.resumed_count, paths, tracker.distinct_count, options.namespace, index.host)

    def enter(event: Event[UpsertRequest]) -> None:
        if isinstance(event, Attempt):
            if isinstance(event.error, RequestTooLargeError):
                batcher.too_large(event.request)
            for observer in observers:
                observer.attempted(event)
        books.tracker.add(event)

    try:
        stats = _index_stats(index, cancellation)
        if checkpoint and earlier and not _is_backed(earlier, stats, options.namespace):
            checkpoint.discard()
            earlier = None
            books = _Books.open(source, options, rejects_folder, checkpoint, earlier, started_s)
        books.rejects.check_earlier()
        _log_start(source, index, options, earlier)
        batcher = Batcher(
            _encoded(source, _shape(stats), options, SettledRows.of(earlier), books.tracker),
            Envelope(options.namespace),
            max_records=options.batch_size,
            max_bytes=options.max_request_bytes,
        )
        sender = Sender(
            iter(batcher),
            transport,
            rate_limiter=RateLimiter(options.max_requests_per_second, options.max_bytes_per_second, random),
            max_unsettled=options.max_concurrency,
            random=random,
            cancellation=cancellation,
            is_proven=earlier is not None,
            on_turn=lambda: books.writer.write_if_due(transport.now()),
        )
        with transport:
            sender.send_all(enter)
        _raise_failures(books.tracker, report())
        books.writer.write(transport.now())
    except BaseException:
        books.writer.write_after_failure(transport.now())
        _log_failure(report())
        raise
    finally:
        done = report()
        for observer in observers:
            observer.ended(done)
    if checkpoint is not None:
        checkpoint.clear()
    _log_success(source, done)
    return done


class _Books(NamedTuple):
    """What becomes of the records of one try: three parts, of which none sets another's state."""

    rejects: Rejects
    tracker: RunTracker
    writer: CheckpointWriter

    @classmethod
    def open(  # noqa: PLR0913, PLR0917
        cls,
        source: RecordSource,
        options: UpsertOptions,
        folder: RejectsFolder | None,
        checkpoint: Checkpoint | None,
        earlier: CheckpointState | None,
        started_s: float,
    ) -> _Books:
        """Continue what earlier tries left."""
        counts, paths = (earlier.counts.rejected, earlier.rejects_paths) if earlier else (0, ())
        rejects = Rejects(options.max_rejects, folder, counts, paths)
        tracker = RunTracker(source, rejects, earlier, started_s)
        return cls(rejects, tracker, CheckpointWriter(tracker, rejects, checkpoint, started_s))


def _checkpoint(
    source: RecordSource, index: Index, options: UpsertOptions, state: StateStore | None
) -> Checkpoint | None:
    if state is not None and source.not_resumable:
        log.warning("A retry of this task will start at the first row: %s.", source.not_resumable)
    if state is None or source.identity is None:
        return None
    identity = {
        "the files": source.identity,
        "the index": index.host,
        "the namespace": options.namespace,
        "the columns": options.model_dump(mode="json", include=set(Columns.model_fields)),
    }
    return Checkpoint(state, identity)


def _index_stats(index: Index, cancellation: CancellationToken) -> IndexStats | None:
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


def _shape(stats: IndexStats | None) -> IndexShape:
    if stats is None:
        return IndexShape()
    return IndexShape(stats.dimension or None, stats.vector_type == "sparse", stats.metric)


def _is_backed(earlier: CheckpointState, stats: IndexStats | None, namespace: str) -> bool:
    """
    Return whether the namespace may still contain every record that a checkpoint says is confirmed.

    It does not where the namespace was emptied in between, or the index created again. Repeated ids and counts that lag
    look the same: then everything is sent again, which is safe.
    """
    count = stats.count_of(namespace) if stats else 0
    if count >= earlier.counts.upserted:
        return True
    log.warning(
        "The checkpoint of an earlier try is not used. It says that %s records are confirmed, and the namespace %r "
        "contains %s. Starting at the first row.",
        f"{earlier.counts.upserted:,}",
        namespace,
        f"{count:,}" if stats else "an unknown number",
    )
    return False


def _encoded(
    source: RecordSource, shape: IndexShape, options: UpsertOptions, settled: SettledRows, tracker: RunTracker
) -> Iterator[EncodedRecords]:
    """Read, leave out the settled rows, encode, and reject what is invalid."""
    longest_record = options.max_request_bytes - Envelope(options.namespace).size
    for chunk in source.chunks(shape, tracker.position):
        pending = settled.pending(chunk)
        encoded = encode(pending, shape, max_bytes=longest_record)
        tracker.read(chunk.row_range, pending, encoded)
        yield encoded.records


def _raise_failures(tracker: RunTracker, report: UpsertReport) -> None:
    """
    Raise the error of a run with failed requests, or without a single record that the server took.

    :raises SetupError: The first of them is a fault of the setup, which is final.
    :raises InputError: It is a fault of the input, or the server rejected every record; likewise.
    :raises IncompleteUpsertError: It is another one; the run can be tried again.
    """
    failures = tracker.failures
    if not failures and (rejection := tracker.total_rejection):
        message = f"The server rejected every record that it was sent ({report.rejected_count:,}): {rejection}"
        raise BadRequestError(message, response=rejection.response) from rejection
    if not failures:
        return
    first = failures[0].error
    unconfirmed = sum(failure.unconfirmed for failure in failures)
    causes = " ".join(f"[{failure.request.location}] {failure.error}" for failure in failures[:_MAX_CAUSES_SHOWN])
    more = len(failures) - _MAX_CAUSES_SHOWN
    message = (
        f"{report.upserted_count:,} records are confirmed, {unconfirmed:,} are not (failed requests: "
        f"{len(failures)}); nothing after them was sent. {causes}{f' … and {more} more.' if more > 0 else ''}"
    )
    kind = type(first) if isinstance(first, (SetupError, InputError)) else IncompleteUpsertError
    raise kind(message, response=first.response) from first


def _log_start(source: RecordSource, index: Index, options: UpsertOptions, earlier: CheckpointState | None) -> None:
    start = f", from {earlier.position.origin}, row {earlier.position.row} on" if earlier else ""
    log.info("Upserting %s into namespace %r of %s%s.", source, options.namespace, index.host, start)


def _log_success(source: RecordSource, report: UpsertReport) -> None:
    if report.rejected_count:
        log.warning("Not every record was upserted.%s", _rejects_note(report))
    elif report.upserted_count == 0:
        log.warning("%s contains no records: nothing was upserted.", source)
    log.info("%s", report)


def _log_failure(report: UpsertReport) -> None:
    confirmed = f"{report.upserted_count:,}"
    log.error("Upsert stopped. The server has confirmed %s records so far.%s", confirmed, _rejects_note(report))


def _rejects_note(report: UpsertReport) -> str:
    """Say where the records are that the server does not have."""
    if not report.rejected_count:
        return ""
    where = f"written to {', '.join(report.rejects_paths)}" if report.rejects_paths else "written nowhere"
    return f" Invalid records: {report.rejected_count:,}, {where}."
