"""How requests travel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol

from typing_extensions import Self

from airflow_pinecone_upsert.api.client import Body


class Completion(NamedTuple):
    """
    What became of one request.

    :param job: As it was given to :meth:`Lanes.start`.
    :param body_bytes: Bytes sent.
    :param result: ``upsertedCount``, or the error.
    """

    job: Any
    body_bytes: int
    result: int | BaseException


class Transport(Protocol):
    """Where requests travel, and the clock that goes with it: threads and real time, or a simulation of both."""

    def __enter__(self) -> Self:
        """Begin to carry requests."""
        ...

    def __exit__(self, *_: object) -> None:
        """Let go of those that are still under way."""
        ...

    def now(self) -> float:
        """Return monotonic seconds."""
        ...

    def start(self, job: Any, body: Body) -> None:
        """Begin a request and return at once."""
        ...

    def next_completion(self, timeout_s: float) -> Completion | None:
        """Wait for a request to end; None where ``timeout_s`` passed first."""
        ...


class ThreadTransport:
    """
    A thread for each request in flight. Use it in a ``with`` block.

    Not an executor of the standard library's: the interpreter waits for the threads of those when it ends, and a
    request that hangs would keep a task alive that was told to stop.

    :param upsert: Sends one body and returns ``upsertedCount``.
    :param count: Threads.
    """

    def __init__(self, upsert: Callable[[Body], int], count: int) -> None:
        self._upsert = upsert
        self._starts: SimpleQueue[tuple[Any, Body] | None] = SimpleQueue()
        self._landings: SimpleQueue[Completion] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"pinecone-upsert-{number}", daemon=True) for number in range(count)
        ]

    def __enter__(self) -> Self:
        """Start the threads."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the threads; what is in flight ends by itself."""
        for _thread in self._threads:
            self._starts.put(None)

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def start(self, job: Any, body: Body) -> None:
        """Begin a request. See :class:`Transport`."""
        self._starts.put((job, body))

    def next_completion(self, timeout_s: float) -> Completion | None:
        """Wait for a request to end. See :class:`Transport`."""
        try:
            return self._landings.get(timeout=timeout_s)
        except Empty:
            return None

    def _run(self) -> None:
        while (start := self._starts.get()) is not None:
            self._landings.put(self._carry(*start))
            del start  # its body, while this thread waits for the next one

    def _carry(self, job: Any, body: Body) -> Completion:
        result: int | BaseException
        try:
            result = self._upsert(body)
        except BaseException as exc:  # noqa: BLE001 - a landing that is lost would hang the sender
            result = exc
        return Completion(job, len(body), result)
