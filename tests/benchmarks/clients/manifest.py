"""
A manifest of many records: load it, compare every record with it, and compact it, as a night does, without a source.

``make`` writes the manifest, ``use`` does the rest.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator

import fsspec
import numpy as np
import pyarrow as pa

from airflow_pinecone_upsert.reindex.digest import RecordDigests, digest_ids
from airflow_pinecone_upsert.reindex.entries import DIGEST_BYTES, known_entries
from airflow_pinecone_upsert.reindex.id_table import IdTable
from airflow_pinecone_upsert.reindex.manifest import Manifest, ManifestFolder, Target, new_run_id

_TARGET = Target("https://bench.svc.pinecone.io", "", {}, "bench", 1)
_CHUNK = 1 << 12
"""Records that are compared at once: a chunk of the source has about as many, or fewer."""

_BATCH = 1 << 16
_RECORD_BYTES = 6_400


def entries(rows: range) -> Iterator[pa.RecordBatch]:
    """Yield entries with random digests, which begin as those of real records do: with some bytes of the id's own."""
    random = np.random.default_rng(0)
    for start in range(rows.start, rows.stop, _BATCH):
        ids = [f"document-00-{row:08}" for row in rows[start - rows.start :][:_BATCH]]
        digests = random.integers(0, 256, (len(ids), DIGEST_BYTES), dtype=np.uint8)
        digests.view(np.uint32)[:, 0] = digest_ids(pa.array(ids)).checks
        yield known_entries(ids, [row.tobytes() for row in digests], [_RECORD_BYTES] * len(ids))


def records_of(batch: pa.RecordBatch) -> RecordDigests:
    """Return the digests that reading the records of these entries yields, if none has changed."""
    count = len(batch)
    content = np.frombuffer(batch.column("digest").buffers()[1], np.uint64).reshape(-1, 2)
    digests = content[batch.column("digest").offset :][:count].copy()
    hashes = digest_ids(batch.column("id")).hashes
    return RecordDigests(hashes, digests, np.full(count, _RECORD_BYTES), np.ones(count, bool))


class Stopwatch:
    """Adds up the CPU time of some calls. This process has one thread, but for those of Arrow."""

    def __init__(self) -> None:
        self.cpu_s = 0.0

    def time(self, call: Callable[[], object]) -> None:
        started_s = time.process_time()
        call()
        self.cpu_s += time.process_time() - started_s


def use(folder: ManifestFolder) -> dict[str, float]:
    """Load, compare and compact; return how long each took."""
    started_s = time.monotonic()
    manifest = Manifest.open(folder, _TARGET, new_run_id())
    table = IdTable(manifest.entries())
    loaded_s = time.monotonic()
    compared = Stopwatch()
    unchanged = 0
    for batch in manifest.entries():
        for start in range(0, len(batch), _CHUNK):
            records = records_of(batch.slice(start, _CHUNK))
            compared.time(lambda records=records: table.compare(records))
            unchanged += len(records.id_hashes)
    if table.unseen_count:
        raise RuntimeError(f"{table.unseen_count:,} of {len(table):,} records were not found.")
    compaction_s = time.monotonic()
    _change_one(manifest, table, unchanged)
    manifest.commit(table.latest(manifest.entries))
    return {
        "records": unchanged,
        "load_s": loaded_s - started_s,
        "compare_s": compared.cpu_s,
        "compaction_s": time.monotonic() - compaction_s,
    }


def _change_one(manifest: Manifest, table: IdTable, row: int) -> None:
    """Confirm one new record: a manifest in which nothing has changed is not compacted."""
    (entry,) = entries(range(row, row + 1))
    records = records_of(entry)
    table.update(records.id_hashes, records.digests)
    manifest.append(*(entry.column(name).to_pylist() for name in ("id", "digest", "bytes")))
    manifest.flush()


def main() -> None:
    """Write or use a manifest; without a folder, only import what that needs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["make", "use"])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--records", type=int)
    arguments = parser.parse_args()
    if not arguments.folder:
        print("{}")
        return
    folder = ManifestFolder(fsspec.filesystem("file"), arguments.folder)
    if arguments.action == "make":
        Manifest.open(folder, _TARGET, new_run_id()).commit(entries(range(arguments.records)), {})
        print("{}")
    else:
        print(json.dumps(use(folder)))


if __name__ == "__main__":
    main()
