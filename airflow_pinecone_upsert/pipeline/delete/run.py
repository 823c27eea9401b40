"""
A deletion on one screen.

::

    select ──> count ──> guard ──> send ──> report

Invariants:

- Where there is a guard, everything is counted, and compared with it, before the first request is sent.
- What is gone already is success: an unknown id, and a namespace that does not exist. So a retry is safe, and starts at the
  first id.
"""

from __future__ import annotations

import logging
import random
from dataclasses import replace
from typing import Final, Protocol

from airflow_pinecone_upsert.api.backoff import Random
from airflow_pinecone_upsert.api.models import PositionedResponse, later_lsn
from airflow_pinecone_upsert.exceptions import NotFoundError, PineconeUpsertError, SetupError
from airflow_pinecone_upsert.pipeline import defaults
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.counts import Counts
from airflow_pinecone_upsert.pipeline.delete import selection
from airflow_pinecone_upsert.pipeline.delete.report import DeletionReport
from airflow_pinecone_upsert.pipeline.delete.selection import Selection
from airflow_pinecone_upsert.pipeline.read.prefetch import call_in_background
from airflow_pinecone_upsert.pipeline.send.deletions import send_deletions
from airflow_pinecone_upsert.pipeline.send.events import Attempt, Event
from airflow_pinecone_upsert.pipeline.send.requests import Deletion
from airflow_pinecone_upsert.pipeline.send.transport import ThreadTransport, Transport

log = logging.getLogger(__name__)

_PROGRESS_INTERVAL_S: Final = 5.0


class Index(selection.Index, Protocol):
    """What a deletion needs of the index: :class:`airflow_pinecone_upsert.client.IndexClient` has it."""

    def send(self, request: Deletion) -> PositionedResponse:
        """Send one request, once."""
        ...


def delete(  # noqa: PLR0913 - what a run may be given
    selected: Selection,
    index: Index,
    namespace: str = "",
    *,
    max_deletes: int | None = None,
    dry_run: bool = False,
    cancellation: CancellationToken | None = None,
    random: Random = random.random,
    transport: Transport[Deletion] | None = None,
) -> DeletionReport:
    """
    Delete records of one namespace.

    :param selected: Which ones.
    :param index: The index.
    :param namespace: ``""`` is the default one.
    :param max_deletes: With more ids or records than this, nothing is deleted; None for any number.
    :param dry_run: Count, and delete nothing. Ids are read and checked.
    :param cancellation: Ends the run early.
    :param random: A source of floats in [0, 1), for the backoff.
    :param transport: Carries the requests, and has the clock; None for threads and real time.
    :return: What the server confirmed.
    :raises SetupError: More would be deleted than is allowed, or it cannot be counted; or key, index or parameters.
    :raises InputError: An id cannot be one, the files cannot be read, or the server rejects what was sent.
    :raises TransientError: The index, or the storage of the files, did not answer.
    :raises IncompleteUpsertError: The run was cancelled.
    """
    cancellation = cancellation or CancellationToken("deletion")
    transport = transport or ThreadTransport(index.send, defaults.MAX_CONCURRENCY)
    log.info("Deleting %s from namespace %r of %s.", selected, namespace, index.host)
    tally = _Tally(transport)
    expected: int | None = 0
    try:
        if max_deletes is not None or not selected.is_of_ids:
            expected = call_in_background(lambda: selected.count(index, namespace), cancellation)
            _check_guard(expected, max_deletes, selected, namespace)
        if dry_run:
            if selected.is_of_ids:
                expected = _read_ids(selected, namespace, cancellation)
        else:
            send_deletions(
                selected.requests(namespace),
                transport,
                max_unsettled=defaults.MAX_CONCURRENCY,
                random=random,
                cancellation=cancellation,
                enter=tally.enter,
                on_turn=tally.log_if_due,
            )
    except NotFoundError:
        if not _answers(index):
            raise
        log.info("Namespace %r does not exist: there is nothing to delete.", namespace)
        expected = 0
    except BaseException:
        log.error("Deletion stopped. The server has confirmed %s ids so far.", f"{tally.ids:,}")  # noqa: TRY400 - raised again
        raise
    deleted = tally.ids if selected.is_of_ids and not dry_run else expected
    report = DeletionReport(deleted, tally.totals(), tally.lsn, namespace, index.host, dry_run)
    log.info("%s", report)
    return report


class _Tally:
    """What was deleted so far."""

    def __init__(self, transport: Transport[Deletion]) -> None:
        self._transport = transport
        self._started_s = self._logged_s = transport.now()
        self._counts = Counts()
        self.ids = 0
        self.lsn: int | None = None

    def enter(self, event: Event[Deletion]) -> None:
        """Count an event."""
        if not isinstance(event, Attempt):
            return
        self._counts += replace(event.counts, upserted=0)
        if event.error is None:
            self.ids += len(event.request.ids)
            self.lsn = later_lsn(self.lsn, event.response)

    def log_if_due(self) -> None:
        """Log how far the run is, every few seconds."""
        if self._transport.now() - self._logged_s >= _PROGRESS_INTERVAL_S:
            self._logged_s = self._transport.now()
            log.info("Deleted %s ids so far.", f"{self.ids:,}")

    def totals(self) -> Counts:
        """Return the counters, with the time since the start."""
        return replace(self._counts, duration_s=self._transport.now() - self._started_s)


def _check_guard(count: int | None, max_deletes: int | None, selected: Selection, namespace: str) -> None:
    """
    Check that not more would be deleted than is allowed.

    :raises SetupError: It would, or it is not known.
    """
    if count is None:
        log.warning("The server does not count the records that the filter matches, so deletedCount will be null.")
    if max_deletes is None:
        return
    if count is None:
        raise SetupError(
            f"max_deletes is {max_deletes:,}, and the server does not count {selected}. Nothing was deleted. Remove "
            "max_deletes, or delete by id."
        )
    if count > max_deletes:
        raise SetupError(
            f"{count:,} records of namespace {namespace!r} would be deleted ({selected}): more than max_deletes, "
            f"{max_deletes:,}, allows. Nothing was deleted. Check what is selected. If it is right, set max_deletes to at "
            f"least {count:,} for one run."
        )


def _read_ids(selected: Selection, namespace: str, cancellation: CancellationToken) -> int:
    """Read and check every id, and count them."""
    count = 0
    for request in selected.requests(namespace):
        cancellation.raise_if_cancelled()
        count += len(request)
    return count


def _answers(index: Index) -> bool:
    """Return whether the host is an index's: a wrong host is a 404, too."""
    try:
        index.describe_index_stats()
    except PineconeUpsertError:
        return False
    return True
