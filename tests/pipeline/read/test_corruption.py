"""
6,000 corrupt Parquet files: reading each one ends in an error that names the file, or returns what the file contains.

They are read in other processes, so that a crash, a hang or unbounded memory is detected and attributed to its file.
"""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.parquet.encryption import CryptoFactory, EncryptionConfiguration, KmsClient, KmsConnectionConfig

from airflow_pinecone_upsert.exceptions import PineconeUpsertError, SourceError
from tests.pipeline.read import corrupt_files

GROUP = 50
SLOW_GROUP = 500
MAX_MB = 2_300
"""The header of a page may claim 2 GB, which Arrow allocates for a moment. Usually 150 MB are used."""

DATA_CORRUPTIONS = {"data bits flipped", "bytes lost", "data swapped"}


def groups(first, end, size):
    return [pytest.param(start, id=f"seeds {start} to {start + size - 1}") for start in range(first, end, size)]


def check(folder, start, size):
    command = [sys.executable, Path(corrupt_files.__file__), folder, str(start), str(start + size)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    results = [json.loads(line) for line in process.stdout.splitlines()]
    assert process.returncode == 0, f"seed {start + len(results)}: {process.returncode} {process.stderr}"
    assert [result["seed"] for result in results] == list(range(start, start + size))
    for result in results:
        check_one(result, str(folder / f"{result['seed']}.parquet"))
    return results


def check_one(result, path):
    assert result["peak_mb"] < MAX_MB, result
    is_data_corrupt = result["kind"] in DATA_CORRUPTIONS
    if "error" in result:
        assert result["class"] == "SourceError", result
        assert path in result["error"], result
        if is_data_corrupt:
            place = r"row groups? \d+, column '|rows \d+ to \d+ .*column '|is corrupt"
            assert re.search(place, result["error"]), result
        return
    assert result["count"] + len(result["errors"]) == corrupt_files.ROWS, result
    assert all(path in error for error in result["errors"]), result
    if "arrow" in result:
        arrow = result["arrow"]
        assert (result["count"], result["digest"]) == (arrow["count"], arrow["digest"]), result
    if is_data_corrupt and result["number"] < corrupt_files.CHECKSUM_FILES:
        assert result["digest"] == valid_digest(result["number"]), result


def valid_digest(number):
    table = pq.read_table(pa.BufferReader(corrupt_files.valid_file(number)))
    return corrupt_files.digest(table["id"].to_pylist(), table["values"].to_pylist())


@pytest.mark.parametrize("start", groups(0, 100, GROUP))
def test_a_corrupt_file_is_named_or_read_correctly(tmp_path, start):
    results = check(tmp_path, start, GROUP)
    assert sum("error" in result for result in results) > GROUP / 2


@pytest.mark.slow
@pytest.mark.parametrize("start", groups(100, 6_000, SLOW_GROUP))
def test_more_corrupt_files_are_named_or_read_correctly(tmp_path, start):
    check(tmp_path, start, min(SLOW_GROUP, 6_000 - start))


HISTOGRAM = b"\x19\x26\x02\x02"
"""In a footer: how many values have each definition level, a list of two numbers that are 1."""


def test_a_footer_that_would_end_the_process_is_rejected(tmp_path):
    """Arrow calls ``std::terminate`` where pyarrow asks for the metadata of such a column."""
    check_in_another_process(tmp_path, with_a_short_histogram(tmp_path), "Definition level histogram size mismatch")


def test_a_file_with_encrypted_columns_is_rejected(tmp_path):
    check_in_another_process(tmp_path, with_an_encrypted_column(tmp_path), "encrypted columns are not supported")


def with_a_short_histogram(folder):
    table = pa.table({"id": ["a", "b"], "values": [[1.0] * corrupt_files.DIMENSION] * 2, "metadata": ["{}", None]})
    pq.write_table(table, folder / "valid.parquet")
    content = (folder / "valid.parquet").read_bytes()
    start = content.rindex(HISTOGRAM)
    footer_bytes = int.from_bytes(content[-8:-4], "little") - 1
    shorter = content[:start] + b"\x19\x16\x02" + content[start + len(HISTOGRAM) : -8]
    return shorter + footer_bytes.to_bytes(4, "little") + b"PAR1"


class PlainKeys(KmsClient):
    """Keeps keys as they are."""

    def wrap_key(self, key_bytes, _):
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key, _):
        return base64.b64decode(wrapped_key)


def with_an_encrypted_column(folder):
    table = pa.table({"id": ["a"], "values": [[1.0] * corrupt_files.DIMENSION], "metadata": ["{}"]})
    configuration = EncryptionConfiguration(footer_key="f", column_keys={"m": ["metadata"]}, plaintext_footer=True)
    factory = CryptoFactory(lambda _: PlainKeys())
    properties = factory.file_encryption_properties(KmsConnectionConfig(), configuration)
    with pq.ParquetWriter(folder / "valid.parquet", table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    return (folder / "valid.parquet").read_bytes()


def check_in_another_process(folder, content, message):
    path = folder / "bad.parquet"
    path.write_bytes(content)
    command = [sys.executable, Path(corrupt_files.__file__), path]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    assert result["class"] == "SourceError"
    assert result["error"].startswith(f"{path}, row group 0 cannot be read as Parquet: ")
    assert message in result["error"]


def test_the_count_for_a_corrupt_file_is_what_the_index_stores(pinecone_index_factory, run, tmp_path):
    index = pinecone_index_factory(dimension=corrupt_files.DIMENSION)
    failed = 0
    for seed in range(0, 100, 7):
        path = tmp_path / f"{seed}.parquet"
        path.write_bytes(corrupt_files.corrupt_file(seed)[2])
        namespace = f"seed-{seed}"
        try:
            report = run(index, path, namespace=namespace)
        except PineconeUpsertError:
            failed += 1
        else:
            assert report.upserted_count == corrupt_files.ROWS
        assert run.report.upserted_count == len(index.vectors(namespace))
    assert failed > 5


def test_the_row_group_and_column_of_corruption_are_named(run, index, write, upserts):
    count = 100
    table = pa.table({"id": [f"{n:03}" for n in range(count)], "values": [[1.0, n] for n in range(count)]})
    path = write(table, row_group_size=10, compression="none", use_dictionary=False, write_page_checksum=True)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"077", b"777", 1))
    with pytest.raises(SourceError, match=r"records.parquet, row group 7, column 'id' cannot be read .*CRC.* again"):
        run(index, path)
    assert not upserts(index)


def test_a_page_that_decompresses_to_too_many_bytes_is_rejected_unread(run, index, write, upserts):
    table = pa.table({"id": ["a"], "values": [[1.0, 2.0]], "metadata": ["x" * 260_000_000]})
    path = write(table, compression="zstd", use_dictionary=False, write_statistics=False)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(SourceError, match=r"corrupt: row group 0, column 'metadata': 260,\d+,\d+ bytes in 1 rows"):
        run(index, path)
    assert not upserts(index)


def test_a_footer_with_fewer_rows_than_its_row_groups_is_rejected(run, index, write):
    table = pa.table({"id": [str(n) for n in range(100)], "values": [[1.0, 2.0]] * 100})
    path = write(table, row_group_size=50)
    content = path.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    row_count = content.index(b"\x16\xc8\x01", start)  # field 3 of the footer: 100 rows, in zigzag encoding
    path.write_bytes(content[:row_count] + b"\x16\xc6\x01" + content[row_count + 3 :])
    with pytest.raises(SourceError, match="corrupt: its footer counts 99 rows, and 100 in its row groups"):
        run(index, path)
