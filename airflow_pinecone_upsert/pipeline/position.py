"""Positions and ranges of rows in a source: what a checkpoint and an error message name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Position(NamedTuple):
    """
    A row of a source.

    :param origin: The file's path or URL.
    :param row: Counted from 0. As a position to resume from, it may be one past the last row.
    """

    origin: str
    row: int


class RowRange(NamedTuple):
    """
    Consecutive rows of one origin.

    :param origin: The file's path or URL.
    :param start: The first row, counted from 0.
    :param stop: One past the last row.
    """

    origin: str
    start: int
    stop: int


def row_ranges(origin: str, rows: Sequence[int]) -> Iterator[RowRange]:
    """
    Yield the runs of consecutive rows.

    :param origin: Where the rows are.
    :param rows: Ascending, each once.
    """
    if not rows:
        return
    if rows[-1] - rows[0] + 1 == len(rows):
        yield RowRange(origin, rows[0], rows[-1] + 1)
        return
    numbers = np.asarray(rows)
    breaks = np.flatnonzero(np.diff(numbers) != 1)
    starts = numbers[np.concatenate([[0], breaks + 1])].tolist()
    stops = (numbers[np.concatenate([breaks, [-1]])] + 1).tolist()
    for start, stop in zip(starts, stops, strict=True):
        yield RowRange(origin, start, stop)


def gaps(rows: RowRange, taken: Sequence[int]) -> Iterator[RowRange]:
    """
    Yield the parts of a range that are not taken.

    :param taken: Rows within the range, ascending, each once.
    """
    start = rows.start
    for run in row_ranges(rows.origin, taken):
        if run.start > start:
            yield RowRange(rows.origin, start, run.start)
        start = run.stop
    if start < rows.stop:
        yield RowRange(rows.origin, start, rows.stop)
