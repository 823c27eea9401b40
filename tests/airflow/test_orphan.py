"""A task whose supervisor was killed: it stops sending, so that it overwrites nothing that the next try wrote."""

from __future__ import annotations

import signal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .supervised import TaskProcesses, Worker, running_worker, wait_until, write_dag

RECORDS = 2_000
UPSERT = "/vectors/upsert"
TASKS = {
    "operator": """
PineconeUpsertOperator(task_id="upsert", parquet_paths="{path}", batch_size=10, max_requests_per_second=10)
""",
    "reindex operator": """
PineconeReindexOperator(
    task_id="reindex", parquet_paths="{path}", manifest_path="{path}-manifest", batch_size=10, max_requests_per_second=10
)
""",
    "hook": """
@task
def upsert():
    from airflow_pinecone_upsert import PineconeHook

    PineconeHook().upsert(parquet_paths="{path}", batch_size=10, max_requests_per_second=10)

upsert()
""",
}


@pytest.fixture
def doomed_worker(airflow_db):
    yield from running_worker()


@pytest.fixture
def path(tmp_path):
    values = [np.full(8, row + 1, np.float32) for row in range(RECORDS)]
    pq.write_table(pa.table({"id": [f"r{row}" for row in range(RECORDS)], "values": values}), tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


def upserts(index):
    return [request for request in list(index.requests) if request.path == UPSERT]


@pytest.mark.parametrize("kind", TASKS)
def test_a_task_stops_once_its_supervisor_is_gone(*, doomed_worker: Worker, pinecone_index, path, kind):
    dag = write_dag(
        TASKS[kind].format(path=path),
        {"conn_type": "pinecone_upsert", "host": pinecone_index.url, "password": pinecone_index.api_key},
        preamble="from airflow.sdk import task\nfrom airflow_pinecone_upsert import PineconeReindexOperator\n",
    )
    run = TaskProcesses(doomed_worker, dag)
    run.start()
    wait_until(lambda: upserts(pinecone_index))
    doomed_worker.kill()
    try:
        wait_until(lambda: run.has_exited)
        # At its rate it would have needed 20 s for all of them.
        assert 0 < len(upserts(pinecone_index)) < RECORDS / 10
    finally:
        if not run.has_exited:
            run.signal(signal.SIGKILL)
        run.close()
