"""The end of the settled prefix."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from airflow_pinecone_upsert.pipeline.position import Position, RowRange
from airflow_pinecone_upsert.pipeline.send.requests import UpsertRequest


class _Settled(NamedTuple):
    """What is remembered of a batch: its records would fill the memory while an early one waits."""

    end: int
    rows: list[RowRange]
    confirmed: int
    refused: int


class Watermark:
    """
    The end of the prefix in which every record is settled, and what is confirmed beyond it.

    :param place: Where reading began; None for the first row.
    """

    def __init__(self, place: Position | None = None) -> None:
        self.place = place
        self.rejected = 0
        self._prefix_confirmed = 0
        self._end = 0  # the number of the first fragment that is not settled
        self._beyond: dict[int, _Settled] = {}  # by the number of their first fragment
        self._aside: deque[int] = deque()  # how many fragments precede each row that was set aside

    @property
    def confirmed(self) -> int:
        """Records that need not be sent again, before and beyond :attr:`place`."""
        return self._prefix_confirmed + sum(settled.confirmed for settled in self._beyond.values())

    @property
    def confirmed_beyond(self) -> list[RowRange]:
        """Rows behind :attr:`place` that are confirmed: few, because few batches are unsettled at a time."""
        found: list[RowRange] = []
        behind = -1
        for first, settled in sorted(self._beyond.items()):
            if settled.confirmed:
                rows = list(settled.rows)
                if first == behind and found[-1].origin == rows[0].origin:
                    rows[0] = RowRange(rows[0].origin, found.pop().first, rows[0].end)
                found += rows
                behind = settled.end
        return found

    def settle(self, batch: UpsertRequest, *, confirmed: bool) -> None:
        """
        Move on as far as batches are settled without a gap.

        :param confirmed: By the server; otherwise refused by it and set aside.
        """
        count = len(batch)
        confirmed_count = count if confirmed else 0
        self._beyond[batch.first] = _Settled(
            batch.first + count, batch.ranges, confirmed_count, count - confirmed_count
        )
        while (settled := self._beyond.pop(self._end, None)) is not None:
            self._end = settled.end
            self.place = Position(settled.rows[-1].origin, settled.rows[-1].end)
            self._prefix_confirmed += settled.confirmed
            self.rejected += settled.refused
        while self._aside and self._aside[0] < self._end:
            self._aside.popleft()
            self.rejected += 1

    def set_aside(self, fragments_before: int) -> None:
        """
        Count a row that became no fragment; it lies before the place once a fragment behind it does.

        :param fragments_before: How many fragments precede it.
        """
        self._aside.append(fragments_before)
