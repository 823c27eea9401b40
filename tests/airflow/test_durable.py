"""A task resumes where its last try ended: real task processes, and Airflow's task state store."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_pinecone_upsert.emulator import Fault
from tests.state_store import checkpoint_of

from .supervised import wait_until

UPSERT = "/vectors/upsert"
NOT_BELIEVABLE = Fault.body(200, b'{"upsertedCount":999}', "application/json")
"""A count that is too high fails the try at once, and Airflow may retry it."""

RECORDS = 10_000
HALF = RECORDS // 2
TASK = """
PineconeUpsertOperator(
    task_id="upsert",
    parquet_paths="{paths}",
    namespace="n",
    batch_size=100,
    max_concurrency=2,
    max_requests_per_second=40,
    {more}
)
"""
COUNTING_STORAGE = '''
import fsspec
from airflow.sdk.io import attach
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem


class CountingStorage(DirFileSystem):
    """A remote storage that records the number of bytes of each read."""

    protocol = "counting"

    def open(self, path, mode="rb", **options):
        handle = super().open(path, mode)
        read = handle.read

        def read_and_count(*arguments):
            data = read(*arguments)
            with open("{folder}/bytes", "a") as counts:
                counts.write(f"{{len(data)}}\\n")
            return data

        handle.read = read_and_count
        return handle


fsspec.register_implementation("counting", CountingStorage, clobber=True)
attach("counting", fs=CountingStorage("{folder}", LocalFileSystem()))
'''


def write(folder, *, bad_rows=()):
    """Write ten row groups of a thousand records each."""
    values = np.random.default_rng(1).standard_normal((RECORDS, 8), dtype=np.float32)
    values[list(bad_rows)] = np.nan
    table = pa.table({
        "id": [f"r{row}" for row in range(RECORDS)],
        "values": pa.FixedSizeListArray.from_arrays(values.ravel(), 8),
        "others": pa.FixedSizeListArray.from_arrays(-values.ravel(), 8),
    })  # fmt: skip
    pq.write_table(table, folder / "a.parquet", row_group_size=1_000, compression=None, use_dictionary=False)


def upserts(index, since=0):
    return [request for request in list(index.requests) if request.path == UPSERT][since:]


def fail_halfway(run, index, fault=None):
    """Let a try fail when half of the records are stored. Return the stored ids and the number of requests."""
    run.start()
    wait_until(lambda: len(upserts(index)) >= HALF // 100)
    index.faults.next(fault or NOT_BELIEVABLE, path=UPSERT)
    state = run.wait()
    assert state == ("failed" if fault else "up_for_retry")
    return set(index.vectors("n")), len(upserts(index))


def ids_of(requests):
    return {record_id for request in requests for record_id in request.ids}


def test_a_retry_resumes_after_the_confirmed_rows_and_reads_no_more(task_processes, pinecone_index, tmp_path):
    write(tmp_path)
    run = task_processes(
        TASK.format(paths="counting:///a.parquet", more=""), preamble=COUNTING_STORAGE.format(folder=tmp_path)
    )
    confirmed, request_count = fail_halfway(run, pinecone_index)
    assert checkpoint_of(run.store)["position"][1] >= HALF - 1_000
    assert run.store["progress"]["records"] == len(confirmed)
    (tmp_path / "bytes").unlink()
    assert run.try_once() == "success"
    assert not ids_of(upserts(pinecone_index, request_count)) & confirmed
    assert len(pinecone_index.vectors("n")) == RECORDS
    output = run.output()
    assert (output["upsertedCount"], output["resumedCount"]) == (RECORDS, len(confirmed))
    assert output["requestCount"] == len(upserts(pinecone_index))
    read = sum(map(int, (tmp_path / "bytes").read_text().split()))
    # It reads from the row group of the first unconfirmed row on, that is at most six of ten, and two of three columns.
    assert read < (tmp_path / "a.parquet").stat().st_size * 0.6
    assert set(run.store) == {"progress"}
    assert run.store["progress"]["percent"] == 100.0


def test_clearing_resumes_a_failed_task_and_restarts_a_successful_one(task_processes, pinecone_index, tmp_path):
    write(tmp_path)
    run = task_processes(TASK.format(paths=tmp_path, more=""))
    confirmed, request_count = fail_halfway(run, pinecone_index, Fault.status(401, "Invalid API Key"))
    run.clear()
    assert run.try_once() == "success"
    assert not ids_of(upserts(pinecone_index, request_count)) & confirmed
    assert run.output()["resumedCount"] == len(confirmed)
    request_count = len(upserts(pinecone_index))
    run.clear()
    assert run.try_once() == "success"
    assert len(ids_of(upserts(pinecone_index, request_count))) == RECORDS
    assert (run.output()["upsertedCount"], run.output()["resumedCount"]) == (RECORDS, 0)


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ('namespace="n"', "the namespace"),
        ('task_id="upsert"', "the columns"),
        (None, "the files"),
    ],
)
def test_a_change_restarts_at_the_first_row_and_is_logged(task_processes, pinecone_index, tmp_path, change, changed):
    write(tmp_path)
    run = task_processes(TASK.format(paths=tmp_path, more=""))
    _, request_count = fail_halfway(run, pinecone_index)
    if change is None:
        write(tmp_path)  # the same content with another modification time
    else:
        replacements = {
            'namespace="n"': 'namespace="other"',
            'task_id="upsert"': 'task_id="upsert", values_column="others"',
        }
        run.dag_file.write_text(run.dag_file.read_text().replace(change, replacements[change]))
    assert run.try_once() == "success"
    assert len(ids_of(upserts(pinecone_index, request_count))) == RECORDS
    assert (
        f"The checkpoint of an earlier try is not used. Changed since then: {changed}. Starting at the first row."
        in run.log
    )
    assert (run.output()["upsertedCount"], run.output()["resumedCount"]) == (RECORDS, 0)


def test_without_durable_each_try_starts_at_the_first_row(task_processes, pinecone_index, tmp_path):
    write(tmp_path)
    run = task_processes(TASK.format(paths=tmp_path, more="durable=False"))
    _, request_count = fail_halfway(run, pinecone_index)
    assert run.store == {}
    assert run.try_once() == "success"
    assert len(ids_of(upserts(pinecone_index, request_count))) == RECORDS
    assert run.output()["resumedCount"] == 0


def test_vectors_have_no_checkpoint(task_processes, pinecone_index):
    run = task_processes(
        'PineconeUpsertOperator(task_id="upsert", vectors=[(str(n), [1.0] * 8) for n in range(20)], batch_size=10)'
    )
    pinecone_index.faults.next(NOT_BELIEVABLE, path=UPSERT)
    assert run.try_once() == "up_for_retry"
    assert run.store == {}
    request_count = len(upserts(pinecone_index))
    assert run.try_once() == "success"
    assert len(ids_of(upserts(pinecone_index, request_count))) == 20


@pytest.mark.parametrize(("max_rejects", "state"), [(3, "failed"), (4, "success")])
def test_rejects_are_counted_over_all_tries(task_processes, pinecone_index, tmp_path, max_rejects, state):
    write(tmp_path, bad_rows=(10, 20, RECORDS - 20, RECORDS - 10))
    more = f'max_rejects={max_rejects}, rejects_path="{tmp_path}/rejects"'
    run = task_processes(TASK.format(paths=tmp_path / "a.parquet", more=more))
    fail_halfway(run, pinecone_index)
    assert run.try_once() == state
    files = sorted((tmp_path / "rejects").iterdir())
    assert len(files) == 2
    rejected = {record_id for file in files for record_id in pq.read_table(file)["id"].to_pylist()}
    assert rejected == {f"r{row}" for row in (10, 20, RECORDS - 20, RECORDS - 10)}
    if state == "success":
        output = run.output()
        assert (output["upsertedCount"], output["rejectedCount"]) == (RECORDS - 4, 4)
        assert sorted(output["rejectsPaths"]) == list(map(str, files))


def test_without_a_task_state_store_each_try_starts_at_the_first_row(pinecone_index, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    from airflow_pinecone_upsert import PineconeUpsertOperator

    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", pinecone_index.connection_json())
    write(tmp_path)
    operator = PineconeUpsertOperator(task_id="upsert", parquet_paths=str(tmp_path), max_requests_per_second=None)
    for tries in (1, 2):
        caplog.clear()
        output = operator.execute({})
        assert (output["upsertedCount"], output["resumedCount"]) == (RECORDS, 0)
        assert len(upserts(pinecone_index)) == tries * 10
        assert caplog.text.count("There is no task state store") == 1
