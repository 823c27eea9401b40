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
import time
from collections.abc import Callable, Sequence

from airflow_pinecone_upsert.api.backoff import Random
from airflow_pinecone_upsert.api.models import IndexStats
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.observer import Observer
from airflow_pinecone_upsert.pipeline.options import UpsertOptions
from airflow_pinecone_upsert.pipeline.read.source import RecordSource
from airflow_pinecone_upsert.pipeline.report import UpsertReport
from airflow_pinecone_upsert.pipeline.send.requests import UpsertRequest
from airflow_pinecone_upsert.pipeline.send.transport import ThreadTransport, Transport
from airflow_pinecone_upsert.pipeline.stages import Books, Index, Stages, index_shape, index_stats, rejects_note
from airflow_pinecone_upsert.pipeline.track.checkpoint import Checkpoint, CheckpointState, StateStore
from airflow_pinecone_upsert.pipeline.track.rejects import RejectsFolder
from airflow_pinecone_upsert.pipeline.track.settled_rows import SettledRows

log = logging.getLogger(__name__)


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
    sleep: Callable[[float], None] = time.sleep,
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
    :param sleep: Waits until the records are searchable, in seconds.
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
    learned = earlier.learned if earlier else None
    books = Books.open(source, options, rejects_folder, checkpoint, earlier, learned, started_s)
    stages = Stages(source, options, transport, cancellation, observers, random)

    def report() -> UpsertReport:
        tracker, paths = books.tracker, books.rejects.paths
        totals = tracker.totals(transport.now())
        return UpsertReport(
            totals,
            resumed_count=tracker.resumed_count,
            rejects_paths=paths,
            distinct_count=tracker.distinct_count,
            namespace=options.namespace,
            index_host=index.host,
            lsn=tracker.lsn,
            namespaces=tracker.namespaces() if options.has_many_namespaces else None,
            learned=books.limits.learned,
        )

    try:
        stats = index_stats(index, cancellation)
        if checkpoint and earlier and not _is_backed(earlier, stats, options):
            checkpoint.discard()
            earlier = None
            books = Books.open(source, options, rejects_folder, checkpoint, earlier, learned, started_s)
        books.rejects.check_earlier()
        _log_start(source, index, options, earlier)
        encoded = stages.encoded(index_shape(stats), books, SettledRows.of(earlier).pending)
        stages.send(
            stages.batcher((chunk.records for _, chunk in encoded), books), books, is_proven=earlier is not None
        )
        books.writer.write(transport.now())
        stages.wait_until_searchable(index, report(), sleep)  # before the checkpoint is cleared: a retry only waits
    except BaseException:
        stages.fail(books, report)
        raise
    finally:
        done = stages.end(report())
    if checkpoint is not None:
        checkpoint.clear()
    _log_success(source, done)
    return done


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
        "the columns": options.identity,
    }
    return Checkpoint(state, identity, source)


def _is_backed(earlier: CheckpointState, stats: IndexStats | None, options: UpsertOptions) -> bool:
    """
    Return whether each namespace may still contain every record that a checkpoint says is confirmed.

    It does not where the namespace was emptied in between, or the index created again. Repeated ids and counts that lag
    look the same: then everything is sent again, which is safe.
    """
    confirmed = {options.namespace: earlier.counts.upserted}
    if options.has_many_namespaces:
        confirmed = {name: written.upserted for name, written in earlier.namespaces.items()}
        if sum(confirmed.values()) != earlier.counts.upserted:
            confirmed[options.namespace] = earlier.counts.upserted  # written by a version that did not note them
    counts = {name: stats.count_of(name) if stats else 0 for name in confirmed}
    namespace = next((name for name, count in counts.items() if count < confirmed[name]), None)
    if namespace is None:
        return True
    log.warning(
        "The checkpoint of an earlier try is not used. It says that %s records are confirmed, and the namespace %r "
        "contains %s. Starting at the first row.",
        f"{confirmed[namespace]:,}",
        namespace,
        f"{counts[namespace]:,}" if stats else "an unknown number",
    )
    return False


def _log_start(source: RecordSource, index: Index, options: UpsertOptions, earlier: CheckpointState | None) -> None:
    start = f", from {earlier.position.origin}, row {earlier.position.row} on" if earlier else ""
    log.info("Upserting %s into %s of %s%s.", source, options.target, index.host, start)


def _log_success(source: RecordSource, report: UpsertReport) -> None:
    if report.rejected_count:
        log.warning("Not every record was upserted.%s", rejects_note(report))
    elif report.upserted_count == 0:
        log.warning("%s contains no records: nothing was upserted.", source)
    log.info("%s", report)
