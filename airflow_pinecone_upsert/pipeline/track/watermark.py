"""
The watermark: the end of the prefix of a source in which every row is settled, and the settled ranges after it.

A row is settled if nothing remains to be done for it: it was confirmed, rejected, or need not be sent. The watermark
knows ranges of rows, not records, so that any number of rows that need no sending costs one range.

Invariants: no row before the position, and none in a settled range, is anything but settled; memory grows with the gaps
between settled ranges, which the requests in flight bound.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from airflow_pinecone_upsert.pipeline.position import Position, RowRange


class _RowSet:
    """Rows of one origin as disjoint ranges, ascending, none of which touches the next."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.stops: list[int] = []

    def add(self, start: int, stop: int) -> None:
        first = bisect_left(self.stops, start)  # the first range that it touches
        last = bisect_right(self.starts, stop)  # one past the last such range
        if first < last:
            start, stop = min(start, self.starts[first]), max(stop, self.stops[last - 1])
        self.starts[first:last] = [start]
        self.stops[first:last] = [stop]

    def end_of_run(self, row: int) -> int:
        """Return the end of the settled rows that begin at ``row``, and drop all rows before it."""
        number = bisect_right(self.starts, row)
        if number and self.stops[number - 1] >= row:
            row = self.stops[number - 1]
        del self.starts[:number], self.stops[:number]
        return row


class Watermark:
    """
    The watermark of one source.

    :param position: Where reading starts; None for the first row.
    :param settled: Ranges after it that earlier tries settled.
    """

    def __init__(self, position: Position | None = None, settled: Iterable[RowRange] = ()) -> None:
        self.position = position
        self._read_to: dict[str, int] = {}  # by origin, in the order of reading; without those that are passed
        self._settled: dict[str, _RowSet] = {}
        if position is not None:
            self._read_to[position.origin] = position.row
        for rows in settled:
            self.settle(rows)

    @property
    def settled_after(self) -> list[RowRange]:
        """The settled ranges after :attr:`position`: few, because few requests are unsettled at a time."""
        return [
            RowRange(origin, start, stop)
            for origin, rows in self._settled.items()
            for start, stop in zip(rows.starts, rows.stops, strict=True)
        ]

    def read(self, rows: RowRange) -> None:
        """
        Note which rows were read.

        :param rows: They follow the rows that were read before.
        """
        if self.position is None:
            self.position = Position(rows.origin, rows.start)
        self._read_to[rows.origin] = rows.stop
        self._advance()

    def settle(self, rows: RowRange) -> None:
        """Note that rows are settled."""
        self._settled.setdefault(rows.origin, _RowSet()).add(rows.start, rows.stop)
        self._advance()

    def _advance(self) -> None:
        while self.position is not None:
            origin, row = self.position
            settled = self._settled.get(origin)
            if settled is not None:
                row = settled.end_of_run(row)
                if not settled.starts:
                    del self._settled[origin]
            self.position = Position(origin, row)
            if row < self._read_to[origin] or len(self._read_to) == 1:
                return
            del self._read_to[origin]
            # Reading has gone on to another origin, so this one is complete. It is read from its first row.
            self.position = Position(next(iter(self._read_to)), 0)
