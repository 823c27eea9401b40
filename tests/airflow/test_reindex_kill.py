"""A reindexing task whose process is killed repeatedly while the server fails at random, with a manifest on disk or on S3."""

from __future__ import annotations

import json
import random
import signal
import time

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_pinecone_upsert import PineconeHook

from .supervised import wait_until

SEED = 20
LIFETIMES_S = (*[0.2 + 0.1 * number for number in range(17)], 7.5, 7.5, 7.5)
"""Of the processes that are killed, from their first request on; in random order."""

RECORDS = 30_000
"""More than all these processes can send at their rate: four fifths of them change."""

REQUESTS_PER_SECOND = 10
BATCH_SIZE = 50
assert sum(LIFETIMES_S) * REQUESTS_PER_SECOND * BATCH_SIZE < RECORDS * 4 // 5

VANISHED = 2_000
INVALID = range(VANISHED + 60, RECORDS, 1_330)
"""The rows of records that are rejected in the second night, so that those of the first one stay."""

DIMENSION = 16
SECONDS_REPEATED = 6.0


class Night:
    """The source of one night: rows from one number on, each fifth of them as in the night before."""

    def __init__(self, first, *, seed, previous=None):
        self.rows = range(first, first + RECORDS)
        bits = np.random.default_rng(seed).integers(0, 2**32, (RECORDS, DIMENSION), dtype=np.uint32)
        bits[(bits & 0x7F800000) == 0x7F800000] = 0x3F800000  # infinite or not a number
        self.bits = dict(zip(self.rows, bits, strict=True))
        self.metadata = {row: {"row": row, "text": f"é{row}", "seed": seed} for row in self.rows}
        if previous:
            for row in set(self.rows[::5]) & set(previous.rows):
                self.bits[row], self.metadata[row] = previous.bits[row], previous.metadata[row]

    def write(self, folder, invalid=()):
        values = np.stack([self.bits[row] for row in self.rows]).view(np.float32)
        values[[row - self.rows[0] for row in invalid]] = np.nan
        table = pa.table(
            {
                "id": [f"r{row}" for row in self.rows],
                "values": pa.FixedSizeListArray.from_arrays(values.ravel(), DIMENSION),
                "metadata": [json.dumps(self.metadata[row]) for row in self.rows],
            }
        )
        for number in range(4):
            part = table.slice(number * RECORDS // 4, RECORDS // 4)
            pq.write_table(part, folder / f"{number}.parquet", row_group_size=RECORDS // 12)


@pytest.fixture
def aws_connection(s3, monkeypatch):
    extra = {"endpoint_url": s3, "region_name": "us-east-1"}
    connection = json.dumps({"conn_type": "aws", "login": "k", "password": "s", "extra": extra})
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", connection)
    client = boto3.client(
        "s3", endpoint_url=s3, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
    )
    client.create_bucket(Bucket="killed")
    return connection


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["local", "s3"])
def test_the_namespace_equals_the_source_and_little_is_resent(
    *, task_processes, pinecone_index_factory, use_index, aws_connection, tmp_path, tmp_path_factory, storage
):
    """
    Kill twenty processes of the second night, and let the next one finish.

    A record must not arrive after a kill if the killed process had it confirmed more than six seconds earlier. Times are
    those of the emulator's request log.
    """
    manifest = f"{tmp_path_factory.mktemp('manifest')}" if storage == "local" else "s3://aws_default@killed/manifest"
    index = use_index(pinecone_index_factory(dimension=DIMENSION))
    first = Night(0, seed=SEED)
    first.write(tmp_path)
    PineconeHook().reindex(parquet_paths=str(tmp_path), manifest_path=manifest)
    second = Night(VANISHED, seed=SEED + 1, previous=first)
    second.write(tmp_path, INVALID)

    index.faults.at_random("429:0.05,503:0.02,reset:0.02,lost_ack:0.01,stall:0.002", seed=SEED)
    rate = tmp_path_factory.mktemp("rate") / "requests_per_second"
    rate.write_text(str(REQUESTS_PER_SECOND))
    run = task_processes(
        f'PineconeReindexOperator(task_id="reindex", parquet_paths="{tmp_path}", manifest_path="{manifest}", '
        f"batch_size={BATCH_SIZE}, max_requests_per_second=RATE, max_rejects=None)",
        index=index,
        preamble="import os\nfrom airflow_pinecone_upsert import PineconeReindexOperator\n"
        f"os.environ['AIRFLOW_CONN_AWS_DEFAULT'] = {aws_connection!r}\nRATE = float(open({str(rate)!r}).read())\n",
        timeout_s=3,
    )
    start = len(index.requests)
    lifetimes = []
    for lifetime_s in random.Random(SEED).sample(LIFETIMES_S, len(LIFETIMES_S)):  # noqa: S311 - times, not secrets
        run.start()
        started_s = time.monotonic()
        request_count = len(index.requests)
        wait_until(lambda request_count=request_count: len(index.requests) > request_count)
        time.sleep(lifetime_s)
        run.signal(signal.SIGKILL)
        lifetimes.append((started_s, time.monotonic()))
        assert run.wait() == "up_for_retry"
    rate.write_text("100")
    assert run.try_once() == "success"
    output = run.output()
    assert (output["rejectedCount"], output["deletedCount"]) == (len(INVALID), VANISHED)
    assert output["upsertedCount"] + output["unchangedCount"] == RECORDS - len(INVALID)

    stored = index.vectors()
    assert set(stored) == {f"r{row}" for row in second.rows}
    for row in second.rows:
        night = first if row in INVALID else second
        assert stored[f"r{row}"].values.view(np.uint32).tolist() == night.bits[row].tolist()
        assert stored[f"r{row}"].metadata == night.metadata[row]

    upserts = [request for request in index.requests[start:] if request.path == "/vectors/upsert"]
    unchanged = {f"r{row}" for row in second.rows[::5] if row < RECORDS}
    assert not unchanged & {one for request in upserts for one in request.ids}
    checked = 0
    for started_s, killed_s in lifetimes:
        saved = {
            record_id
            for request in upserts
            if request.status == 200 and request.started_at > started_s
            if request.finished_at < killed_s - SECONDS_REPEATED
            for record_id in request.ids
        }
        resent = {record_id for request in upserts if request.started_at > killed_s for record_id in request.ids}
        assert not saved & resent
        checked += len(saved)
    assert checked > 0
