"""A task whose process is killed repeatedly while the server fails at random."""

from __future__ import annotations

import json
import random
import signal
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .supervised import wait_until

SEED = 20
KILLS = 20
RECORDS = 40_000
INVALID = range(60, RECORDS, 133)
"""The rows of records that are rejected."""

DIMENSION = 16
CHECKPOINT_AGE_S = 6.0


@pytest.fixture
def records(tmp_path):
    """Write four files of three row groups each: random bits that are finite float32, and metadata of every type."""
    bits = np.random.default_rng(SEED).integers(0, 2**32, (RECORDS, DIMENSION), dtype=np.uint32)
    bits[(bits & 0x7F800000) == 0x7F800000] = 0x3F800000  # infinite or not a number
    values = bits.view(np.float32).copy()
    values[INVALID] = np.nan
    metadata = [{"row": row, "text": f"é{row}", "odd": bool(row % 2), "tags": [str(row % 7)]} for row in range(RECORDS)]
    table = pa.table(
        {
            "id": [f"r{row}" for row in range(RECORDS)],
            "values": pa.FixedSizeListArray.from_arrays(values.ravel(), DIMENSION),
            "metadata": [json.dumps(value) for value in metadata],
        }
    )
    quarter = RECORDS // 4
    for number in range(4):
        part = table.slice(number * quarter, quarter)
        pq.write_table(part, tmp_path / f"{number}.parquet", row_group_size=quarter // 3)
    return bits, metadata


@pytest.mark.slow
def test_no_record_is_lost_and_few_are_resent(
    *, task_processes, pinecone_index_factory, records, tmp_path, tmp_path_factory
):
    """
    Kill twenty processes at random times, and let the next one finish.

    A record must not arrive after a kill if the killed process had it confirmed more than six seconds earlier. Times are
    those of the emulator's request log.
    """
    rejects_path = tmp_path_factory.mktemp("rejects")
    rng = random.Random(SEED)  # noqa: S311 - times, not secrets
    index = pinecone_index_factory(dimension=DIMENSION)
    index.faults.at_random("429:0.05,503:0.02,reset:0.02,lost_ack:0.01,stall:0.002", seed=SEED)
    run = task_processes(
        f'PineconeUpsertOperator(task_id="upsert", parquet_paths="{tmp_path}", batch_size=50, max_requests_per_second=20, '
        f'max_rejects=None, rejects_path="{rejects_path}")',
        index=index,
        timeout_s=3,
    )
    lifetimes = []
    for _ in range(KILLS):
        run.start()
        started_s = time.monotonic()
        request_count = len(index.requests)
        wait_until(lambda request_count=request_count: len(index.requests) > request_count)
        time.sleep(rng.uniform(0.2, 9))
        run.signal(signal.SIGKILL)
        lifetimes.append((started_s, time.monotonic()))
        assert run.wait() == "up_for_retry"
    assert run.try_once() == "success"
    output = run.output()
    assert (output["upsertedCount"], output["rejectedCount"]) == (RECORDS - len(INVALID), len(INVALID))
    rejected = [row_id for path in output["rejectsPaths"] for row_id in pq.read_table(path)["id"].to_pylist()]
    assert sorted(rejected) == sorted(f"r{row}" for row in INVALID)

    bits, metadata = records
    stored = index.vectors()
    assert len(stored) == RECORDS - len(INVALID)
    for row in set(range(RECORDS)) - set(INVALID):
        assert stored[f"r{row}"].values.view(np.uint32).tolist() == bits[row].tolist()
        assert stored[f"r{row}"].metadata == metadata[row]

    upserts = [request for request in index.requests if request.path == "/vectors/upsert"]
    checked = 0
    for started_s, killed_s in lifetimes:
        saved = {
            record_id
            for request in upserts
            if request.status == 200 and request.started_at > started_s
            if request.finished_at < killed_s - CHECKPOINT_AGE_S
            for record_id in request.ids
        }
        resent = {record_id for request in upserts if request.started_at > killed_s for record_id in request.ids}
        assert not saved & resent
        checked += len(saved)
    assert checked > 0
