"""
The whole flow on one screen: records come in as Arrow, leave as bytes, and every one of them is accounted for.

::

    source ──> encode ──> batch ──> send ──> tally ──> report, or an error

Everything left of ``send`` is a generator, and ``send`` pulls the next batch only when its window has room: that bounds
memory at the window and one chunk, however long the source is.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from typing import Final

from airflow_pinecone_upsert.api.client import IndexClient
from airflow_pinecone_upsert.api.errors import (
    AuthenticationError,
    IncompleteUpsertError,
    InputError,
    PineconeUpsertError,
    SetupError,
)
from airflow_pinecone_upsert.api.retry import Random
from airflow_pinecone_upsert.upsert.batch import Batch, Envelope, fill_batches
from airflow_pinecone_upsert.upsert.chunk import IndexShape
from airflow_pinecone_upsert.upsert.encode import encode
from airflow_pinecone_upsert.upsert.options import UpsertOptions
from airflow_pinecone_upsert.upsert.pace import Pace
from airflow_pinecone_upsert.upsert.report import Tally, UpsertReport
from airflow_pinecone_upsert.upsert.send import ThreadLanes, send
from airflow_pinecone_upsert.upsert.source import RecordSource

log = logging.getLogger(__name__)

_PROGRESS_EVERY_S: Final = 10.0
_CAUSES_SHOWN: Final = 3


def upsert(
    source: RecordSource, client: IndexClient, options: UpsertOptions, *, random: Random = random.random
) -> UpsertReport:
    """
    Upsert every record of a source, and return only when the server has confirmed each of them.

    :param source: The records.
    :param client: The index.
    :param options: The rest.
    :param random: A source of floats in [0, 1), for the backoff.
    :return: What the server confirmed.
    :raises InputError: The source or a record of it is invalid; nothing of its chunk was sent.
    :raises SetupError: Key, index, quota or a parameter; no retry can help.
    :raises IncompleteUpsertError: Records stayed unconfirmed for another reason.
    """
    started_s = time.monotonic()
    tally = Tally()

    def report() -> UpsertReport:
        duration_s = time.monotonic() - started_s
        return tally.report(duration_s=duration_s, namespace=options.namespace, index_host=client.host)

    try:
        shape = _index_shape(client)
        log.info("Upserting %s into namespace %r of %s.", source, options.namespace, client.host)
        batches = _batches(source, shape, options)
        pace = Pace(options.max_requests_per_second, options.max_bytes_per_second, random)
        progress = _Progress()
        with ThreadLanes(client.upsert, options.max_concurrency) as lanes:
            for event in send(batches, lanes, pace=pace, max_unsettled=options.max_concurrency, random=random):
                tally.add(event)
                progress.show(tally, lanes.now())
        if tally.failures:
            raise _failed(tally, report())
    except PineconeUpsertError as exc:
        exc.report = report().as_output()
        log.error("Stopped. The server has confirmed %s records until here.", f"{tally.upserted_count:,}")  # noqa: TRY400
        raise
    done = report()
    if done.upserted_count == 0:
        log.warning("%s holds no records: nothing was upserted.", source)
    log.info("Done: %s", done.as_output())
    return done


def _batches(source: RecordSource, shape: IndexShape, options: UpsertOptions) -> Iterator[Batch]:
    envelope = Envelope(options.namespace)
    longest_record = options.max_request_bytes - envelope.size
    fragments = (encode(chunk, shape, max_bytes=longest_record) for chunk in source.chunks(shape))
    return fill_batches(fragments, envelope, max_records=options.batch_size, max_bytes=options.max_request_bytes)


def _index_shape(client: IndexClient) -> IndexShape:
    """Ask the index for its dimension, which proves host and key before anything is sent."""
    try:
        stats = client.describe_index_stats()
    except AuthenticationError as exc:
        if exc.answer is None or exc.answer.status != 403:  # noqa: PLR2004 - forbidden: a key that may write, not read
            raise
        log.warning("The key may not read the index's dimension; vectors are not checked against it. %s", exc)
        return IndexShape()
    log.info("%s holds %s records of dimension %s.", client.host, f"{stats.total_vector_count:,}", stats.dimension)
    return IndexShape(dimension=stats.dimension or None, sparse=stats.vector_type == "sparse")


def _failed(tally: Tally, report: UpsertReport) -> PineconeUpsertError:
    """
    Build the error of a run that ended with failures.

    Its class says what to do next: a fault of set-up or input stays what it is, all others can be tried again.
    """
    first = tally.failures[0].error
    unconfirmed = sum(failure.unconfirmed for failure in tally.failures)
    causes = " ".join(f"[{failure.batch.place}] {failure.error}" for failure in tally.failures[:_CAUSES_SHOWN])
    more = len(tally.failures) - _CAUSES_SHOWN
    message = (
        f"{report.upserted_count:,} records are confirmed, {unconfirmed:,} are not (failed requests: "
        f"{len(tally.failures)}); nothing after them was sent. {causes}{f' … and {more} more.' if more > 0 else ''}"
    )
    kind = type(first) if isinstance(first, (SetupError, InputError)) else IncompleteUpsertError
    error = kind(message, answer=first.answer)
    error.__cause__ = first
    return error


class _Progress:
    """A line in the log every few seconds."""

    def __init__(self) -> None:
        self._last_s: float | None = None
        self._last_count = 0

    def show(self, tally: Tally, now: float) -> None:
        if self._last_s is None:
            self._last_s = now
        elapsed_s = now - self._last_s
        if elapsed_s >= _PROGRESS_EVERY_S:
            rate = (tally.upserted_count - self._last_count) / elapsed_s
            log.info("%s records confirmed, %.0f records/s.", f"{tally.upserted_count:,}", rate)
            self._last_s, self._last_count = now, tally.upserted_count
