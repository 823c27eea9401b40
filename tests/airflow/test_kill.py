"""A task whose process is killed again and again, on a bad night of the server."""

from __future__ import annotations

import json
import random
import signal
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .supervised import task_processes, wait_until, worker  # noqa: F401 - fixtures

SEED = 20
KILLS = 20
RECORDS = 40_000
DIMENSION = 16
RESENT_AT_MOST_S = 6.0


@pytest.fixture
def records(tmp_path):
    """Four files of three row groups each; every component is any float32 that is finite, metadata are of every kind."""
    bits = np.random.default_rng(SEED).integers(0, 2**32, (RECORDS, DIMENSION), dtype=np.uint32)
    bits[(bits & 0x7F800000) == 0x7F800000] = 0x3F800000  # infinite or no number
    values = bits.view(np.float32)
    metadata = [{"row": row, "text": f"é{row}", "odd": bool(row % 2), "tags": [str(row % 7)]} for row in range(RECORDS)]
    table = pa.table(
        {
            "id": [f"r{row}" for row in range(RECORDS)],
            "values": pa.FixedSizeListArray.from_arrays(values.ravel(), DIMENSION),
            "metadata": [json.dumps(one) for one in metadata],
        }
    )
    quarter = RECORDS // 4
    for number in range(4):
        part = table.slice(number * quarter, quarter)
        pq.write_table(part, tmp_path / f"{number}.parquet", row_group_size=quarter // 3)
    return bits, metadata


@pytest.mark.slow
def test_nothing_is_lost_and_little_is_sent_again(task_processes, pinecone_index_factory, records, tmp_path):  # noqa: F811
    """
    Kill twenty processes at random moments, and let the next one end.

    What counts as sent again: a record that arrives after a kill, although the very process that was killed had had it
    confirmed more than six seconds before. There must be none. Moments are those of the index's log.
    """
    dice = random.Random(SEED)  # noqa: S311 - moments, no secrets
    index = pinecone_index_factory(dimension=DIMENSION)
    index.faults.at_random("429:0.05,503:0.02,reset:0.02,lost_ack:0.01,stall:0.002", seed=SEED)
    run = task_processes(
        f'PineconeUpsertOperator(task_id="upsert", parquet_paths="{tmp_path}", batch_size=50, max_requests_per_second=20)',
        index=index,
        timeout_s=3,
    )
    lives = []
    for _ in range(KILLS):
        run.start()
        started_s = time.monotonic()
        began = len(index.requests)
        wait_until(lambda began=began: len(index.requests) > began)
        time.sleep(dice.uniform(0.2, 9))
        run.signal(signal.SIGKILL)
        lives.append((started_s, time.monotonic()))
        assert run.wait() == "up_for_retry"
    assert run.try_once() == "success"
    assert run.output()["upsertedCount"] == RECORDS

    bits, metadata = records
    stored = index.vectors()
    assert len(stored) == RECORDS
    for row in range(RECORDS):
        assert stored[f"r{row}"].values.view(np.uint32).tolist() == bits[row].tolist()
        assert stored[f"r{row}"].metadata == metadata[row]

    upserts = [request for request in index.requests if request.path == "/vectors/upsert"]
    were_safe = 0
    for started_s, killed_s in lives:
        safe = {
            record_id
            for request in upserts
            if request.status == 200 and request.started_at > started_s
            if request.finished_at < killed_s - RESENT_AT_MOST_S
            for record_id in request.ids
        }
        again = {record_id for request in upserts if request.started_at > killed_s for record_id in request.ids}
        assert not safe & again
        were_safe += len(safe)
    assert were_safe > 0
