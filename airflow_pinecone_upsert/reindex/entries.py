"""
Entries: what a manifest says of one record, and their Parquet files.

An entry is the id of a record (of many namespaces its key, see :mod:`airflow_pinecone_upsert.reindex.keys`, which is called
an id here, too) with one of three claims about the namespace:

- a digest: the server confirmed the record with this digest, and nothing was sent for the id since;
- :data:`UNKNOWN_DIGEST`: something was sent for the id, and what the namespace holds is not known. No record has this
  digest, so the record is sent again, or deleted if the source does not have it;
- null: the server confirmed the deletion. Base files hold none of these.

A file names the digest function that it was written with. An entry of another function is read as unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

DIGEST_BYTES: Final = 16

_FIELDS: Final[list[pa.Field[Any]]] = [
    pa.field("id", pa.large_string(), nullable=False),
    pa.field("digest", pa.binary(DIGEST_BYTES)),
    pa.field("bytes", pa.uint32(), nullable=False),
]

ENTRY_SCHEMA: Final = pa.schema(_FIELDS)
"""``bytes``: the record's size by Pinecone's cost rule (id, 4 a component, metadata, 8 a sparse entry); 0 if unknown."""

UNKNOWN_DIGEST: Final = bytes(DIGEST_BYTES)

_ROW_GROUP_ROWS: Final = 1 << 17
"""About 7 MB: what is in memory at a time, and one request of a reader."""

_BATCH_ROWS: Final = 1 << 15
"""
Of a batch that is read. Its user makes Python objects of it: with whole row groups, a compaction of 10 million entries
peaked at 606 MB, and not at 523 to 553 MB.
"""

_DIGEST_KEY: Final = b"digest_function"


def known_entries(ids: Sequence[str], digests: Sequence[bytes], sizes: Sequence[int]) -> pa.RecordBatch:
    """Return entries of confirmed records."""
    return _entries(ids, _digests(b"".join(digests), len(ids)), _sizes(sizes))


def unknown_entries(ids: Sequence[str]) -> pa.RecordBatch:
    """Return entries of ids of which it is not known what the namespace holds."""
    return _entries(ids, _unknown_digests(len(ids)), _sizes([0] * len(ids)))


def removed_entries(ids: Sequence[str]) -> pa.RecordBatch:
    """Return entries of deleted ids."""
    return _entries(ids, _removed_digests(len(ids)), _sizes([0] * len(ids)))


def as_unknown(entries: pa.RecordBatch, *, removed_too: bool) -> pa.RecordBatch:
    """
    Return entries whose digests are unknown.

    :param removed_too: Also those of deleted ids, which stay deleted otherwise.
    """
    digests = entries.column("digest")
    unknown = _unknown_digests(len(digests))
    if not removed_too and digests.null_count:
        unknown = pc.if_else(digests.is_valid(), unknown, _removed_digests(len(digests)))
    return pa.RecordBatch.from_arrays([entries.column("id"), unknown, entries.column("bytes")], schema=ENTRY_SCHEMA)


def write_entries(batches: Iterable[pa.RecordBatch], sink: Any, digest_function: str) -> tuple[int, int]:
    """
    Write a Parquet file.

    :param batches: Of :data:`ENTRY_SCHEMA`, of any length.
    :param sink: A binary file, or an Arrow stream.
    :param digest_function: Its name and version.
    :return: How many entries were written, and the sum of their ``bytes``.
    """
    count = total_bytes = 0
    schema = ENTRY_SCHEMA.with_metadata({_DIGEST_KEY: digest_function.encode()})
    # Digests are random, and ids come in the order of their hashes: dictionaries and statistics only cost time.
    with pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    ) as writer:
        for table in _regrouped(batches):
            writer.write_table(table, row_group_size=_ROW_GROUP_ROWS)
            count += table.num_rows
            total_bytes += pc.sum(table.column("bytes")).as_py() or 0
    return count, total_bytes


def as_file(batches: Iterable[pa.RecordBatch], digest_function: str) -> bytes:
    """Return a Parquet file as bytes. See :func:`write_entries`."""
    sink = pa.BufferOutputStream()
    write_entries(batches, sink, digest_function)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def read_entries(file: BinaryIO | pa.NativeFile, digest_function: str) -> Iterator[pa.RecordBatch]:
    """
    Yield the entries of a file.

    :param digest_function: Of the reader. Digests of another function become unknown.
    :raises pa.ArrowException: The file is damaged.
    :raises OSError: It cannot be read.
    """
    parquet = pq.ParquetFile(file, pre_buffer=True, page_checksum_verification=True)
    metadata = parquet.schema_arrow.metadata or {}
    is_comparable = metadata.get(_DIGEST_KEY) == digest_function.encode()
    # Not iter_batches(): with pre_buffer, it would hold the whole file.
    for number in range(parquet.num_row_groups):
        table = parquet.read_row_group(number, columns=ENTRY_SCHEMA.names, use_threads=False)
        for batch in table.cast(ENTRY_SCHEMA).to_batches(_BATCH_ROWS):
            yield batch if is_comparable else as_unknown(batch, removed_too=False)


def _regrouped(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield tables that are long enough for a row group."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += len(batch)
        if rows >= _ROW_GROUP_ROWS:
            yield pa.Table.from_batches(held).cast(ENTRY_SCHEMA)
            held, rows = [], 0
    if rows:
        yield pa.Table.from_batches(held).cast(ENTRY_SCHEMA)


# Arrays are made of buffers: pa.array() imports pandas, for 30 MB.


def _entries(ids: Sequence[str], digests: pa.Array[Any], sizes: pa.Array[Any]) -> pa.RecordBatch:
    encoded = [record_id.encode() for record_id in ids]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([*map(len, encoded)], out=offsets[1:])
    text = pa.py_buffer(b"".join(encoded))
    id_array = pa.LargeStringArray.from_buffers(len(encoded), pa.py_buffer(offsets.tobytes()), text)
    return pa.RecordBatch.from_arrays([id_array, digests, sizes], schema=ENTRY_SCHEMA)


def _digests(content: bytes, count: int) -> pa.Array[Any]:
    """
    Return digests that follow each other.

    :raises ValueError: They have another length.
    """
    if len(content) != DIGEST_BYTES * count:
        raise ValueError(f"{count} digests have {len(content)} bytes, and not {DIGEST_BYTES} each")
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(DIGEST_BYTES), count, [None, pa.py_buffer(content)])


def _unknown_digests(count: int) -> pa.Array[Any]:
    return _digests(UNKNOWN_DIGEST * count, count)


def _removed_digests(count: int) -> pa.Array[Any]:
    validity = pa.py_buffer(bytes((count + 7) // 8))
    values = pa.py_buffer(bytes(DIGEST_BYTES * count))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(DIGEST_BYTES), count, [validity, values])


def _sizes(sizes: Sequence[int]) -> pa.Array[Any]:
    return pa.UInt32Array.from_buffers(
        pa.uint32(), len(sizes), [None, pa.py_buffer(np.array(sizes, np.uint32).tobytes())]
    )
