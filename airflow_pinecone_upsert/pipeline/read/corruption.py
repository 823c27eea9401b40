"""
Detect a corrupt Parquet file before it is read, and locate the corruption after reading has failed.

Arrow trusts the footer: it reads only as many rows as the footer claims, and allocates as much memory as a page claims to
need.

Invariants:

- A file whose footer contradicts itself, or claims more bytes than valid records need, is rejected before it is read.
- No footer ends the process: what Arrow says of a column chunk is requested only after Arrow itself has opened the chunk.
- To locate corruption takes no more memory than to read the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_pinecone_upsert.exceptions import SourceError
from airflow_pinecone_upsert.pipeline.read.footer import Leaf, rows_of_groups

_MAX_BYTES: Final = 256_000_000
_MAX_BYTES_PER_ROW: Final = 1_000_000
"""
A column of a row group that claims more than both limits is rejected without being read: no valid record needs nearly as
much as the second, and a small file can hold a page of zeros that decompresses to gigabytes.
"""

_BYTES_PER_VALUE: Final = 4


def check_footer(parquet: pq.ParquetFile, leaves: Sequence[Leaf], origin: str) -> None:
    """
    Check the footer for contradictions and for impossible sizes.

    :param leaves: The columns that will be read.
    :param origin: The file's path or URL, for messages.
    :raises SourceError: The footer contradicts itself, or claims more bytes than valid records need.
    """
    footer = parquet.metadata
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    rows = sum(group.num_rows for group in groups)
    if footer.num_rows != rows:
        raise _corrupt(origin, f"its footer counts {footer.num_rows:,} rows, and {rows:,} in its row groups")
    for number, group in enumerate(groups):
        _open_column_chunks(parquet, number, leaves, origin)
        for leaf in leaves:
            column_chunk = group.column(leaf.number)
            where = f"row group {number}, column {leaf.column!r}"
            if leaf.is_flat and column_chunk.num_values != group.num_rows:
                raise _corrupt(origin, f"{where}: {column_chunk.num_values:,} values for {group.num_rows:,} rows")
            claimed = max(column_chunk.total_uncompressed_size, column_chunk.num_values * _BYTES_PER_VALUE)
            if claimed > max(_MAX_BYTES, _MAX_BYTES_PER_ROW * group.num_rows):
                raise _corrupt(
                    origin, f"{where}: {claimed:,} bytes in {group.num_rows:,} rows, more than valid records need"
                )


def _open_column_chunks(parquet: pq.ParquetFile, number: int, leaves: Sequence[Leaf], origin: str) -> None:
    """
    Let Arrow check what the footer says about the column chunks of a row group, without reading any of their bytes.

    ``RowGroupMetaData.column`` ends the process where the check fails: for level histograms of a wrong length, and for
    encrypted columns. The reader raises an exception instead. It checks a chunk when it opens it, and a batch of no rows
    opens all of them: 7 µs for each.

    :raises SourceError: Arrow cannot open one of them.
    """
    try:
        for _ in parquet.reader.iter_batches(0, [number], [leaf.number for leaf in leaves], use_threads=False):
            pass
    except (pa.ArrowException, OSError) as exc:
        raise SourceError(
            f"{origin}, row group {number} cannot be read as Parquet: {str(exc).strip().removesuffix('.')}. "
            "Write the file again; encrypted columns are not supported."
        ) from exc


def locate_corruption(parquet: pq.ParquetFile, columns: Sequence[str], rows: range) -> str:
    """
    Read some rows once more, column by column, to find the first column that fails or lacks rows; in bounded memory.

    :param columns: The columns that were read.
    :param rows: The rows where reading failed.
    :return: The row group and the column, for a message; empty if nothing fails this time.
    """
    for number, group in rows_of_groups(parquet.metadata):
        if group.stop <= rows.start or rows.stop <= group.start:
            continue
        for column in columns:
            batches = parquet.iter_batches(len(rows), row_groups=[number], columns=[column], use_threads=False)
            try:
                is_complete = sum(batch.num_rows for batch in batches) == len(group)
            except Exception:  # noqa: BLE001 - the caller has already caught the error that it reports
                is_complete = False
            if not is_complete:
                return f"row group {number}, column {column!r}"
    return ""


def _corrupt(origin: str, detail: str) -> SourceError:
    return SourceError(f"{origin} is corrupt: {detail}. Write the file again.")
