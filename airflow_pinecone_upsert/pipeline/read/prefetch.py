"""Reading beside sending: an iterator that runs in a thread of its own, a few items ahead of who asks for them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from airflow_pinecone_upsert.pipeline.cancellation import POLL_INTERVAL_S, CancellationToken

_T = TypeVar("_T")


class _End:
    """Stands behind the last item; with what was raised, if the iterator ended so."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class _Reader(Generic[_T]):
    """Runs the iterator and keeps what nobody has asked for yet."""

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

    def get(self, stop: CancellationToken) -> _T | _End:
        while True:
            try:
                return self._ready.get(timeout=POLL_INTERVAL_S)
            except queue.Empty:
                stop.check()

    def _put(self, item: _T | _End) -> None:
        while not self.abandoned.is_set():
            try:
                self._ready.put(item, timeout=POLL_INTERVAL_S)
            except queue.Full:
                continue
            return


def prefetch(items: Iterator[_T], depth: int, stop: CancellationToken) -> Iterator[_T]:
    """
    Yield the same items in the same order, and raise what ``items`` raised in its place.

    :param items: Run in one other thread, from the first request on.
    :param depth: Items held ready, at the most.
    :param stop: Ends the wait for an item, however long that takes to come.
    """
    reader = _Reader(items, depth)
    threading.Thread(target=reader.run, name="pinecone-upsert-read", daemon=True).start()
    try:
        while not isinstance(item := reader.get(stop), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        reader.abandoned.set()


def call_in_background(call: Callable[[], _T], stop: CancellationToken) -> _T:
    """
    Return what a call returns or raise what it raises, unless the run is to stop before it does.

    :param call: Waits for another machine, perhaps for long. Run in another thread, once.
    :param stop: Ends the wait for it.
    """
    (result,) = prefetch((call() for _ in range(1)), 1, stop)
    return result
