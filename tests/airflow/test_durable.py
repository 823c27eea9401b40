"""A task that goes on where its last try ended, in task processes of their own and with Airflow's task state store."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_pinecone_upsert.emulator import Fault

from .supervised import task_processes, wait_until, worker  # noqa: F401 - fixtures

UPSERT = "/vectors/upsert"
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
    """A remote storage that writes down how many bytes each read brings."""

    protocol = "counting"

    def open(self, path, mode="rb", **options):
        handle = super().open(path, mode)
        read = handle.read

        def read_and_count(*arguments):
            found = read(*arguments)
            with open("{folder}/bytes", "a") as counts:
                counts.write(f"{{len(found)}}\\n")
            return found

        handle.read = read_and_count
        return handle


fsspec.register_implementation("counting", CountingStorage, clobber=True)
attach("counting", fs=CountingStorage("{folder}", LocalFileSystem()))
'''


def write(folder, *, bad_rows=()):
    """Write ten row groups of a thousand records."""
    values = np.random.default_rng(1).standard_normal((RECORDS, 8), dtype=np.float32)
    values[list(bad_rows)] = np.nan
    table = pa.table({
        "id": [f"r{row}" for row in range(RECORDS)],
        "values": pa.FixedSizeListArray.from_arrays(values.ravel(), 8),
        "others": pa.FixedSizeListArray.from_arrays(-values.ravel(), 8),
    })  # fmt: skip
    pq.write_table(table, folder / "a.parquet", row_group_size=1_000, compression=None, use_dictionary=False)


def sent(index, since=0):
    return [request for request in list(index.requests) if request.path == UPSERT][since:]


def fail_half_way(run, index, fault=None):
    """Let a try fail once half of the records are there; return the ids that are, and how many requests it took."""
    run.start()
    wait_until(lambda: len(sent(index)) >= HALF // 100)
    index.faults.next(fault or Fault.short_count(0), path=UPSERT)
    state = run.wait()
    assert state == ("failed" if fault else "up_for_retry")
    return set(index.vectors("n")), len(sent(index))


def ids_of(requests):
    return {one for request in requests for one in request.ids}


def test_a_retry_goes_on_behind_what_is_confirmed_and_reads_no_more_than_it_needs(
    task_processes, pinecone_index, tmp_path  # noqa: F811
):  # fmt: skip
    write(tmp_path)
    run = task_processes(
        TASK.format(paths="counting:///a.parquet", more=""), before=COUNTING_STORAGE.format(folder=tmp_path)
    )
    confirmed, before = fail_half_way(run, pinecone_index)
    assert run.store["checkpoint"]["place"][1] >= HALF - 1_000
    assert run.store["progress"]["records"] == len(confirmed)
    (tmp_path / "bytes").unlink()
    assert run.try_once() == "success"
    assert not ids_of(sent(pinecone_index, before)) & confirmed
    assert len(pinecone_index.vectors("n")) == RECORDS
    output = run.output()
    assert (output["upsertedCount"], output["resumedCount"]) == (RECORDS, len(confirmed))
    assert output["requestCount"] == len(sent(pinecone_index))
    read = sum(map(int, (tmp_path / "bytes").read_text().split()))
    # From the row group of the first unconfirmed row on: six of ten at the most, of three columns two.
    assert read < (tmp_path / "a.parquet").stat().st_size * 0.6
    assert set(run.store) == {"progress"}
    assert run.store["progress"]["percent"] == 100.0


def test_a_failed_run_that_is_cleared_goes_on_and_a_successful_one_starts_afresh(
    task_processes, pinecone_index, tmp_path  # noqa: F811
):  # fmt: skip
    write(tmp_path)
    run = task_processes(TASK.format(paths=tmp_path, more=""))
    confirmed, before = fail_half_way(run, pinecone_index, Fault.status(401, "Invalid API Key"))
    run.clear()
    assert run.try_once() == "success"
    assert not ids_of(sent(pinecone_index, before)) & confirmed
    assert run.output()["resumedCount"] == len(confirmed)
    before = len(sent(pinecone_index))
    run.clear()
    assert run.try_once() == "success"
    assert len(ids_of(sent(pinecone_index, before))) == RECORDS
    assert (run.output()["upsertedCount"], run.output()["resumedCount"]) == (RECORDS, 0)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ('namespace="n"', "the namespace"),
        ('task_id="upsert"', "the columns"),
        (None, "the files"),
    ],
)
def test_what_is_not_as_before_starts_at_the_first_row_and_says_why(
    task_processes, pinecone_index, tmp_path, change, what  # noqa: F811
):  # fmt: skip
    write(tmp_path)
    run = task_processes(TASK.format(paths=tmp_path, more=""))
    _, before = fail_half_way(run, pinecone_index)
    if change is None:
        write(tmp_path)  # the same content, at another time
    else:
        other = {'namespace="n"': 'namespace="other"', 'task_id="upsert"': 'task_id="upsert", values_column="others"'}
        run.dag_file.write_text(run.dag_file.read_text().replace(change, other[change]))
    assert run.try_once() == "success"
    assert len(ids_of(sent(pinecone_index, before))) == RECORDS
    assert f"Changed since the earlier try: {what}. Starting at the first row." in run.said
    assert (run.output()["upsertedCount"], run.output()["resumedCount"]) == (RECORDS, 0)


def test_without_durable_each_try_starts_at_the_first_row(task_processes, pinecone_index, tmp_path):  # noqa: F811
    write(tmp_path)
    run = task_processes(TASK.format(paths=tmp_path, more="durable=False"))
    _, before = fail_half_way(run, pinecone_index)
    assert run.store == {}
    assert run.try_once() == "success"
    assert len(ids_of(sent(pinecone_index, before))) == RECORDS
    assert run.output()["resumedCount"] == 0


def test_vectors_have_no_checkpoint(task_processes, pinecone_index):  # noqa: F811
    run = task_processes(
        'PineconeUpsertOperator(task_id="upsert", vectors=[(str(n), [1.0] * 8) for n in range(20)], batch_size=10)'
    )
    pinecone_index.faults.next(Fault.short_count(0), path=UPSERT)
    assert run.try_once() == "up_for_retry"
    assert run.store == {}
    before = len(sent(pinecone_index))
    assert run.try_once() == "success"
    assert len(ids_of(sent(pinecone_index, before))) == 20


@pytest.mark.parametrize(("max_rejects", "state"), [(3, "failed"), (4, "success")])
def test_rejects_are_counted_over_all_tries(task_processes, pinecone_index, tmp_path, max_rejects, state):  # noqa: F811
    write(tmp_path, bad_rows=(10, 20, RECORDS - 20, RECORDS - 10))
    more = f'max_rejects={max_rejects}, rejects_path="{tmp_path}/rejects"'
    run = task_processes(TASK.format(paths=tmp_path / "a.parquet", more=more))
    fail_half_way(run, pinecone_index)
    assert run.try_once() == state
    files = sorted((tmp_path / "rejects").iterdir())
    assert len(files) == 2
    rejected = {one for file in files for one in pq.read_table(file)["id"].to_pylist()}
    assert rejected == {f"r{row}" for row in (10, 20, RECORDS - 20, RECORDS - 10)}
    if state == "success":
        output = run.output()
        assert (output["upsertedCount"], output["rejectedCount"]) == (RECORDS - 4, 4)
        assert sorted(output["rejectsPaths"]) == list(map(str, files))


def test_an_airflow_without_a_store_starts_at_the_first_row_and_says_so_once(
    pinecone_index, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO")
    from airflow_pinecone_upsert import PineconeUpsertOperator

    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", pinecone_index.connection_json())
    write(tmp_path)
    operator = PineconeUpsertOperator(task_id="upsert", parquet_paths=str(tmp_path), max_requests_per_second=None)
    for tries in (1, 2):
        caplog.clear()
        output = operator.execute({})
        assert (output["upsertedCount"], output["resumedCount"]) == (RECORDS, 0)
        assert len(sent(pinecone_index)) == tries * 10
        assert caplog.text.count("has no task state store") == 1
