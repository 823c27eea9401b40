"""
Where records come from, and the source that reads Parquet files.

A source yields :class:`Chunk` after :class:`Chunk`, bounded whatever the size of a file or of one of its row groups,
and always in the same order. The other source, of records in memory, is in :mod:`.records`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_pinecone_upsert.exceptions import PineconeUpsertError, SourceError
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.options import Columns
from airflow_pinecone_upsert.pipeline.position import Position
from airflow_pinecone_upsert.pipeline.read.chunk import Chunk, rows_per_chunk
from airflow_pinecone_upsert.pipeline.read.columns import ColumnSelection
from airflow_pinecone_upsert.pipeline.read.corruption import check_footer, locate_corruption, rows_of_groups
from airflow_pinecone_upsert.pipeline.read.files import FileRef, _asking_storage, _RemoteHandle
from airflow_pinecone_upsert.pipeline.read.prefetch import prefetch

_LOCAL_BUFFER_BYTES: Final = 1 << 20
_REMOTE_BUFFER_BYTES: Final = 8 << 20
"""A range request costs a round trip: 8 MB read 616 MB in 80 of them where 1 MB took 592, at the same memory."""

_CHUNKS_AHEAD: Final = 4
"""As much as one range request brings, so that the next one is under way while these are sent."""


class ParquetSource:
    """
    Parquet files, one after the other. Those on another machine are read beside whatever is done with their records.

    :param files: In the order in which they are read; with the same id in two of them, the later one stays.
    :param columns: Which of their columns hold what.
    :param stop: Ends the wait for a storage that does not answer.
    """

    def __init__(self, files: Sequence[FileRef], columns: Columns, stop: CancellationToken | None = None) -> None:
        self._files = files
        self._columns = columns
        self._stop = stop or CancellationToken()
        self._row_counts: dict[str, int] = {}  # of the files opened so far, by URL
        self._schemas: dict[str, pa.Schema] = {}  # likewise

    @property
    def files(self) -> Sequence[FileRef]:
        """All of the files, read or not yet."""
        return self._files

    @property
    def schemas(self) -> Mapping[str, pa.Schema]:
        """The whole schema, all columns, of each file that was opened so far, by URL."""
        return self._schemas

    def __str__(self) -> str:
        """Describe it for a log."""
        return f"{len(self._files)} Parquet files" if len(self._files) != 1 else self._files[0].url

    @property
    def identity(self) -> Any:
        """Name each file with its size and version."""
        return [(file.url, file.size, file.version) for file in self._files]

    def chunks(self, shape: IndexShape, start: Position | None = None) -> Iterator[Chunk]:
        """Read file after file, page by page. See :class:`RecordSource`."""
        chunks = self._chunks(shape, start)
        is_local = all(file.is_local for file in self._files)
        return chunks if is_local else prefetch(chunks, _CHUNKS_AHEAD, self._stop)

    def _chunks(self, shape: IndexShape, start: Position | None) -> Iterator[Chunk]:
        number, row = self._find(start)
        for file in self._files[number:]:
            yield from self._read(file, shape, row)
            row = 0

    def share_before(self, place: Position) -> float | None:
        """Count bytes, as if all rows of a file had the same length. See :class:`RecordSource`."""
        number, row = self._find(place)
        read = float(sum(file.size for file in self._files[:number]))
        rows = self._row_counts.get(place.origin)
        if rows:
            read += self._files[number].size * min(row, rows) / rows
        total = sum(file.size for file in self._files)
        return read / total if total else None

    def _find(self, place: Position | None) -> tuple[int, int]:
        """Return the number of a place's file among the files, and the row in it."""
        if place is None:
            return 0, 0
        return next(number for number, file in enumerate(self._files) if file.url == place.origin), place.row

    def _read(self, file: FileRef, shape: IndexShape, start_row: int) -> Iterator[Chunk]:
        try:
            if file.is_local:
                with file.fs.open(file.path, "rb") as handle:
                    yield from self._read_parquet(file, handle, shape, start_row)
            else:
                with _asking_storage(file.url):
                    handle = file.fs.open(file.path, "rb", cache_type="none")
                with handle:
                    yield from self._read_parquet(file, _RemoteHandle(handle, file.url), shape, start_row)
        except PineconeUpsertError:
            raise
        except Exception as exc:  # what storages and Arrow raise has no common class
            raise _unreadable(file, "", exc) from exc

    def _read_parquet(self, file: FileRef, handle: Any, shape: IndexShape, start_row: int) -> Iterator[Chunk]:
        # By pages: without these two a row group is read whole, 1.9 GB for one of that size where 130 MB do.
        buffer_bytes = _LOCAL_BUFFER_BYTES if file.is_local else _REMOTE_BUFFER_BYTES
        # Checksums, where the writer wrote some, find every flipped bit of a page; they cost 0.3 ms a megabyte.
        with pq.ParquetFile(
            handle, pre_buffer=False, buffer_size=buffer_bytes, page_checksum_verification=True
        ) as parquet:
            selection = ColumnSelection(parquet.schema_arrow, self._columns, shape, file.url)
            check_footer(parquet, selection.column_names, file.url)
            self._row_counts[file.url] = parquet.metadata.num_rows
            self._schemas[file.url] = parquet.schema_arrow
            size = rows_per_chunk(shape)
            row_groups, row = _row_groups_from(parquet.metadata, start_row)
            batches = parquet.iter_batches(
                size, row_groups=row_groups, columns=selection.column_names, use_threads=False
            )
            try:
                for batch in batches:
                    behind = row + batch.num_rows
                    if behind > start_row:
                        wanted = batch.slice(max(0, start_row - row))
                        yield Chunk(file.url, behind - wanted.num_rows, selection.records(wanted), selection.names)
                    row = behind
            except PineconeUpsertError:
                raise
            except Exception as exc:
                # A second look at what lies on another machine may cost minutes, and fail for another reason.
                place = (
                    locate_corruption(parquet, selection.column_names, range(row, row + size)) if file.is_local else ""
                )
                raise _unreadable(file, f", {place or f'after row {row}'}", exc) from exc
            if row < parquet.metadata.num_rows:
                raise SourceError(
                    f"{file.url} is corrupt: it ends after row {row:,} of {parquet.metadata.num_rows:,}. "
                    "Write the file again."
                )


def _unreadable(file: FileRef, place: str, exc: Exception) -> SourceError:
    told = str(exc).strip().removesuffix(".") or type(exc).__name__
    return SourceError(
        f"{file.url}{place} cannot be read as Parquet: {told}. Check that it can be read from here, or write it again."
    )


def _row_groups_from(metadata: pq.FileMetaData, row: int) -> tuple[list[int], int]:
    """Return the row groups from the one that holds a row on, and the first row of that one."""
    found = [(number, rows.start) for number, rows in rows_of_groups(metadata) if rows.stop > row]
    return [number for number, _ in found], found[0][1] if found else metadata.num_rows
