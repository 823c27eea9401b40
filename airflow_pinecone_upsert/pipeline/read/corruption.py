"""
What gives a damaged Parquet file away before it is read, and where the damage is once reading has failed.

Arrow trusts the footer: it reads as few rows as that claims, and takes as much memory as a page claims to hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import pyarrow.parquet as pq

from airflow_pinecone_upsert.exceptions import SourceError

_MAX_BYTES: Final = 256_000_000
_MAX_BYTES_PER_ROW: Final = 1_000_000
"""
A column of a row group that claims more than both is refused unread: no valid record comes near to the second, and a
page of zeros that unpacks to gigabytes fits into a small file.
"""

_BYTES_PER_VALUE: Final = 4


class _Part(NamedTuple):
    """A leaf of a column: its number among all leaves, its column, and whether each row has exactly one value there."""

    number: int
    column: str
    is_flat: bool


def check_footer(parquet: pq.ParquetFile, columns: Sequence[str], origin: str) -> None:
    """
    Compare what the footer says in several places.

    :param columns: Those that will be read.
    :param origin: The file's path or URL, for messages.
    :raises SourceError: It contradicts itself, or claims what no valid record needs.
    """
    footer = parquet.metadata
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    rows = sum(group.num_rows for group in groups)
    if footer.num_rows != rows:
        raise _damaged(origin, f"its footer counts {footer.num_rows:,} rows, and {rows:,} in its row groups")
    parts = list(_parts(parquet, columns))
    for number, group in enumerate(groups):
        for part in parts:
            leaf = group.column(part.number)
            where = f"row group {number}, column {part.column!r}"
            if part.is_flat and leaf.num_values != group.num_rows:
                raise _damaged(origin, f"{where}: {leaf.num_values:,} values for {group.num_rows:,} rows")
            claimed = max(leaf.total_uncompressed_size, leaf.num_values * _BYTES_PER_VALUE)
            if claimed > max(_MAX_BYTES, _MAX_BYTES_PER_ROW * group.num_rows):
                raise _damaged(
                    origin, f"{where}: {claimed:,} bytes in {group.num_rows:,} rows, more than valid records need"
                )


def rows_of_groups(footer: pq.FileMetaData) -> Iterator[tuple[int, range]]:
    """Yield the number of each row group with its rows in the file."""
    first_row = 0
    for number in range(footer.num_row_groups):
        behind = first_row + footer.row_group(number).num_rows
        yield number, range(first_row, behind)
        first_row = behind


def locate_corruption(parquet: pq.ParquetFile, columns: Sequence[str], rows: range) -> str:
    """
    Read once more, column by column, to name the first that fails; in bounded memory.

    :param columns: Those that were read.
    :param rows: Where reading failed.
    :return: In words; empty where nothing fails now.
    """
    for number, group in rows_of_groups(parquet.metadata):
        if group.stop <= rows.start or rows.stop <= group.start:
            continue
        for column in columns:
            try:
                for _ in parquet.iter_batches(len(rows), row_groups=[number], columns=[column], use_threads=False):
                    pass
            except Exception:  # noqa: BLE001 - which one it is was told before
                return f"row group {number}, column {column!r}"
    return ""


def _damaged(origin: str, what: str) -> SourceError:
    return SourceError(f"{origin} is corrupt: {what}. Write the file again.")


def _parts(parquet: pq.ParquetFile, columns: Sequence[str]) -> Iterator[_Part]:
    schema = parquet.schema
    for number in range(parquet.metadata.num_columns):
        leaf = schema.column(number)
        for column in columns:
            if leaf.path == column or leaf.path.startswith(f"{column}."):
                yield _Part(number, column, leaf.max_repetition_level == 0)
