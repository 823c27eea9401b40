"""
The files that are upserted: seeded float32 embeddings of length 1 with typical metadata.

``python -m tests.benchmarks.data FOLDER --records N --dimension N --files N [--one-row-group] [--changed N] [--tenants N
[--shuffled]]`` writes them in bounded memory. The files have the defaults of the Parquet writer (snappy, pages of 1 MB), with row groups of 10,000 records.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_CHUNK = 10_000
_WORDS = [
    "river",
    "signal",
    "harbour",
    "copper",
    "orchard",
    "lantern",
    "meadow",
    "granite",
    "violet",
    "compass",
    "ember",
]
_TOPICS = ["science", "history", "travel", "music", "finance", "sport", "health", "law"]
_LANGUAGES = ["en", "de", "fr", "pt"]


def batches(records: int, dimension: int, seed: int) -> Iterator[pa.RecordBatch]:
    """Yield records in chunks of 10,000. The same arguments give the same records."""
    random = np.random.default_rng(seed)
    for start in range(0, records, _CHUNK):
        count = min(_CHUNK, records - start)
        vectors = random.standard_normal((count, dimension), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        ids = [f"document-{seed:02}-{row:07}" for row in range(start, start + count)]
        yield pa.RecordBatch.from_pydict(
            {
                "id": pa.array(ids),
                "values": pa.ListArray.from_arrays(
                    pa.array(np.arange(0, (count + 1) * dimension, dimension, dtype=np.int32)),
                    pa.array(vectors.reshape(-1)),
                ),
                "metadata": _metadata(random, count),
            }
        )


def _metadata(random: np.random.Generator, count: int) -> pa.StructArray:
    def picks(texts: list[str]) -> pa.Array:
        return pa.array(texts).take(pa.array(random.integers(0, len(texts), count)))

    return pa.StructArray.from_arrays(
        [
            pc.binary_join_element_wise(*(picks(_WORDS) for _ in range(5)), " "),
            picks(_TOPICS),
            picks(_LANGUAGES),
            pa.array(random.integers(1990, 2027, count)),
            pa.array(random.random(count) < 0.8),
            pa.array(random.random(count).round(3)),
        ],
        names=["title", "topic", "language", "year", "published", "score"],
    )


def changed(chunk: pa.RecordBatch, every: int) -> pa.RecordBatch:
    """Return a chunk in which each record whose row is divisible by ``every`` has another vector and another title."""
    is_changed = np.arange(len(chunk)) % every == 0
    values, metadata = chunk.column("values"), chunk.column("metadata")
    vectors = values.values.to_numpy().reshape(len(chunk), -1).copy()
    vectors[is_changed] *= -1
    title, *others = metadata.flatten()
    title = pc.if_else(pa.array(is_changed), pc.binary_join_element_wise("revised", title, " "), title)
    return pa.RecordBatch.from_pydict(
        {
            "id": chunk.column("id"),
            "values": pa.ListArray.from_arrays(values.offsets, pa.array(vectors.reshape(-1))),
            "metadata": pa.StructArray.from_arrays([title, *others], names=[field.name for field in metadata.type]),
        }
    )


def with_tenants(chunks: Iterator[pa.RecordBatch], tenants: np.ndarray) -> Iterator[pa.RecordBatch]:
    """
    Add the column ``tenant``.

    :param tenants: The number of the tenant of each record, in order.
    """
    start = 0
    for chunk in chunks:
        names = [f"tenant-{number:03}" for number in tenants[start : start + len(chunk)]]
        start += len(chunk)
        yield chunk.append_column("tenant", pa.array(names))


def write(path: Path, chunks: Iterator[pa.RecordBatch]) -> None:
    """Write a file with one row group for each chunk."""
    first = next(chunks)
    with pq.ParquetWriter(path, first.schema) as writer:
        for chunk in chain([first], chunks):
            writer.write_batch(chunk)


def write_one_row_group(path: Path, chunks: Iterator[pa.RecordBatch]) -> None:
    """Write a file with a single row group. The writer needs all of it at once, so the table is mapped from disk."""
    spool = path.with_suffix(".arrow")
    first = next(chunks)
    with pa.OSFile(str(spool), "wb") as sink, pa.ipc.new_file(sink, first.schema) as writer:
        for chunk in chain([first], chunks):
            writer.write_batch(chunk)
    with pa.memory_map(str(spool)) as mapped:
        table = pa.ipc.open_file(mapped).read_all()
        pq.write_table(table, path, row_group_size=len(table))
    spool.unlink()


def main() -> None:
    """Write the files ``part-0.parquet``, ``part-1.parquet`` …, all of the same size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--records", type=int, required=True, help="in each file")
    parser.add_argument("--dimension", type=int, required=True)
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument("--one-row-group", action="store_true")
    parser.add_argument("--changed", type=int, metavar="N", help="every N-th record is another one than without this")
    parser.add_argument("--tenants", type=int, metavar="N", help="add a column of N tenants, with as many records each")
    parser.add_argument("--shuffled", action="store_true", help="in random order instead of sorted by tenant")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    write_file = write_one_row_group if arguments.one_row_group else write
    for number in range(arguments.files):
        path = arguments.folder / f"part-{number}.parquet"
        chunks = batches(arguments.records, arguments.dimension, seed=number)
        if arguments.changed:
            chunks = (changed(chunk, arguments.changed) for chunk in chunks)
        if arguments.tenants:
            tenants = np.arange(arguments.records) * arguments.tenants // arguments.records
            if arguments.shuffled:
                np.random.default_rng(number).shuffle(tenants)
            chunks = with_tenants(chunks, tenants)
        write_file(path, chunks)
    print("{}")


if __name__ == "__main__":
    main()
