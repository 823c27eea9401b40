"""
Batches into requests: threads, waiting, and who is in flight.

What to do about a failure is ``policy``'s matter, how fast ``pace``'s. What always holds:

* All state is the caller's thread's. The others only carry one request each and put down what became of it.
* At most ``max_unsettled`` requests are in flight, and nothing new is started while as many batches are unsettled, that
  is in flight or waiting for another try. One more is pulled ahead, so that it is encoded while others are answered.
* Two batches that share an id are never unsettled together, so the last one in the source is the last one written.
* Every batch that was started is confirmed, or is reported as refused or failed, before :meth:`Sender.wind_down` ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from airflow_pinecone_upsert.api.backoff import Random
from airflow_pinecone_upsert.exceptions import (
    IncompleteUpsertError,
    PineconeUpsertError,
    RateLimitError,
    UnexpectedResponseError,
)
from airflow_pinecone_upsert.pipeline.cancellation import GRACE_S, POLL_INTERVAL_S, CancellationToken
from airflow_pinecone_upsert.pipeline.send.events import Attempt, Event, Failure, Rejection
from airflow_pinecone_upsert.pipeline.send.policy import Abort, Reject, Retry, Split, decide, retry_after_s
from airflow_pinecone_upsert.pipeline.send.rate_limiter import RateLimiter
from airflow_pinecone_upsert.pipeline.send.requests import UpsertRequest
from airflow_pinecone_upsert.pipeline.send.transport import Completion, Transport

log = logging.getLogger(__name__)

_UNANSWERED: Final = "The run ended before the server answered. Running it again is safe."


@dataclass(frozen=True, eq=False)
class _Job:
    """
    A batch on its way.

    :param attempt: The number of its next or current try, from 1.
    :param repeated: Its records were in an earlier request.
    :param not_before_s: When it may start; 0 for at once.
    :param error: Why the try before failed.
    """

    batch: UpsertRequest
    attempt: int = 1
    repeated: bool = False
    not_before_s: float = 0.0
    error: PineconeUpsertError | None = None


class Sender:
    """
    Sends every batch, and tells of every request.

    :param batches: Pulled one ahead of what is started.
    :param lanes: Where requests travel.
    :param pace: When the next one may start.
    :param max_unsettled: Batches in flight or waiting for another try, at the most. The halves of a batch that was
        split wait for each other: they are in flight within this bound.
    :param random: For the backoff.
    :param stop: Ends the waiting.
    :param on_wait: Called whenever no request has ended, some times a second at least.
    """

    def __init__(  # noqa: PLR0913 - its seams
        self,
        batches: Iterator[UpsertRequest],
        lanes: Transport,
        *,
        pace: RateLimiter,
        max_unsettled: int,
        random: Random,
        stop: CancellationToken,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._batches = batches
        self._lanes = lanes
        self._pace = pace
        self._max_unsettled = max_unsettled
        self._random = random
        self._stop = stop
        self._on_wait = on_wait
        self._in_flight: dict[_Job, float] = {}  # with the moment of its start
        self._waiting: list[_Job] = []  # for another try
        self._next: UpsertRequest | None = None  # pulled, and not started yet
        self._unsettled_ids: set[str] = set()  # of those in flight and waiting

    @property
    def in_flight(self) -> int:
        """Requests that are under way."""
        return len(self._in_flight)

    def run(self) -> Iterator[Event]:
        """
        Send until all is settled, or until the first batch that has to be given up.

        :return: An :class:`Attempt` for each request that is over, and behind it what was given up.
        :raises IncompleteUpsertError: The run is to stop.
        :raises Exception: What ``batches`` raised.
        """
        while True:
            self._stop.check()
            wake_after_s = self._start_one()
            if not self._in_flight and wake_after_s is None:
                return
            landing = self._next_completion(wake_after_s)
            if landing is None:
                self._on_wait()
            # All that have landed, before another batch is encoded: until then they keep their memory, and their news.
            while landing is not None:
                for event in self._settle(landing):
                    yield event
                    if isinstance(event, Failure):
                        return
                landing = self._next_completion(0.0)

    def wind_down(self, within_s: float = float("inf")) -> Iterator[Event]:
        """
        Start nothing more, wait for what is in flight, and give up the rest. Does nothing where all is settled.

        :param within_s: How long to wait; once the run is to stop, 2 s at the most.
        :return: An :class:`Attempt` for each request that is over, a :class:`Failure` for each batch given up.
        """
        deadline_s = self._lanes.now() + within_s
        while self._in_flight and (left_s := deadline_s - self._lanes.now()) > 0:
            landing = self._next_completion(left_s)
            if landing is not None:
                attempt = self._land(landing)
                yield attempt
                if attempt.error is not None:
                    yield Failure(attempt.batch, attempt.error, attempt.confirmed)
            if self._stop.asked:
                deadline_s = min(deadline_s, self._lanes.now() + GRACE_S)
        for job in [*self._in_flight, *self._waiting]:
            yield Failure(job.batch, job.error or IncompleteUpsertError(_UNANSWERED))
        self._in_flight.clear()
        self._waiting.clear()

    def _next_completion(self, within_s: float | None) -> Completion | None:
        return self._lanes.next_completion(POLL_INTERVAL_S if within_s is None else min(within_s, POLL_INTERVAL_S))

    def _start_one(self) -> float | None:
        """Start what may start; return the seconds until more may, None where only a landing can make room."""
        job = self._choose()
        if job is None:
            return None
        now = self._lanes.now()
        pause_s = max(job.not_before_s - now, self._pace.wait_s(now))
        if pause_s > 0:
            return pause_s
        self._stop.check()  # once more: to choose may have meant to read and to encode
        self._start(job, now)
        return 0.0

    def _choose(self) -> _Job | None:
        """Pick what starts next: what is due for another try, else a new batch, else what will be due first."""
        if self._next is None:
            self._next = next(self._batches, None)
        if len(self._in_flight) >= self._max_unsettled:
            return None
        again = min(self._waiting, key=lambda job: job.not_before_s, default=None)
        if again is not None and again.not_before_s <= self._lanes.now():
            return again
        return self._fresh() or again

    def _fresh(self) -> _Job | None:
        if len(self._in_flight) + len(self._waiting) >= self._max_unsettled:
            return None
        if self._next is None or not self._unsettled_ids.isdisjoint(self._next.ids):
            return None
        return _Job(self._next)

    def _start(self, job: _Job, now: float) -> None:
        if job.repeated:
            self._waiting.remove(job)
        else:
            self._unsettled_ids.update(job.batch.ids)
            self._next = None
        self._in_flight[job] = now
        body = job.batch.body
        self._pace.started(len(body), now)
        self._lanes.start(job, body)

    def _land(self, landing: Completion) -> Attempt:
        job: _Job = landing.job
        started_s = self._in_flight.pop(job)
        confirmed, error = _judge(landing.result, len(job.batch))
        now = self._lanes.now()
        if isinstance(error, RateLimitError):
            self._pace.throttled(started_s, retry_after_s(error), now)
        return Attempt(job.batch, landing.body_bytes, confirmed, job.repeated, error, now - started_s)

    def _settle(self, landing: Completion) -> list[Event]:
        job: _Job = landing.job
        attempt = self._land(landing)
        error = attempt.error
        if error is None:
            self._unsettled_ids.difference_update(job.batch.ids)
            return [attempt]
        match decide(error, attempt=job.attempt, records=len(job.batch), random=self._random):
            case Retry(after_s):
                log.warning(
                    "Attempt %d failed; retrying in %.1f s: [%s] %s", job.attempt, after_s, job.batch.place, error
                )
                due_s = self._lanes.now() + after_s
                self._waiting.append(_Job(job.batch, job.attempt + 1, repeated=True, not_before_s=due_s, error=error))
            case Split():
                log.warning(
                    "The server rejected a request of %d records; splitting it: [%s] %s",
                    len(job.batch),
                    job.batch.place,
                    error,
                )
                self._waiting += [_Job(half, repeated=True, error=error) for half in job.batch.halves()]
            case Reject():
                self._unsettled_ids.difference_update(job.batch.ids)
                return [attempt, Rejection(job.batch, error)]
            case Abort():
                return [attempt, Failure(job.batch, error, attempt.confirmed)]
        return [attempt]


def _judge(result: int | BaseException, sent: int) -> tuple[int, PineconeUpsertError | None]:
    """Return the confirmed records, and an error unless they are all of them."""
    if isinstance(result, PineconeUpsertError):
        return 0, result
    if isinstance(result, BaseException):  # not the server's doing
        error = PineconeUpsertError(
            f"A request broke off ({type(result).__name__}), which is a defect here or in a library. Running the task again "
            "is safe; if it happens again, report it with its traceback."
        )
        error.__cause__ = result
        return 0, error
    if result == sent:
        return sent, None
    # A count that is too high is no count: it confirms nothing.
    return result if result < sent else 0, UnexpectedResponseError(
        f"The server confirmed {result} of {sent} records. Sending them again is safe: run the task again."
    )
