"""What the footer of a Parquet file says about its columns and its row groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow.parquet as pq


class Leaf(NamedTuple):
    """
    A primitive column of Parquet; a nested column has several.

    :param number: Its number among all leaves of the file.
    :param column: The column that it belongs to.
    :param is_flat: Whether each row has exactly one value in it.
    """

    number: int
    column: str
    is_flat: bool


def leaves_of(parquet: pq.ParquetFile, columns: Sequence[str]) -> list[Leaf]:
    """Return the primitive columns of some columns."""
    paths = (parquet.schema.column(number) for number in range(parquet.metadata.num_columns))
    return [
        Leaf(number, column, path.max_repetition_level == 0)
        for number, path in enumerate(paths)
        for column in columns
        if path.path == column or path.path.startswith(f"{column}.")
    ]


def rows_of_groups(footer: pq.FileMetaData) -> Iterator[tuple[int, range]]:
    """Yield the number of each row group and its rows, counted from the start of the file."""
    first_row = 0
    for number in range(footer.num_row_groups):
        end = first_row + footer.row_group(number).num_rows
        yield number, range(first_row, end)
        first_row = end
