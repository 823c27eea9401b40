"""
Eventual consistency on demand: writes that are acknowledged, but that no reader sees yet.

A write is a function of a table. The store runs it on the table of all records at once, and, if it has a lag, a second
time on the table that readers see. Both tables start equal and get the same writes in the same order, so a write does the
same to both.

Invariants:

* Writes become visible in the order of their log sequence numbers (LSN).
* Without a lag there is only one table, and nothing is ever pending.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

Write = Callable[[sqlite3.Cursor, str], int]
"""Changes a table, and returns how many records it found."""


class PendingWrite(NamedTuple):
    """A write that is not visible yet."""

    visible_at: float
    lsn: int
    namespace: str
    write: Write


class PendingWrites:
    """
    The writes that are not visible yet.

    :param lag_s: Seconds from the write until it is visible; may be infinite.
    :param clock: Returns the time in seconds.
    :raises ValueError: The lag is negative.
    """

    def __init__(self, lag_s: float, clock: Callable[[], float]) -> None:
        if not lag_s >= 0:
            raise ValueError(f"The lag must not be negative, but is {lag_s:g} seconds.")
        self.lag_s = lag_s
        self._clock = clock
        self._writes: deque[PendingWrite] = deque()

    def add(self, lsn: int, namespace: str, write: Write) -> None:
        """
        Add a write.

        :param lsn: Its LSN, greater than all earlier ones.
        :param namespace: The namespace that it changes.
        :param write: The write.
        """
        self._writes.append(PendingWrite(self._clock() + self.lag_s, lsn, namespace, write))

    def take_due(self) -> Iterator[PendingWrite]:
        """
        Remove the writes that have become visible.

        :return: The writes, in the order of their LSN.
        """
        now = self._clock()
        while self._writes and self._writes[0].visible_at <= now:
            yield self._writes.popleft()
