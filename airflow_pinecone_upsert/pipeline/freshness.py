"""
Waiting until what was written is searchable.

Writes are eventually consistent. A write answers with a position (LSN), and it is searchable once a query reports at least
that position; fetches and lists report none, and counts lag
(https://docs.pinecone.io/guides/index-data/check-data-freshness). Where the server reports no position, what is left is the
number of records: the namespace counts as fresh once it has enough of them, and the number has stopped changing.

Each poll is one call, so that a task waits between two of them in its own way: a thread sleeps, a trigger awaits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from airflow_pinecone_upsert.api.models import IndexStats
from airflow_pinecone_upsert.exceptions import NotSearchableError, TransientError
from airflow_pinecone_upsert.pipeline.cancellation import POLL_INTERVAL_S, CancellationToken
from airflow_pinecone_upsert.pipeline.read.prefetch import call_in_background

log = logging.getLogger(__name__)

POLL_S: Final = 1.0
SETTLE_S: Final = 10.0
"""How long a count must stay the same. Pinecone updates counts every few seconds."""


class PositionedIndex(Protocol):
    """An index whose queries may report a position."""

    def max_indexed_lsn(self, record_id: str = ..., *, namespace: str = "") -> int | None:
        """Return the position of the last write that a query sees; None where the server does not report it."""
        ...


class Index(PositionedIndex, Protocol):
    """What :class:`Freshness` needs of an index: :class:`airflow_pinecone_upsert.client.IndexClient` has it."""

    @property
    def host(self) -> str:
        """The index's URL."""
        ...

    def describe_index_stats(self) -> IndexStats:
        """Return record counts."""
        ...


def pause(seconds: float, sleep: Callable[[float], None], cancellation: CancellationToken) -> None:
    """
    Wait in short steps, so that a cancelled task ends at once.

    :raises IncompleteUpsertError: The run was cancelled.
    """
    cancellation.raise_if_cancelled()
    while seconds > 0:
        sleep(min(POLL_INTERVAL_S, seconds))
        seconds -= POLL_INTERVAL_S
        cancellation.raise_if_cancelled()


class Polling:
    """
    Repeats a poll until it succeeds or time is up. The time starts when this object is created.

    :param timeout_s: How long.
    :param now: Returns monotonic seconds.
    :param sleep: Waits, in seconds.
    :param cancellation: Ends the waiting.
    :param interval_s: Seconds between two polls.
    """

    def __init__(
        self,
        timeout_s: float,
        now: Callable[[], float],
        sleep: Callable[[float], None],
        cancellation: CancellationToken,
        interval_s: float = POLL_S,
    ) -> None:
        self.timeout_s = timeout_s
        self.now = now
        self.cancellation = cancellation
        self._sleep = sleep
        self._interval_s = interval_s
        self._deadline_s = now() + timeout_s

    def until(self, is_done: Callable[[], bool]) -> bool:
        """
        Poll, at least once.

        :return: Whether it succeeded.
        :raises IncompleteUpsertError: The run was cancelled.
        """
        while not is_done():
            remaining_s = self._deadline_s - self.now()
            if remaining_s <= 0:
                return False
            pause(min(self._interval_s, remaining_s), self._sleep, self.cancellation)
        return True


def is_indexed(index: PositionedIndex, namespace: str, lsn: int) -> bool | None:
    """Return whether queries see a write; None where the server does not report it."""
    indexed = index.max_indexed_lsn(namespace=namespace)
    return None if indexed is None else indexed >= lsn


@dataclass(frozen=True)
class Goal:
    """
    What must be searchable.

    :param namespace: ``""`` is the default one.
    :param lsn: The position of the last write; None where the server did not report it.
    :param min_records: The namespace must also hold at least so many records.
    :param fallback_records: How many it must hold where its number of records is all that the server reports.
    """

    namespace: str
    lsn: int | None = None
    min_records: int | None = None
    fallback_records: int = 1


class Freshness:
    """
    Polls a namespace.

    :param index: The index.
    :param goal: What must be searchable.
    :param now: Returns monotonic seconds.
    :ivar lsn: The position that the last query reported.
    :ivar count: The number of records, where it was needed.
    """

    def __init__(self, index: Index, goal: Goal, now: Callable[[], float]) -> None:
        self._index = index
        self._goal = goal
        self._now = now
        self._counts_only = False
        self._settled_since_s = now()
        self._failure: TransientError | None = None
        self.lsn: int | None = None
        self.count: int | None = None

    @property
    def namespace(self) -> str:
        """The namespace; ``""`` is the default one."""
        return self._goal.namespace

    def as_output(self) -> dict[str, Any]:
        """Return a sensor's output."""
        return {
            "namespace": self.namespace,
            "indexHost": self._index.host,
            "lsn": self.lsn,
            "recordCount": self.count,
        }

    def poll(self) -> bool:
        """Return whether the goal is reached. A server that does not answer at the moment is asked again later."""
        try:
            reached = self._is_reached()
        except TransientError as exc:
            log.warning("%s", exc)
            self._failure = exc
            return False
        self._failure = None
        return reached

    def _is_reached(self) -> bool:
        goal = self._goal
        if goal.lsn is not None and not self._counts_only:
            self.lsn = self._index.max_indexed_lsn(namespace=goal.namespace)
            if self.lsn is not None:
                is_indexed = self.lsn >= goal.lsn
                return is_indexed and (goal.min_records is None or self._read_count() >= goal.min_records)
        if not self._counts_only:
            self._counts_only = True
            log.info(
                "%s reports no position of its writes: waiting until the number of records of namespace %r has been the "
                "same for %g s.",
                self._index.host,
                goal.namespace,
                SETTLE_S,
            )
        least = goal.fallback_records if goal.min_records is None else goal.min_records
        return self._read_count() >= least and self._now() - self._settled_since_s >= SETTLE_S

    def _read_count(self) -> int:
        count = self._index.describe_index_stats().count_of(self._goal.namespace)
        if count != self.count:
            self.count, self._settled_since_s = count, self._now()
        return count

    def error(self, timeout_s: float, parameter: str) -> NotSearchableError:
        """
        Return the error for a goal that was not reached.

        :param timeout_s: How long it was polled.
        :param parameter: The parameter that sets this time.
        """
        goal = self._goal
        seen = [] if self.count is None else [f"it holds {self.count:,} records"]
        if self.lsn is not None:
            seen.insert(0, f"a query sees the writes up to LSN {self.lsn}, the last one has {goal.lsn}")
        if goal.min_records is not None:
            seen.append(f"min_records is {goal.min_records:,}")
        if self._failure is not None:
            seen.append(f"the last poll failed: {str(self._failure).rstrip('.')}")
        return NotSearchableError(
            f"Namespace {goal.namespace!r} of {self._index.host} is not searchable as expected after {timeout_s:g} s"
            f"{': ' if seen else ''}{'; '.join(seen)}. Run the task again to wait longer, or raise {parameter}."
        )


def wait_until_searchable(freshness: Freshness, polling: Polling) -> None:
    """
    Wait, and log how long it took.

    :raises NotSearchableError: Time is up.
    :raises IncompleteUpsertError: The run was cancelled.
    """
    started_s = polling.now()
    if not polling.until(lambda: call_in_background(freshness.poll, polling.cancellation)):
        raise freshness.error(polling.timeout_s, "searchable_timeout_s")
    log.info("What was written is searchable, after %.1f s.", polling.now() - started_s)
