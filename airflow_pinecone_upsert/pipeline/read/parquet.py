"""
The source that reads Parquet files.

Invariants:

- Memory is bounded, regardless of the size of a file or of a row group: files are read page by page, and one whose pages
  are too large is rejected.
- Records always come in the same order: file by file, row by row. So an upsert can resume at a position.
- Every row is read, or an error names the file: a file that ends early is an error, and not a short file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_pinecone_upsert.exceptions import PineconeUpsertError, SourceError
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.options import Columns
from airflow_pinecone_upsert.pipeline.position import Position
from airflow_pinecone_upsert.pipeline.read.chunk import NAMESPACE, Chunk, rows_per_chunk
from airflow_pinecone_upsert.pipeline.read.columns import ColumnSelection, UnusedColumns
from airflow_pinecone_upsert.pipeline.read.content import ContentDigests, HashingHandle, find_change
from airflow_pinecone_upsert.pipeline.read.corruption import check_footer, locate_corruption
from airflow_pinecone_upsert.pipeline.read.files import FileRef
from airflow_pinecone_upsert.pipeline.read.footer import leaves_of, rows_of_groups
from airflow_pinecone_upsert.pipeline.read.page_checks import MissingChecksums, check_page_sizes
from airflow_pinecone_upsert.pipeline.read.prefetch import call_in_background, prefetch
from airflow_pinecone_upsert.pipeline.read.weight import BatchSizer, rows_by_footer

_LOCAL_BUFFER_BYTES: Final = 1 << 20
_REMOTE_BUFFER_BYTES: Final = 8 << 20
"""Each range request costs a round trip: 616 MB take 80 of them with buffers of 8 MB, 592 with 1 MB, in the same memory."""

_ALL_BUFFERS_BYTES: Final = 64 << 20
"""Of all columns of a file. Each of them has a buffer, so hundreds of columns have smaller ones."""

_CHUNKS_AHEAD: Final = 4
"""About as many as one range request returns, so that the next one is in flight while these are sent."""


class ParquetSource:
    """
    Parquet files, one after the other. Files on another machine are read in parallel with sending their records.

    :param files: In the order in which they are read. If two of them have a record of the same id, the later one wins.
    :param columns: The names of the columns to read.
    :param cancellation: Ends the wait for a storage that does not answer.
    :param ids_only: Read no column but the one of ids.
    """

    def __init__(
        self,
        files: Sequence[FileRef],
        columns: Columns,
        cancellation: CancellationToken | None = None,
        *,
        ids_only: bool = False,
    ) -> None:
        self._files = files
        self._columns = columns
        self._ids_only = ids_only
        self._cancellation = cancellation or CancellationToken()
        self._unused = UnusedColumns()
        self._missing_checksums = MissingChecksums()
        self._row_counts: dict[str, int] = {}  # of the files opened so far, by URL
        self._schemas: dict[str, pa.Schema] = {}  # likewise
        self._distinct_schemas: dict[pa.Schema, pa.Schema] = {}  # a schema of 200 columns takes 70 KB
        self._digests = ContentDigests(files)

    @property
    def files(self) -> Sequence[FileRef]:
        """All of the files, including those not read yet."""
        return self._files

    @property
    def schemas(self) -> Mapping[str, pa.Schema]:
        """The schema, with all columns, of each file opened so far, by URL."""
        return self._schemas

    def __str__(self) -> str:
        """Return its name for the log."""
        return f"{len(self._files)} Parquet files" if len(self._files) != 1 else self._files[0].url

    @property
    def identity(self) -> Any:
        """Name each file with its size and version; None where the storage reports no version of a file."""
        return None if self.not_resumable else list(map(_identity_of, self._files))

    @property
    def not_resumable(self) -> str | None:
        """See :class:`RecordSource`: a file without a version could be replaced unnoticed."""
        unversioned = next((file.url for file in self._files if not file.version), None)
        return unversioned and f"the storage reports neither an ETag nor a modification time of {unversioned}"

    def content_digest(self, position: Position, begun: Collection[str], earlier: Any) -> Any:
        """Return digests of the ends of files. See :class:`RecordSource`."""
        finished, _ = self._find(position)
        numbers = {finished, *(number for number, file in enumerate(self._files) if file.url in begun)}
        return self._digests.as_json(finished, sorted(numbers), earlier)

    def content_change(self, digest: Any) -> str | None:
        """Open the files that were begun again, and those that were finished if need be. See :class:`RecordSource`."""
        return call_in_background(lambda: find_change(digest, self._files, _digest_of), self._cancellation)

    def chunks(self, shape: IndexShape, start: Position | None = None) -> Iterator[Chunk]:
        """Read file after file, page by page. See :class:`RecordSource`."""
        chunks = self._chunks(shape, start)
        is_local = all(file.is_local for file in self._files)
        return chunks if is_local else prefetch(chunks, _CHUNKS_AHEAD, self._cancellation)

    def count_rows(self) -> int:
        """
        Count the rows of all files by their footers.

        :raises SourceError: A file cannot be read as Parquet.
        :raises StorageError: The storage does not respond.
        """
        return sum(map(self._rows_of, self._files))

    def _rows_of(self, file: FileRef) -> int:
        with _read_errors(file), file.open() as handle, _open(file, handle) as parquet:
            return int(parquet.metadata.num_rows)

    def _chunks(self, shape: IndexShape, start: Position | None) -> Iterator[Chunk]:
        number, row = self._find(start)
        for file in self._files[number:]:
            yield from self._read(file, shape, row)
            row = 0

    def share_before(self, position: Position) -> float | None:
        """Count bytes, as if all rows of a file had the same length. See :class:`RecordSource`."""
        number, row = self._find(position)
        read = float(sum(file.size for file in self._files[:number]))
        rows = self._row_counts.get(position.origin)
        if rows:
            read += self._files[number].size * min(row, rows) / rows
        total = sum(file.size for file in self._files)
        return read / total if total else None

    def _find(self, position: Position | None) -> tuple[int, int]:
        """Return the number of a position's file among the files, and the row in it."""
        if position is None:
            return 0, 0
        return next(number for number, file in enumerate(self._files) if file.url == position.origin), position.row

    def _read(self, file: FileRef, shape: IndexShape, start_row: int) -> Iterator[Chunk]:
        with _read_errors(file), file.open() as handle:
            yield from self._read_parquet(file, handle, shape, start_row)

    def _read_parquet(self, file: FileRef, handle: Any, shape: IndexShape, start_row: int) -> Iterator[Chunk]:
        hashing = HashingHandle(handle)
        with _open(file, hashing) as parquet:
            schema, footer = parquet.schema_arrow, parquet.metadata
            selection = ColumnSelection(schema, self._columns, shape, file.url, ids_only=self._ids_only)
            if not self._ids_only:
                self._unused.log(selection)
            leaves = leaves_of(parquet, selection.column_names)
        self._digests.add(file, hashing.digest)
        self._row_counts[file.url] = footer.num_rows
        self._schemas[file.url] = self._distinct_schemas.setdefault(schema, schema)
        with _open(file, handle, footer, len(leaves)) as parquet:
            check_footer(parquet, leaves, file.url)
            check_page_sizes(handle, footer, leaves, file)
            self._missing_checksums.log(handle, footer, leaves, file)
            first_rows = rows_by_footer(footer, leaves, selection.vector_columns)
            sizer = BatchSizer(selection.vector_columns, rows_per_chunk(shape), first_rows)
            yield from _chunks_of_file(file, parquet, selection, sizer, start_row)


def _identity_of(file: FileRef) -> tuple[str | int, ...]:
    namespace = () if file.namespace is None else (file.namespace,)  # another root means another namespace
    return (file.url, file.size, file.version, *namespace)


@contextmanager
def _read_errors(file: FileRef) -> Iterator[None]:
    try:
        yield
    except PineconeUpsertError:
        raise
    except Exception as exc:  # storage libraries and Arrow share no exception class
        raise _unreadable(file, "", exc) from exc


def _digest_of(file: FileRef) -> str:
    """Open a file as for reading it, and return the digest of what that reads."""
    with _read_errors(file), file.open() as handle:
        hashing = HashingHandle(handle)
        with _open(file, hashing):
            return hashing.digest


def _open(file: FileRef, handle: Any, footer: pq.FileMetaData | None = None, column_count: int = 1) -> pq.ParquetFile:
    """
    Open a file so that Arrow reads it by pages.

    :param footer: Read already; None to read it.
    :param column_count: Of the primitive columns that will be read.
    """
    # pre_buffer=False and buffer_size make Arrow read by pages. Otherwise it reads a whole row group: 1.9 GB of memory
    # for a row group of that size, instead of 130 MB.
    buffer_bytes = min(
        _LOCAL_BUFFER_BYTES if file.is_local else _REMOTE_BUFFER_BYTES, _ALL_BUFFERS_BYTES // column_count
    )
    # Checksums, in files that have them, detect every flipped bit of a page; they cost 0.3 ms per megabyte.
    return pq.ParquetFile(
        handle, metadata=footer, pre_buffer=False, buffer_size=buffer_bytes, page_checksum_verification=True
    )


def _chunks_of_file(
    file: FileRef, parquet: pq.ParquetFile, selection: ColumnSelection, sizer: BatchSizer, start_row: int
) -> Iterator[Chunk]:
    row_groups, row = _row_groups_from(parquet.metadata, start_row)
    columns = selection.column_names
    names = selection.names if file.namespace is None else {**selection.names, NAMESPACE: NAMESPACE}
    try:
        for batch in parquet.iter_batches(sizer.rows, row_groups=row_groups, columns=columns, use_threads=False):
            pieces = sizer.cut(batch)
            parquet.reader.set_batch_size(sizer.rows)  # of the next batch
            for piece in pieces:
                end = row + len(piece)
                if end > start_row:
                    wanted = piece.slice(max(0, start_row - row))
                    records = selection.records(wanted)
                    if file.namespace is not None:
                        records = records.append_column(NAMESPACE, pa.repeat(file.namespace, len(records)))
                    yield Chunk(file.url, range(end - len(wanted), end), records, names)
                row = end
    except PineconeUpsertError:
        raise
    except Exception as exc:
        # A remote file is not read again: that may take minutes, and fail for another reason.
        where = locate_corruption(parquet, columns, range(row, row + sizer.rows)) if file.is_local else ""
        raise _unreadable(file, f", {where or f'after row {row}'}", exc) from exc
    if row < parquet.metadata.num_rows:
        raise SourceError(
            f"{file.url} is corrupt: it ends after row {row:,} of {parquet.metadata.num_rows:,}. Write the file again."
        )


def _unreadable(file: FileRef, where: str, exc: Exception) -> SourceError:
    detail = str(exc).strip().removesuffix(".") or type(exc).__name__
    return SourceError(
        f"{file.url}{where} cannot be read as Parquet: {detail}. Check that it can be read from here, or write it again."
    )


def _row_groups_from(metadata: pq.FileMetaData, row: int) -> tuple[list[int], int]:
    """Return the numbers of the row groups from the one that contains a row, and the first row of that one."""
    found = [(number, rows.start) for number, rows in rows_of_groups(metadata) if rows.stop > row]
    return [number for number, _ in found], found[0][1] if found else metadata.num_rows
