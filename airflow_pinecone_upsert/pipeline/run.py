"""
The whole flow on one screen: records come in as Arrow, leave as bytes, and every one of them is accounted for.

::

    source ──> encode ──> sift ──> batch ──> send ──> ledger ──> report, checkpoint, rejects

Everything left of ``send`` is a generator, and ``send`` pulls the next batch only when its window has room: that bounds
memory at the window and one chunk, however long the source is.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from typing import Final

from airflow_pinecone_upsert.api.backoff import Random
from airflow_pinecone_upsert.api.client import IndexClient
from airflow_pinecone_upsert.exceptions import (
    AuthenticationError,
    IncompleteUpsertError,
    InputError,
    PineconeUpsertError,
    SetupError,
)
from airflow_pinecone_upsert.pipeline.cancellation import GRACE_S, CancellationToken
from airflow_pinecone_upsert.pipeline.encode.encoder import encode
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.options import Columns, UpsertOptions
from airflow_pinecone_upsert.pipeline.read.prefetch import call_in_background
from airflow_pinecone_upsert.pipeline.read.source import RecordSource
from airflow_pinecone_upsert.pipeline.report import UpsertReport
from airflow_pinecone_upsert.pipeline.send.batch import fill_batches
from airflow_pinecone_upsert.pipeline.send.events import Attempt
from airflow_pinecone_upsert.pipeline.send.rate_limiter import RateLimiter
from airflow_pinecone_upsert.pipeline.send.requests import Envelope, UpsertRequest
from airflow_pinecone_upsert.pipeline.send.sender import Sender
from airflow_pinecone_upsert.pipeline.send.transport import ThreadTransport, Transport
from airflow_pinecone_upsert.pipeline.track.checkpoint import Checkpoint, StateStore
from airflow_pinecone_upsert.pipeline.track.rejects import Rejects, RejectsFolder
from airflow_pinecone_upsert.pipeline.track.tracker import RunTracker

log = logging.getLogger(__name__)

_CAUSES_SHOWN: Final = 3


def upsert(  # noqa: PLR0913 - what a run may be given
    source: RecordSource,
    client: IndexClient,
    options: UpsertOptions,
    *,
    rejects_folder: RejectsFolder | None = None,
    state: StateStore | None = None,
    stop: CancellationToken | None = None,
    observe: Callable[[Attempt], None] = lambda _: None,
    random: Random = random.random,
    lanes: Transport | None = None,
) -> UpsertReport:
    """
    Upsert every record of a source, and return only when each of them is confirmed by the server or tolerably set aside.

    :param source: The records.
    :param client: The index.
    :param options: The rest.
    :param rejects_folder: Where records that are set aside are written; None for nowhere.
    :param state: Where a try that ends early leaves what the next one needs to go on from there; None for nowhere.
    :param stop: Asks the run to end early.
    :param observe: Is told of each request that is over, by the caller's thread.
    :param random: A source of floats in [0, 1), for the backoff.
    :param lanes: Where requests travel, and the clock; None for threads and real time.
    :return: What the server confirmed, and what was set aside.
    :raises InputError: The source or a record of it is invalid; nothing of its chunk was sent.
    :raises SetupError: Key, index, quota or a parameter; no retry can help.
    :raises TransientError: The index, or the storage of the source, did not answer.
    :raises IncompleteUpsertError: Records stayed unconfirmed for another reason.
    """
    stop = stop or CancellationToken()
    lanes = lanes or ThreadTransport(client.upsert, options.max_concurrency)
    checkpoint = None
    if state is not None and source.identity is not None:
        checkpoint = Checkpoint(state, _identity(source, client, options))
    kept = checkpoint.load() if checkpoint else None
    rejects = Rejects(options.max_rejects, rejects_folder)
    ledger = RunTracker(source, rejects, checkpoint, kept, lanes.now(), observe)

    def report() -> UpsertReport:
        return ledger.report(lanes.now(), namespace=options.namespace, index_host=client.host)

    try:
        if kept:
            rejects.resume(int(kept.counts["rejected"]), kept.rejects_paths)
        shape = _index_shape(client, stop)
        start = f", from {ledger.place.origin}, row {ledger.place.row} on" if ledger.place else ""
        log.info("Upserting %s into namespace %r of %s%s.", source, options.namespace, client.host, start)
        _send_all(_batches(source, shape, options, ledger), lanes, options, ledger, stop, random)
        if ledger.failures:
            raise _failed(ledger, report())
    except PineconeUpsertError as exc:
        until_here = report()
        exc.report = until_here.as_output()
        log.error(  # noqa: TRY400
            "Upsert stopped. The server has confirmed %s records so far.%s",
            f"{until_here.upserted_count:,}",
            _set_aside(until_here),
        )
        raise
    if checkpoint is not None:
        checkpoint.clear()
    done = report()
    if done.rejected_count:
        log.warning("Not every record was upserted.%s", _set_aside(done))
    elif done.upserted_count == 0:
        log.warning("%s contains no records: nothing was upserted.", source)
    log.info("Done: %s", done.as_output())
    return done


def _set_aside(report: UpsertReport) -> str:
    """Say where to look for the records that the server does not hold."""
    if not report.rejected_count:
        return ""
    where = f"written to {', '.join(report.rejects_paths)}" if report.rejects_paths else "written nowhere"
    return f" Invalid records: {report.rejected_count:,}, {where}."


def _identity(source: RecordSource, client: IndexClient, options: UpsertOptions) -> dict[str, object]:
    """Name what must not change between two tries for a row to mean the same."""
    return {
        "the files": source.identity,
        "the index": client.host,
        "the namespace": options.namespace,
        "the columns": options.model_dump(mode="json", include=set(Columns.model_fields)),
    }


def _batches(
    source: RecordSource, shape: IndexShape, options: UpsertOptions, ledger: RunTracker
) -> Iterator[UpsertRequest]:
    envelope = Envelope(options.namespace)
    longest_record = options.max_request_bytes - envelope.size
    fragments = (
        ledger.sift(chunk, encode(chunk, shape, max_bytes=longest_record))
        for chunk in source.chunks(shape, ledger.place)
    )
    return fill_batches(fragments, envelope, max_records=options.batch_size, max_bytes=options.max_request_bytes)


def _send_all(  # noqa: PLR0913, PLR0917 - the stages of the flow
    batches: Iterator[UpsertRequest],
    lanes: Transport,
    options: UpsertOptions,
    ledger: RunTracker,
    stop: CancellationToken,
    random: Random,
) -> None:
    """Send until all is settled or the run has failed; in either case enter into the ledger what is in flight."""
    pace = RateLimiter(options.max_requests_per_second, options.max_bytes_per_second, random)
    with lanes:

        def keep_if_due() -> None:
            ledger.keep_if_due(lanes.now(), sender.in_flight)

        sender = Sender(
            batches,
            lanes,
            pace=pace,
            max_unsettled=options.max_concurrency,
            random=random,
            stop=stop,
            on_wait=keep_if_due,
        )
        try:
            for event in sender.run():
                ledger.add(event)
                keep_if_due()
        except BaseException as exc:
            # A time-out of the task's, say, leaves no more time than a wish to stop.
            within_s = float("inf") if isinstance(exc, PineconeUpsertError) else GRACE_S
            _close(sender, ledger, lanes, within_s, has_failed=True)
            raise
        _close(sender, ledger, lanes, float("inf"), has_failed=bool(ledger.failures))


def _close(sender: Sender, ledger: RunTracker, lanes: Transport, within_s: float, *, has_failed: bool) -> None:
    """Enter what is in flight, and keep how far the run has come."""
    for event in sender.wind_down(within_s):
        ledger.add(event)
    try:
        ledger.keep(lanes.now())
    except SetupError as exc:
        if not has_failed:
            raise
        log.error("%s", exc)  # noqa: TRY400 - it must not hide the first one


def _index_shape(client: IndexClient, stop: CancellationToken) -> IndexShape:
    """Ask the index for its dimension, which proves host and key before anything is sent."""
    try:
        stats = call_in_background(client.describe_index_stats, stop)
    except AuthenticationError as exc:
        if exc.answer is None or exc.answer.status != 403:  # noqa: PLR2004 - forbidden: a key that may write, not read
            raise
        log.warning("The key may not read the index's dimension; vectors are not checked against it. %s", exc)
        return IndexShape()
    log.info("%s contains %s records of dimension %s.", client.host, f"{stats.total_vector_count:,}", stats.dimension)
    return IndexShape(dimension=stats.dimension or None, sparse=stats.vector_type == "sparse")


def _failed(ledger: RunTracker, report: UpsertReport) -> PineconeUpsertError:
    """
    Build the error of a run that ended with failures.

    Its class says what to do next: a fault of set-up or input stays what it is, all others can be tried again.
    """
    first = ledger.failures[0].error
    unconfirmed = sum(failure.unconfirmed for failure in ledger.failures)
    causes = " ".join(f"[{failure.batch.place}] {failure.error}" for failure in ledger.failures[:_CAUSES_SHOWN])
    more = len(ledger.failures) - _CAUSES_SHOWN
    message = (
        f"{report.upserted_count:,} records are confirmed, {unconfirmed:,} are not (failed requests: "
        f"{len(ledger.failures)}); nothing after them was sent. {causes}{f' … and {more} more.' if more > 0 else ''}"
    )
    kind = type(first) if isinstance(first, (SetupError, InputError)) else IncompleteUpsertError
    error = kind(message, answer=first.answer)
    error.__cause__ = first
    return error
