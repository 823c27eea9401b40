"""A cancelled task: no request is started, those in flight get two seconds to finish, and the next try resumes."""

from __future__ import annotations

import signal
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_pinecone_upsert.emulator import Fault
from airflow_pinecone_upsert.exceptions import IncompleteUpsertError
from tests.state_store import InMemoryStateStore, checkpoint_of

from .supervised import wait_until

EXITS_WITHIN_S = 4.0
"""Airflow kills a task process five seconds after SIGTERM."""

FOREVER_S = 3_600
UPSERT = "/vectors/upsert"
RECORDS = 999
TASK = """
PineconeUpsertOperator(
    task_id="upsert",
    parquet_paths="{paths}",
    batch_size=10,
    max_requests_per_second=None,
    max_rejects=1,
    rejects_path="{folder}/rejects",
    {more}
)
"""
BLOCKING_STORAGE = '''
import time
from pathlib import Path

import fsspec
from airflow.sdk.io import attach
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem


class BlockingStorage(DirFileSystem):
    """A remote storage that blocks once, and creates the file `blocked` when it does."""

    protocol = "blocking"

    def block(self):
        marker = Path("{folder}/blocked")
        if not marker.exists():
            marker.touch()
            time.sleep(3_600)

    def info(self, path, **options):
        if {blocks_on!r} == "info":
            self.block()
        return super().info(path, **options)

    def open(self, path, mode="rb", **options):
        handle = super().open(path, mode)
        read = handle.read

        def read_or_block(*arguments):
            if {blocks_on!r} == "read":
                self.block()
            return read(*arguments)

        handle.read = read_or_block
        return handle


fsspec.register_implementation("blocking", BlockingStorage, clobber=True)
attach("blocking", fs=BlockingStorage("{folder}", LocalFileSystem()))
'''


@pytest.fixture
def folder(tmp_path):
    """Write a file of a thousand records, one of them invalid."""
    values = [np.full(8, row + 1, np.float32) for row in range(RECORDS + 1)]
    values[3] = np.full(8, np.nan, np.float32)
    pq.write_table(
        pa.table({"id": [f"r{row}" for row in range(RECORDS + 1)], "values": values}), tmp_path / "a.parquet"
    )
    return tmp_path


def upserts(index):
    return [request for request in list(index.requests) if request.path == UPSERT]


def terminate(run):
    """Send SIGTERM. The process exits in time, and Airflow will retry the task."""
    started_s = time.monotonic()
    run.signal(signal.SIGTERM)
    wait_until(lambda: run.has_exited)
    elapsed_s = time.monotonic() - started_s
    assert run.wait() == "up_for_retry"
    assert elapsed_s < EXITS_WITHIN_S


def retry_without_resending(confirmed, run, index):
    """Run the next try. It sends no confirmed record again, and all records are stored in the end."""
    request_count = len(upserts(index))
    assert run.try_once() == "success"
    assert not {record_id for request in upserts(index)[request_count:] for record_id in request.ids} & confirmed
    output = run.output()
    assert (output["upsertedCount"], output["resumedCount"]) == (RECORDS, len(confirmed))
    assert (output["rejectedCount"], len(index.vectors())) == (1, RECORDS)


def rejected_ids(folder):
    files = (folder / "rejects").iterdir()
    return {record_id for file in files for record_id in pq.read_table(file)["id"].to_pylist()}


def test_requests_in_flight_finish_and_no_more_are_sent(task_processes, pinecone_index, folder):
    pinecone_index.faults.next(Fault.stall(1.2), times=8, path=UPSERT)
    run = task_processes(TASK.format(paths=folder / "a.parquet", folder=folder, more=""))
    run.start()
    wait_until(lambda: not pinecone_index.faults.pending)
    terminate(run)
    assert "The upsert was cancelled" in run.log_file.read_text()
    assert [request.record_count for request in upserts(pinecone_index)] == [10] * 8
    assert checkpoint_of(run.store)["counts"]["upsertedCount"] == 80
    assert rejected_ids(folder) == {"r3"}
    retry_without_resending(set(pinecone_index.vectors()), run, pinecone_index)


def hang_seven_requests(index):
    """Let seven requests hang. All others succeed."""
    index.faults.next(Fault.stall(FOREVER_S), times=7, path=UPSERT)


def all_others_are_confirmed(index):
    return len(index.vectors()) == RECORDS - 70


def test_sigterm_while_requests_hang(task_processes, pinecone_index, folder):
    hang_seven_requests(pinecone_index)
    run = task_processes(TASK.format(paths=folder / "a.parquet", folder=folder, more=""))
    run.start()
    wait_until(lambda: all_others_are_confirmed(pinecone_index))
    terminate(run)
    assert rejected_ids(folder) == {"r3"}
    retry_without_resending(set(pinecone_index.vectors()), run, pinecone_index)


def test_task_timeout_while_requests_hang(task_processes, pinecone_index, folder):
    hang_seven_requests(pinecone_index)
    more = "execution_timeout=timedelta(seconds=15)"
    run = task_processes(TASK.format(paths=folder / "a.parquet", folder=folder, more=more))
    run.start()
    wait_until(lambda: "Process timed out" in run.log)
    started_s = time.monotonic()
    wait_until(lambda: run.has_exited)
    assert time.monotonic() - started_s < EXITS_WITHIN_S
    assert run.wait() == "up_for_retry"
    assert "AirflowTaskTimeout" in run.log_file.read_text()
    retry_without_resending(set(pinecone_index.vectors()), run, pinecone_index)


@pytest.mark.parametrize("blocks_on", ["info", "read"])
def test_sigterm_while_a_remote_storage_blocks(task_processes, pinecone_index, folder, blocks_on):
    run = task_processes(
        TASK.format(paths="blocking:///a.parquet", folder=folder, more=""),
        preamble=BLOCKING_STORAGE.format(folder=folder, blocks_on=blocks_on),
    )
    run.start()
    wait_until((folder / "blocked").exists)
    terminate(run)
    assert upserts(pinecone_index) == []
    retry_without_resending(set(), run, pinecone_index)


def test_sigterm_while_the_first_request_hangs(task_processes, pinecone_index, folder):
    pinecone_index.faults.next(Fault.stall(FOREVER_S), path="/describe_index_stats")
    run = task_processes(TASK.format(paths=folder / "a.parquet", folder=folder, more=""))
    run.start()
    wait_until(lambda: not pinecone_index.faults.pending)
    terminate(run)
    assert upserts(pinecone_index) == []
    retry_without_resending(set(), run, pinecone_index)


def test_on_kill_from_another_thread(pinecone_index, folder, monkeypatch):
    from airflow_pinecone_upsert import PineconeUpsertOperator

    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", pinecone_index.connection_json())
    hang_seven_requests(pinecone_index)
    store = InMemoryStateStore()
    operator = PineconeUpsertOperator(
        task_id="upsert", parquet_paths=str(folder / "a.parquet"), batch_size=10, max_rejects=1
    )

    def cancel():
        wait_until(lambda: all_others_are_confirmed(pinecone_index))
        operator.on_kill()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(IncompleteUpsertError, match="was cancelled"):
        operator.execute({"task_state_store": store})
    thread.join()
    assert checkpoint_of(store)["counts"]["upsertedCount"] == RECORDS - 70
    output = operator.execute({"task_state_store": store})
    assert (output["upsertedCount"], output["resumedCount"]) == (RECORDS, RECORDS - 70)
    assert len(pinecone_index.vectors()) == RECORDS
