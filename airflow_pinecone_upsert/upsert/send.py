"""
Batches into requests: threads, waiting, and who is in flight.

What to do about a failure is ``policy``'s matter, how fast ``pace``'s. What always holds:

* All state is the caller's thread's. The others only carry one request each and put down what became of it.
* At most ``max_unsettled`` requests are in flight, and nothing new is started while as many batches are unsettled, that
  is in flight or waiting for another try. One more is pulled ahead, so that it is encoded while others are answered.
* Two batches that share an id are never unsettled together, so the last one in the source is the last one written.
* Every batch that was started is confirmed, or is reported as a failure, before :func:`send` ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol

from typing_extensions import Self

from airflow_pinecone_upsert.api.errors import PineconeUpsertError, RateLimitError, UnexpectedAnswerError
from airflow_pinecone_upsert.api.retry import Random
from airflow_pinecone_upsert.upsert.batch import Batch
from airflow_pinecone_upsert.upsert.pace import Pace
from airflow_pinecone_upsert.upsert.policy import Abort, Retry, Split, decide, retry_after_s
from airflow_pinecone_upsert.upsert.report import Attempt, Failure

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Job:
    """
    A batch on its way.

    :param attempt: The number of its next or current try, from 1.
    :param repeated: Its records were in an earlier request.
    :param not_before_s: When it may start; 0 for at once.
    :param error: Why the try before failed.
    """

    batch: Batch
    attempt: int = 1
    repeated: bool = False
    not_before_s: float = 0.0
    error: PineconeUpsertError | None = None


class Landing(NamedTuple):
    """
    What became of one request.

    :param job: As it was given to :meth:`Lanes.start`.
    :param body_bytes: Bytes sent.
    :param result: ``upsertedCount``, or the error.
    """

    job: Any
    body_bytes: int
    result: int | BaseException


class Lanes(Protocol):
    """Where requests travel, and the clock that goes with it: threads and real time, or a simulation of both."""

    def now(self) -> float:
        """Return monotonic seconds."""
        ...

    def start(self, job: Any, body: bytes) -> None:
        """Begin a request and return at once."""
        ...

    def next_landing(self, timeout_s: float | None) -> Landing | None:
        """Wait for a request to end; None where ``timeout_s`` passed first. Without a bound something is in flight."""
        ...


class ThreadLanes:
    """
    A thread for each request in flight. Use it in a ``with`` block.

    :param upsert: Sends one body and returns ``upsertedCount``.
    :param count: Threads.
    """

    def __init__(self, upsert: Callable[[bytes], int], count: int) -> None:
        self._upsert = upsert
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="pinecone-upsert")
        self._landings: SimpleQueue[Landing] = SimpleQueue()

    def __enter__(self) -> Self:
        """Return the lanes themselves."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the threads; what is in flight ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def start(self, job: Any, body: bytes) -> None:
        """Begin a request. See :class:`Lanes`."""
        self._pool.submit(self._carry, job, body)

    def next_landing(self, timeout_s: float | None) -> Landing | None:
        """Wait for a request to end. See :class:`Lanes`."""
        try:
            return self._landings.get(timeout=timeout_s)
        except Empty:
            return None

    def _carry(self, job: Any, body: bytes) -> None:
        result: int | BaseException
        try:
            result = self._upsert(body)
        except BaseException as exc:  # noqa: BLE001 - a landing that is lost would hang the sender; it raises it again
            result = exc
        self._landings.put(Landing(job, len(body), result))


def send(
    batches: Iterator[Batch], lanes: Lanes, *, pace: Pace, max_unsettled: int, random: Random
) -> Iterator[Attempt | Failure]:
    """
    Send every batch, and tell of every request.

    After the first failure, or an error of the source, nothing more is started; what is in flight is waited for.

    :param batches: Pulled one ahead of what is started.
    :param lanes: Where requests travel.
    :param pace: When the next one may start.
    :param max_unsettled: Batches in flight or waiting for another try, at the most. The halves of a batch that was
        split wait for each other: they are in flight within this bound.
    :param random: A source of floats in [0, 1), for the backoff.
    :return: An :class:`Attempt` for each request that is over, a :class:`Failure` for each batch given up.
    :raises Exception: What ``batches`` raised, once everything in flight is settled.
    """
    return _Sender(batches, lanes, pace, max_unsettled, random).run()


class _Sender:
    def __init__(self, batches: Iterator[Batch], lanes: Lanes, pace: Pace, max_unsettled: int, random: Random) -> None:
        self._batches = batches
        self._lanes = lanes
        self._pace = pace
        self._max_unsettled = max_unsettled
        self._random = random
        self._in_flight: dict[_Job, float] = {}  # with the moment of its start
        self._waiting: list[_Job] = []  # for another try
        self._next: Batch | None = None  # pulled, and not started yet
        self._stopping = False
        self._error: BaseException | None = None

    def run(self) -> Iterator[Attempt | Failure]:
        while True:
            wake_after_s = self._start_all_startable()
            if self._stopping:
                yield from self._give_up_waiting()
            if not self._in_flight and wake_after_s is None:
                break
            landing = self._lanes.next_landing(wake_after_s)
            if landing is not None:
                yield from self._settle(landing)
        if self._error is not None:
            raise self._error

    def _start_all_startable(self) -> float | None:
        """Fill the window; return the seconds until one more may start, None where only a landing can make room."""
        while (job := self._choose()) is not None:
            now = self._lanes.now()
            pause_s = max(job.not_before_s - now, self._pace.wait_s(now))
            if pause_s > 0:
                return pause_s
            self._start(job, now)
        return None

    def _choose(self) -> _Job | None:
        """Pick what starts next: what is due for another try, else a new batch, else what will be due first."""
        if self._next is None and not self._stopping:
            self._next = self._pull()
        if self._stopping or len(self._in_flight) >= self._max_unsettled:
            return None
        again = min(self._waiting, key=lambda job: job.not_before_s, default=None)
        if again is not None and again.not_before_s <= self._lanes.now():
            return again
        return self._fresh() or again

    def _fresh(self) -> _Job | None:
        unsettled = [*self._in_flight, *self._waiting]
        if len(unsettled) >= self._max_unsettled:
            return None
        if self._next is None or any(not self._next.ids.isdisjoint(job.batch.ids) for job in unsettled):
            return None
        return _Job(self._next)

    def _pull(self) -> Batch | None:
        try:
            return next(self._batches, None)
        except Exception as exc:  # noqa: BLE001 - raised again once everything in flight is settled
            self._error = exc
            self._stopping = True
            return None

    def _start(self, job: _Job, now: float) -> None:
        if job.repeated:
            self._waiting.remove(job)
        else:
            self._next = None
        self._in_flight[job] = now
        body = job.batch.body
        self._pace.started(len(body), now)
        self._lanes.start(job, body)

    def _settle(self, landing: Landing) -> Iterator[Attempt | Failure]:
        job: _Job = landing.job
        started_s = self._in_flight.pop(job)
        confirmed, error = self._judge(landing.result, job)
        yield Attempt(landing.body_bytes, confirmed, job.repeated, error)
        if error is None:
            return
        now = self._lanes.now()
        if isinstance(error, RateLimitError):
            self._pace.throttled(started_s, retry_after_s(error), now)
        match decide(error, attempt=job.attempt, records=len(job.batch), random=self._random):
            case Retry(after_s):
                log.warning("Try %d of a request failed; again in %.1f s: %s", job.attempt, after_s, error)
                self._waiting.append(
                    _Job(job.batch, job.attempt + 1, repeated=True, not_before_s=now + after_s, error=error)
                )
            case Split():
                log.warning("A request of %d records is too large for the server; sending halves.", len(job.batch))
                self._waiting += [_Job(half, repeated=True, error=error) for half in job.batch.halves()]
            case Abort():
                self._stopping = True
                yield Failure(job.batch, error, confirmed)

    def _judge(self, result: int | BaseException, job: _Job) -> tuple[int, PineconeUpsertError | None]:
        """Return the confirmed records, and an error unless they are all of them."""
        sent = len(job.batch)
        if isinstance(result, PineconeUpsertError):
            return 0, result
        if isinstance(result, BaseException):  # not the server's doing: a fault of ours, raised when all has settled
            self._error = result
            return 0, PineconeUpsertError(f"A request broke off: {type(result).__name__}.")
        if result == sent:
            return sent, None
        # A count that is too high is no count: it confirms nothing.
        return result if result < sent else 0, UnexpectedAnswerError(
            f"The server confirmed {result} of {sent} records. Sending them again is safe: run the task again."
        )

    def _give_up_waiting(self) -> Iterator[Failure]:
        for job in self._waiting:
            yield Failure(job.batch, job.error or PineconeUpsertError("The run stopped."))
        self._waiting.clear()
