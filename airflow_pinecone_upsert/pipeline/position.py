"""Positions and ranges of rows in a source."""

from __future__ import annotations

from typing import NamedTuple


class Position(NamedTuple):
    """
    A row of the source.

    :param origin: The file's path or URL.
    :param row: Counted from 0. As a place to go on from, it may lie behind the last one.
    """

    origin: str
    row: int


class RowRange(NamedTuple):
    """
    Rows of one origin that stand behind one another.

    :param origin: The file's path or URL.
    :param first: The first one.
    :param end: Behind the last one.
    """

    origin: str
    first: int
    end: int
