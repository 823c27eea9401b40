"""A task that is told to stop: nothing more is started, what is in flight has two seconds, and the next try goes on."""

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

from .supervised import task_processes, wait_until, worker  # noqa: F401 - fixtures

GONE_WITHIN_S = 4.0
"""Airflow kills a task process five seconds after it has asked it to end."""

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
    """A remote storage that answers until it blocks; it leaves a mark when it does."""

    protocol = "blocking"

    def block(self):
        mark = Path("{folder}/blocked")
        if not mark.exists():
            mark.touch()
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
    """A file of a thousand records, one of them invalid."""
    values = [np.full(8, row + 1, np.float32) for row in range(RECORDS + 1)]
    values[3] = np.full(8, np.nan, np.float32)
    pq.write_table(
        pa.table({"id": [f"r{row}" for row in range(RECORDS + 1)], "values": values}), tmp_path / "a.parquet"
    )
    return tmp_path


def upserts(index):
    return [request for request in list(index.requests) if request.path == UPSERT]


def stop(run):
    """Send SIGTERM: the process is gone in time, and the task is to be tried again."""
    asked_s = time.monotonic()
    run.signal(signal.SIGTERM)
    wait_until(lambda: run.is_gone)
    took_s = time.monotonic() - asked_s
    assert run.wait() == "up_for_retry"
    assert took_s < GONE_WITHIN_S


def succeeds_without(confirmed, run, index):
    """Run the next try; nothing of what is confirmed is sent again, and all is there in the end."""
    before = len(upserts(index))
    assert run.try_once() == "success"
    assert not {one for request in upserts(index)[before:] for one in request.ids} & confirmed
    output = run.output()
    assert (output["upsertedCount"], output["resumedCount"]) == (RECORDS, len(confirmed))
    assert (output["rejectedCount"], len(index.vectors())) == (1, RECORDS)


def rejected_ids(folder):
    return {one for file in (folder / "rejects").iterdir() for one in pq.read_table(file)["id"].to_pylist()}


def test_what_is_in_flight_settles_and_nothing_more_is_started(task_processes, pinecone_index, folder):  # noqa: F811
    pinecone_index.faults.next(Fault.stall(1.2), times=8, path=UPSERT)
    run = task_processes(TASK.format(paths=folder / "a.parquet", folder=folder, more=""))
    run.start()
    wait_until(lambda: not pinecone_index.faults.pending)
    stop(run)
    assert "The upsert was cancelled" in run.log_file.read_text()
    assert [request.record_count for request in upserts(pinecone_index)] == [10] * 8
    assert run.store["checkpoint"]["counts"]["upserted"] == 80
    assert rejected_ids(folder) == {"r3"}
    succeeds_without(set(pinecone_index.vectors()), run, pinecone_index)


def hang_seven_lanes(index):
    """Let seven requests hang, and all others pass."""
    index.faults.next(Fault.stall(FOREVER_S), times=7, path=UPSERT)


def is_all_else_confirmed(index):
    return len(index.vectors()) == RECORDS - 70


def test_while_requests_hang(task_processes, pinecone_index, folder):  # noqa: F811
    hang_seven_lanes(pinecone_index)
    run = task_processes(TASK.format(paths=folder / "a.parquet", folder=folder, more=""))
    run.start()
    wait_until(lambda: is_all_else_confirmed(pinecone_index))
    stop(run)
    assert rejected_ids(folder) == {"r3"}
    succeeds_without(set(pinecone_index.vectors()), run, pinecone_index)


def test_a_time_out_of_the_task_while_requests_hang(task_processes, pinecone_index, folder):  # noqa: F811
    hang_seven_lanes(pinecone_index)
    more = "execution_timeout=timedelta(seconds=8)"
    run = task_processes(TASK.format(paths=folder / "a.parquet", folder=folder, more=more))
    run.start()
    wait_until(lambda: "Process timed out" in run.said)
    asked_s = time.monotonic()
    wait_until(lambda: run.is_gone)
    assert time.monotonic() - asked_s < GONE_WITHIN_S
    assert run.wait() == "up_for_retry"
    assert "AirflowTaskTimeout" in run.log_file.read_text()
    assert is_all_else_confirmed(pinecone_index)
    assert rejected_ids(folder) == {"r3"}
    succeeds_without(set(pinecone_index.vectors()), run, pinecone_index)


@pytest.mark.parametrize("blocks_on", ["info", "read"])
def test_while_a_remote_storage_blocks(task_processes, pinecone_index, folder, blocks_on):  # noqa: F811
    run = task_processes(
        TASK.format(paths="blocking:///a.parquet", folder=folder, more=""),
        before=BLOCKING_STORAGE.format(folder=folder, blocks_on=blocks_on),
    )
    run.start()
    wait_until((folder / "blocked").exists)
    stop(run)
    assert upserts(pinecone_index) == []
    succeeds_without(set(), run, pinecone_index)


def test_while_the_first_request_hangs(task_processes, pinecone_index, folder):  # noqa: F811
    pinecone_index.faults.next(Fault.stall(FOREVER_S), path="/describe_index_stats")
    run = task_processes(TASK.format(paths=folder / "a.parquet", folder=folder, more=""))
    run.start()
    wait_until(lambda: not pinecone_index.faults.pending)
    stop(run)
    assert upserts(pinecone_index) == []
    succeeds_without(set(), run, pinecone_index)


class Store(dict):
    """A store as Airflow's."""

    set = dict.__setitem__
    delete = dict.pop


def test_on_kill_from_another_thread(pinecone_index, folder, monkeypatch):
    from airflow_pinecone_upsert import PineconeUpsertOperator

    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", pinecone_index.connection_json())
    hang_seven_lanes(pinecone_index)
    store = Store()
    operator = PineconeUpsertOperator(
        task_id="upsert", parquet_paths=str(folder / "a.parquet"), batch_size=10, max_rejects=1
    )

    def kill():
        wait_until(lambda: is_all_else_confirmed(pinecone_index))
        operator.on_kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(IncompleteUpsertError, match="was cancelled"):
        operator.execute({"task_state_store": store})
    killer.join()
    assert store["checkpoint"]["counts"]["upserted"] == RECORDS - 70
    output = operator.execute({"task_state_store": store})
    assert (output["upsertedCount"], output["resumedCount"]) == (RECORDS, RECORDS - 70)
    assert len(pinecone_index.vectors()) == RECORDS
