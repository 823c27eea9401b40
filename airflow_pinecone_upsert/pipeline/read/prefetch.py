"""
Read in parallel with sending: an iterator runs in another thread, a few items ahead of its consumer.

Invariants:

- The items come in the same order, and an exception comes where the failing item would have come.
- A consumer waits no longer than until the run is cancelled, even if the iterator never returns.
- The thread ends when the consumer closes the iterator, as soon as its current item is there. It is a daemon, so that a
  call that hangs does not keep the process alive.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from airflow_pinecone_upsert.pipeline.cancellation import POLL_INTERVAL_S, CancellationToken

_T = TypeVar("_T")


class _End:
    """Follows the last item; holds the exception if the iterator raised one."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class _Reader(Generic[_T]):
    """Runs the iterator and holds the items that the consumer has not taken yet."""

    def __init__(self, items: Iterator[_T], depth: int) -> None:
        self._ready: queue.Queue[_T | _End] = queue.Queue(depth)
        self.abandoned = threading.Event()
        self._items = items

    def run(self) -> None:
        try:
            for item in self._items:
                self._put(item)
                if self.abandoned.is_set():
                    return
        except BaseException as exc:  # noqa: BLE001 - raised again where the item would have come
            self._put(_End(exc))
        else:
            self._put(_End())

    def get(self, cancellation: CancellationToken) -> _T | _End:
        while True:
            try:
                return self._ready.get(timeout=POLL_INTERVAL_S)
            except queue.Empty:
                cancellation.raise_if_cancelled()

    def _put(self, item: _T | _End) -> None:
        while not self.abandoned.is_set():
            try:
                self._ready.put(item, timeout=POLL_INTERVAL_S)
            except queue.Full:
                continue
            return


def prefetch(items: Iterator[_T], depth: int, cancellation: CancellationToken) -> Iterator[_T]:
    """
    Yield the items of an iterator that runs in another thread.

    :param items: Runs in one other thread, started when the first item is requested.
    :param depth: The number of items to hold ready, at most.
    :param cancellation: Ends the wait for an item.
    """
    reader = _Reader(items, depth)
    threading.Thread(target=reader.run, name="pinecone-upsert-read", daemon=True).start()
    try:
        while not isinstance(item := reader.get(cancellation), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        reader.abandoned.set()


def call_in_background(call: Callable[[], _T], cancellation: CancellationToken) -> _T:
    """
    Return the result of a call, or raise its exception, unless the run is cancelled first.

    :param call: May wait for another machine for a long time. It is called once, in another thread.
    :param cancellation: Ends the wait for the call.
    """
    (result,) = prefetch((call() for _ in range(1)), 1, cancellation)
    return result
