"""
Damaged Parquet files, 500 of them: each ends in an error that names the file, or what was read is what stands there.

They are read in processes of their own, so that a crash, a halt or memory without bound is seen and has a culprit.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_pinecone_upsert.exceptions import PineconeUpsertError, SourceError
from tests.pipeline.read import damaged_files as damaged

GROUP = 50
MAX_MB = 2_300
"""A page's own header may claim 2 GB, and Arrow believes it for a moment. Usual are 150 MB."""

CHECKED = 8
"""Files below this number have checksums."""


def groups(first, end):
    return [pytest.param(start, id=f"seeds {start} to {start + GROUP - 1}") for start in range(first, end, GROUP)]


def check(folder, start):
    command = [sys.executable, Path(damaged.__file__), folder, str(start), str(start + GROUP)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 0, f"seed {start + len(told)}: {ended.returncode} {ended.stderr}"
    assert [one["seed"] for one in told] == list(range(start, start + GROUP))
    for one in told:
        check_one(one, str(folder / f"{one['seed']}.parquet"))
    return told


def check_one(one, path):
    assert one["peak_mb"] < MAX_MB, one
    in_pages = one["kind"] in {"bits of the data flipped", "bytes lost", "data exchanged"}
    if "error" in one:
        assert one["class"] == "SourceError", one
        assert path in one["error"], one
        if in_pages:
            assert re.search(r"row groups? \d+, column '|rows \d+ to \d+ .*column '|is damaged", one["error"]), one
        return
    assert one["count"] + len(one["errors"]) == damaged.ROWS, one
    assert all(path in error for error in one["errors"]), one
    if "arrow" in one:
        assert (one["count"], one["digest"]) == (one["arrow"]["count"], one["arrow"]["digest"]), one
    if in_pages and one["number"] < CHECKED:
        assert one["digest"] == undamaged(one["number"]), one


def undamaged(number):
    table = pq.read_table(pa.BufferReader(damaged.whole(number)))
    return damaged.digest(table["id"].to_pylist(), table["values"].to_pylist())


@pytest.mark.parametrize("start", groups(0, 100))
def test_a_damaged_file_is_named_or_read_right(tmp_path, start):
    told = check(tmp_path, start)
    assert sum("error" in one for one in told) > GROUP / 2


@pytest.mark.slow
@pytest.mark.parametrize("start", groups(100, 500))
def test_more_damaged_files_are_named_or_read_right(tmp_path, start):
    check(tmp_path, start)


def test_of_a_damaged_file_nothing_is_claimed_that_is_not_there(pinecone_index_factory, run, tmp_path):
    index = pinecone_index_factory(dimension=damaged.DIMENSION)
    failed = 0
    for seed in range(0, 100, 7):
        path = tmp_path / f"{seed}.parquet"
        path.write_bytes(damaged.damaged(seed)[2])
        namespace = f"seed-{seed}"
        try:
            report = run(index, path, namespace=namespace)
        except PineconeUpsertError as exc:
            failed += 1
            stored = exc.report["upsertedCount"]
        else:
            stored = report.upserted_count
            assert stored == damaged.ROWS
        assert stored == len(index.vectors(namespace))
    assert failed > 5


def test_the_row_group_and_the_column_are_named(run, index, write, upserts):
    count = 100
    table = pa.table({"id": [f"{n:03}" for n in range(count)], "values": [[1.0, n] for n in range(count)]})
    path = write(table, row_group_size=10, compression="none", use_dictionary=False, write_page_checksum=True)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"077", b"777", 1))
    with pytest.raises(SourceError, match=r"records.parquet, row group 7, column 'id' cannot be read .*CRC.* again"):
        run(index, path)
    assert not upserts(index)


def test_a_page_that_unpacks_to_more_than_records_hold_is_refused_unread(run, index, write, upserts):
    table = pa.table({"id": ["a"], "values": [[1.0, 2.0]], "metadata": ["x" * 260_000_000]})
    path = write(table, compression="zstd", use_dictionary=False, write_statistics=False)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(SourceError, match=r"corrupt: row group 0, column 'metadata': 260,\d+,\d+ bytes in 1 rows"):
        run(index, path)
    assert not upserts(index)


def test_a_footer_that_counts_fewer_rows_than_its_row_groups_is_refused(run, index, write):
    table = pa.table({"id": [str(n) for n in range(100)], "values": [[1.0, 2.0]] * 100})
    path = write(table, row_group_size=50)
    content = path.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    zigzag = b"\x16\xc8\x01"  # field 3 of the footer: 100 rows
    at = content.index(zigzag, start)
    path.write_bytes(content[:at] + b"\x16\xc6\x01" + content[at + 3 :])
    with pytest.raises(SourceError, match="corrupt: its footer counts 99 rows, and 100 in its row groups"):
        run(index, path)
