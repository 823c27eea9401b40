"""
How requests travel, and the clock that goes with it.

The sender knows :class:`Transport` only. Threads and real time are :class:`ThreadTransport`, the caller's own thread is
:class:`InlineTransport`, and tests simulate both requests and time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol

from typing_extensions import Self

from airflow_pinecone_upsert.exceptions import PineconeUpsertError
from airflow_pinecone_upsert.pipeline.send.events import RequestT


@dataclass(frozen=True)
class Completion(Generic[RequestT]):
    """
    An attempt that ended.

    :param request: As it was given to :meth:`Transport.start`.
    :param body_bytes: Bytes sent.
    :param result: The response, or the exception.
    """

    request: RequestT
    body_bytes: int
    result: Any


class Transport(Protocol[RequestT]):
    """Carries requests, and knows the time."""

    def __enter__(self) -> Self:
        """Become ready to carry requests."""
        ...

    def __exit__(self, *_: object) -> None:
        """Abandon the requests that are still in flight."""
        ...

    def now(self) -> float:
        """Return monotonic seconds."""
        ...

    def start(self, request: RequestT) -> None:
        """Start an attempt and return at once."""
        ...

    def next_completion(self, timeout_s: float) -> Completion[RequestT] | None:
        """Wait for an attempt to end; return None where ``timeout_s`` passed first."""
        ...


class ThreadTransport(Generic[RequestT]):
    """
    A thread for each request in flight. Use it in a ``with`` block.

    These are not threads of a standard library executor: the interpreter joins those at exit, and a request that hangs
    would keep a cancelled task alive.

    :param perform: Sends one request and returns the response.
    :param count: Threads.
    """

    def __init__(self, perform: Callable[[RequestT], Any], count: int) -> None:
        self._perform = perform
        self._starts: SimpleQueue[RequestT | None] = SimpleQueue()
        self._completions: SimpleQueue[Completion[RequestT]] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"pinecone-upsert-{number}", daemon=True) for number in range(count)
        ]

    def __enter__(self) -> Self:
        """Start the threads."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Release the threads; requests in flight end on their own."""
        for _thread in self._threads:
            self._starts.put(None)

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def start(self, request: RequestT) -> None:
        """Start an attempt. See :class:`Transport`."""
        self._starts.put(request)

    def next_completion(self, timeout_s: float) -> Completion[RequestT] | None:
        """Wait for an attempt to end. See :class:`Transport`."""
        try:
            return self._completions.get(timeout=timeout_s)
        except Empty:
            return None

    def _run(self) -> None:
        while (request := self._starts.get()) is not None:
            self._completions.put(self._carry(request))
            del request  # with its body, while this thread waits for the next one

    def _carry(self, request: RequestT) -> Completion[RequestT]:
        result: Any
        try:
            result = self._perform(request)
        except BaseException as exc:  # noqa: BLE001 - a completion that is lost would hang the sender
            result = exc
        return Completion(request, len(request.body), result)


class InlineTransport(Generic[RequestT]):
    """
    One request at a time, in the caller's own thread.

    :param perform: Sends one request and returns the response.
    :param sleep: Waits, in seconds. The clock is the sum of these waits.
    """

    def __init__(self, perform: Callable[[RequestT], Any], sleep: Callable[[float], None] = time.sleep) -> None:
        self._perform = perform
        self._sleep = sleep
        self._now_s = 0.0
        self._completion: Completion[RequestT] | None = None

    def __enter__(self) -> Self:
        """Return the transport itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: no request is in flight between two calls."""

    def now(self) -> float:
        """Return the seconds that were waited."""
        return self._now_s

    def start(self, request: RequestT) -> None:
        """Send the request. An exception that is not one of this package's is raised here."""
        result: Any
        try:
            result = self._perform(request)
        except PineconeUpsertError as exc:
            result = exc
        self._completion = Completion(request, len(request.body), result)

    def next_completion(self, timeout_s: float) -> Completion[RequestT] | None:
        """Return the request that was sent; wait where there is none."""
        if self._completion is None and timeout_s > 0:
            self._sleep(timeout_s)
            self._now_s += timeout_s
        completion, self._completion = self._completion, None
        return completion
