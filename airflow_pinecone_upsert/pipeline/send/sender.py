"""
The sender: which request starts when, and what becomes of it.

What to do about a failure is decided by ``policy``, how fast requests may start by ``rate_limiter``. Invariants:

* All state belongs to the caller's thread. A transport's threads carry one request each and deliver what became of it.
* At most ``max_unsettled`` requests are in flight, and no new one is started while as many are unsettled, that is in
  flight or waiting for a retry. One more is pulled in advance, so that it is encoded while others are being answered. Of
  many namespaces more are pulled, while the rate limiters of those that were pulled hold them back.
* Of a request that was split, the smallest part is sent first, so that few parts wait. After a rejection, and until the
  server has accepted a request, only one is in flight: if the server rejects everything, few requests show it.
* Two requests that share an id of a namespace are never unsettled together, and those of one namespace start in order, so
  the last one in the source is the last one written.
* Every request that was started is confirmed, or is reported as rejected or failed, before :meth:`Sender.wind_down`
  ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Generic

from airflow_pinecone_upsert.api.backoff import Random
from airflow_pinecone_upsert.api.limits import MAX_ATTEMPTS
from airflow_pinecone_upsert.exceptions import (
    BadRequestError,
    IncompleteUpsertError,
    PineconeUpsertError,
    RateLimitError,
    ShortCountError,
    UnexpectedResponseError,
)
from airflow_pinecone_upsert.pipeline.cancellation import GRACE_S, POLL_INTERVAL_S, CancellationToken
from airflow_pinecone_upsert.pipeline.send.events import Attempt, Event, Failure, Rejection, RequestT
from airflow_pinecone_upsert.pipeline.send.limiters import Limiters, SharedLimiter
from airflow_pinecone_upsert.pipeline.send.policy import Abort, Reject, Retry, Split, decide, retry_after_s
from airflow_pinecone_upsert.pipeline.send.rate_limiter import RateLimiter
from airflow_pinecone_upsert.pipeline.send.requests import Request
from airflow_pinecone_upsert.pipeline.send.transport import Completion, Transport

log = logging.getLogger(__name__)

_NOTHING: Final[frozenset[str]] = frozenset()

_UNANSWERED: Final = "The run ended before the server answered. Running it again is safe."


@dataclass(frozen=True, eq=False)
class _Unsettled(Generic[RequestT]):
    """
    A request that is neither confirmed nor given up.

    :param attempt: The number of its next or current attempt, from 1.
    :param is_repeat: Its items were in an earlier attempt.
    :param not_before_s: When the next attempt may start; 0 for at once.
    :param error: Why the previous attempt failed.
    :param confirmed: How many of its items the last response confirmed, where that was not all of them.
    """

    request: RequestT
    attempt: int = 1
    is_repeat: bool = False
    not_before_s: float = 0.0
    error: PineconeUpsertError | None = None
    confirmed: int = 0


class Sender(Generic[RequestT]):
    """
    Sends every request, and reports every attempt.

    :param requests: Pulled one in advance of what is started.
    :param transport: Carries the requests.
    :param rate_limiter: When the next one may start, in all namespaces or in each.
    :param max_pulled: Requests pulled in advance, at most.
    :param max_unsettled: Requests in flight or waiting for a retry, at most. The halves of a request that was split
        wait for each other: they are in flight within this bound.
    :param random: For the backoff.
    :param cancellation: Ends the waiting.
    :param max_attempts: At one request, before a transient error is final.
    :param is_proven: The server has accepted requests like these before.
    :param is_probe: Returns whether a request is larger than every one that was accepted.
    :param on_turn: Called several times a second, between two events.
    """

    def __init__(  # noqa: PLR0913 - its seams
        self,
        requests: Iterator[RequestT],
        transport: Transport[RequestT],
        *,
        rate_limiter: RateLimiter | Limiters,
        max_pulled: int = 1,
        max_unsettled: int,
        random: Random,
        cancellation: CancellationToken,
        max_attempts: int = MAX_ATTEMPTS,
        is_proven: bool = False,
        is_probe: Callable[[RequestT], bool] = lambda _: False,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        self._requests = requests
        self._transport = transport
        self._limiters = SharedLimiter(rate_limiter) if isinstance(rate_limiter, RateLimiter) else rate_limiter
        self._max_pulled = max_pulled
        self._max_unsettled = max_unsettled
        self._random = random
        self._cancellation = cancellation
        self._max_attempts = max_attempts
        self._is_proven = is_proven
        self._is_probe = is_probe
        self._rejected_at_first = 0  # requests, until one is accepted
        self._rejected_single = False  # one of these had a single item
        self._on_turn = on_turn
        self._in_flight: dict[RequestT, tuple[_Unsettled[RequestT], float]] = {}  # with the time of its start
        self._waiting: list[_Unsettled[RequestT]] = []  # for a retry
        self._pulled: list[RequestT] = []  # and not started yet
        self._unsettled_ids: dict[str, set[str]] = {}  # of those in flight and waiting, by namespace

    def send_all(self, enter: Callable[[Event[RequestT]], None]) -> None:
        """
        Send until all requests are settled or one has to be given up, and account for those in flight in any case.

        :param enter: Called with each event.
        :raises Exception: What :meth:`run` or ``enter`` raises, once the requests in flight are accounted for.
        """
        try:
            for event in self.run():
                enter(event)
        except BaseException as exc:
            # An execution time-out of the task leaves no more time than a cancellation.
            for event in self.wind_down(float("inf") if isinstance(exc, PineconeUpsertError) else GRACE_S):
                enter(event)
            raise
        for event in self.wind_down():
            enter(event)

    def run(self) -> Iterator[Event[RequestT]]:
        """
        Send until all requests are settled, or until the first one that has to be given up.

        :return: An :class:`Attempt` for each attempt that ended, followed by what was rejected or given up.
        :raises IncompleteUpsertError: The run was cancelled.
        :raises Exception: What ``requests`` raised.
        """
        while True:
            self._cancellation.raise_if_cancelled()
            self._on_turn()
            wake_after_s = self._start_one()
            if not self._in_flight and wake_after_s is None:
                return
            completion = self._next_completion(wake_after_s)
            # All that have ended, before another request is encoded: until then they keep their memory.
            while completion is not None:
                for event in self._settle(completion):
                    yield event
                    if isinstance(event, Failure):
                        return
                completion = self._next_completion(0.0)

    def wind_down(self, within_s: float = float("inf")) -> Iterator[Event[RequestT]]:
        """
        Start nothing more, wait for the requests in flight, and give up the rest. Does nothing where all are settled.

        :param within_s: How long to wait; at most 2 s once the run is cancelled.
        :return: An :class:`Attempt` for each attempt that ended, a :class:`Failure` for each request given up.
        """
        deadline_s = self._transport.now() + within_s
        while self._in_flight and (left_s := deadline_s - self._transport.now()) > 0:
            completion = self._next_completion(left_s)
            if completion is not None:
                attempt, confirmed = self._complete(completion)[1:]
                yield attempt
                if attempt.error is not None:
                    yield Failure(attempt.request, attempt.error, confirmed)
            if self._cancellation.is_cancelled:
                deadline_s = min(deadline_s, self._transport.now() + GRACE_S)
        for one in [*(one for one, _ in self._in_flight.values()), *self._waiting]:
            yield Failure(one.request, one.error or IncompleteUpsertError(_UNANSWERED), one.confirmed)
        self._in_flight.clear()
        self._waiting.clear()

    def _next_completion(self, within_s: float | None) -> Completion[RequestT] | None:
        return self._transport.next_completion(POLL_INTERVAL_S if within_s is None else min(within_s, POLL_INTERVAL_S))

    def _start_one(self) -> float | None:
        """Start what may start; return the seconds until more may, None where only a completion can make room."""
        chosen = self._choose()
        if chosen is None:
            return None
        now = self._transport.now()
        pause_s = self._pause_s(chosen, now)
        if pause_s > 0:
            return pause_s
        self._cancellation.raise_if_cancelled()  # once more: choosing may have included reading and encoding
        self._start(chosen, now)
        return 0.0

    def _choose(self) -> _Unsettled[RequestT] | None:
        """Choose what starts next: a retry that is due, else a new request, else what may start first."""
        self._pull()
        is_doubtful = self._rejected_at_first > 0 and not self._is_proven
        if len(self._in_flight) >= (1 if is_doubtful else self._max_unsettled):
            return None
        now = self._transport.now()

        def priority(one: _Unsettled[RequestT]) -> tuple[float, float, int]:
            return max(0.0, self._pause_s(one, now)), one.not_before_s, len(one.request)

        retry = min(self._waiting, key=priority, default=None)
        candidates = [one for one in (retry, self._new(now)) if one is not None]
        return min(candidates, key=lambda one: max(0.0, self._pause_s(one, now)), default=None)

    def _pull(self) -> None:
        """Pull one request in advance, and further ones while none of those of other namespaces may start."""
        now = self._transport.now()
        while len(self._pulled) < self._max_pulled:
            if self._pulled and any(self._limiters.of(one.namespace).wait_s(now) <= 0 for one in self._pulled):
                return
            request = next(self._requests, None)
            if request is None:
                return
            self._pulled.append(request)

    def _pause_s(self, one: _Unsettled[RequestT], now: float) -> float:
        return max(one.not_before_s - now, self._limiters.of(one.request.namespace).wait_s(now))

    def _new(self, now: float) -> _Unsettled[RequestT] | None:
        """Return the new request that may start first, of each namespace only the first one."""
        if len(self._in_flight) + len(self._waiting) >= self._max_unsettled:
            return None
        firsts = {one.namespace: one for one in reversed(self._pulled)}
        free = [
            _Unsettled(one)
            for one in self._pulled
            if firsts[one.namespace] is one and self._unsettled_ids.get(one.namespace, _NOTHING).isdisjoint(one.ids)
        ]
        return min(free, key=lambda one: max(0.0, self._pause_s(one, now)), default=None)

    def _start(self, one: _Unsettled[RequestT], now: float) -> None:
        if one.is_repeat:
            self._waiting.remove(one)
        else:
            self._unsettled_ids.setdefault(one.request.namespace, set()).update(one.request.ids)
            self._pulled.remove(one.request)
        self._in_flight[one.request] = one, now
        limiter = self._limiters.of(one.request.namespace)
        limiter.started(one.request.rate_units, now, one.request.binary_units)
        self._transport.start(one.request)

    def _complete(self, completion: Completion[RequestT]) -> tuple[_Unsettled[RequestT], Attempt[RequestT], int]:
        """Return what ended, the attempt, and how many items its response confirmed, also where that is not all."""
        one, started_s = self._in_flight.pop(completion.request)
        confirmed, error = _judge(completion.result, one.request)
        confirmed = max(confirmed, one.confirmed)  # what an earlier response confirmed stays confirmed
        now = self._transport.now()
        if isinstance(error, RateLimitError):
            self._limiters.of(one.request.namespace).throttled(started_s, retry_after_s(error), now)
        attempt = Attempt(
            one.request,
            completion.body_bytes,
            confirmed if error is None else 0,
            one.is_repeat,
            error,
            now - started_s,
            completion.result if error is None else None,
        )
        return one, attempt, confirmed

    def _forget_ids(self, request: RequestT) -> None:
        unsettled = self._unsettled_ids[request.namespace]
        unsettled.difference_update(request.ids)
        if not unsettled:
            del self._unsettled_ids[request.namespace]

    def _settle(self, completion: Completion[RequestT]) -> list[Event[RequestT]]:
        one, attempt, confirmed = self._complete(completion)
        request, error = one.request, attempt.error
        if error is None:
            self._is_proven = True
            self._forget_ids(request)
            return [attempt]
        is_rejected_at_first = isinstance(error, BadRequestError) and not self._is_proven
        self._rejected_at_first += is_rejected_at_first
        decision = decide(
            error,
            attempt=one.attempt,
            max_attempts=self._max_attempts,
            items=len(request),
            random=self._random,
            rejected_at_first=self._rejected_at_first,
            rejected_single=self._rejected_single,
            is_probe=self._is_probe(request),
        )
        self._rejected_single |= is_rejected_at_first and len(request) == 1
        match decision:
            case Retry(after_s):
                log.warning(
                    "Attempt %d failed; retrying in %.1f s: [%s] %s", one.attempt, after_s, request.location, error
                )
                due_s = self._transport.now() + after_s
                self._waiting.append(_Unsettled(request, one.attempt + 1, True, due_s, error, confirmed))  # noqa: FBT003
            case Split():
                log.warning(
                    "The server rejected a request of %d items; splitting it: [%s] %s",
                    len(request),
                    request.location,
                    error,
                )
                self._waiting += [_Unsettled(half, is_repeat=True, error=error) for half in request.halves()]
            case Reject():
                self._forget_ids(request)
                return [attempt, Rejection(request, error)]
            case Abort():
                if isinstance(error, BadRequestError):
                    error = _rejects_everything(error, self._rejected_at_first)
                return [attempt, Failure(request, error, confirmed)]
        return [attempt]


def _rejects_everything(error: BadRequestError, requests: int) -> BadRequestError:
    first = BadRequestError(
        f"The server has rejected the first {requests} requests, and accepted none: {error}", response=error.response
    )
    first.__cause__ = error
    return first


def _judge(result: Any, request: Request) -> tuple[int, PineconeUpsertError | None]:
    """Return how many items are confirmed, and an error unless they are all of them."""
    if isinstance(result, PineconeUpsertError):
        return 0, result
    if isinstance(result, BaseException):  # not the server's doing
        error = PineconeUpsertError(
            f"A request broke off ({type(result).__name__}), which is a defect here or in a library. Running the task again "
            "is safe; if it happens again, report it with its traceback."
        )
        error.__cause__ = result
        return 0, error
    sent, confirmed = len(request), request.confirmed(result)
    if confirmed == sent:
        return sent, None
    message = f"The server confirmed {confirmed} of {sent} records. Sending them again is safe: run the task again."
    if confirmed < sent:
        return confirmed, ShortCountError(message)
    return 0, UnexpectedResponseError(message)  # a count that is too high is not to be believed
