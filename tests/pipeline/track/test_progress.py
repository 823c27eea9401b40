"""What the log tells while a run goes on."""

from __future__ import annotations

import re

import pytest
from fsspec.implementations.local import LocalFileSystem

from airflow_pinecone_upsert.api.client import ClientSettings, IndexClient
from airflow_pinecone_upsert.pipeline.options import UpsertOptions
from airflow_pinecone_upsert.pipeline.read.files import find_parquet_files
from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource
from airflow_pinecone_upsert.pipeline.run import upsert
from airflow_pinecone_upsert.pipeline.track.progress import Progress
from airflow_pinecone_upsert.pipeline.track.tracker import SAVE_INTERVAL_S
from tests.pipeline.send.simulated_transport import SimulatedTransport


def test_the_log_tells_every_few_seconds_how_far_and_how_fast(index, write, caplog):
    caplog.set_level("INFO")
    path = write({"id": [f"r{row}" for row in range(40)], "values": [[1.0, float(row)] for row in range(40)]})
    options = UpsertOptions.checked(batch_size=2, max_concurrency=1)
    source = ParquetSource(find_parquet_files(LocalFileSystem(), str(path)), options)
    with IndexClient(index.url, ClientSettings(api_key=index.api_key)) as client:
        upsert(source, client, options, lanes=SimulatedTransport())
    line = re.compile(
        r"(\d+) records confirmed, 2 records/s, 0\.0 MB/s, \d in flight, 0 throttled, (\d+)% done, about (\d+) s to go\."
    )
    told = [tuple(map(int, found.groups())) for found in map(line.fullmatch, caplog.messages) if found]
    assert SAVE_INTERVAL_S == 5
    assert told == [(10, 25, 15), (20, 50, 10), (30, 75, 5), (40, 100, 0)]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3_599, "59 min 59 s"), (5_430, "1 h 30 min")],
)
def test_the_time_to_go_is_told_as_people_do(seconds, words):
    assert str(Progress(0, 0, 0, 0, 0, 0, None, seconds)).endswith(f", about {words} to go")


def test_what_nobody_knows_or_nobody_misses_is_not_told():
    assert str(Progress(1_234, 1_000.4, 12_345_678, 8, 3, 0, None, None)) == (
        "1,234 records confirmed, 1,000 records/s, 12.3 MB/s, 8 in flight, 3 throttled"
    )
    assert ", 2 rejected, " in str(Progress(1, 1, 1, 1, 1, 2, None, None))
