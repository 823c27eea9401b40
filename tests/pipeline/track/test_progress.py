"""What the log says while a run continues."""

from __future__ import annotations

import re

import pytest

from airflow_pinecone_upsert.pipeline.counts import Counts
from airflow_pinecone_upsert.pipeline.track.progress import Progress, ProgressMeter, ProgressSample
from airflow_pinecone_upsert.pipeline.track.writer import SAVE_INTERVAL_S
from tests.pipeline.send.simulated_transport import SimulatedTransport


def test_the_log_has_progress_and_speed_every_few_seconds(index, run, write, caplog):
    caplog.set_level("INFO")
    path = write({"id": [f"r{row}" for row in range(40)], "values": [[1.0, float(row)] for row in range(40)]})
    run(index, path, carrier=SimulatedTransport(), batch_size=2, max_concurrency=1)
    line = re.compile(
        r"(\d+) records confirmed, 2 records/s, 0\.0 MB/s, 0 throttled, (\d+)% done, about (\d+) s to go\."
    )
    found = [tuple(map(int, match.groups())) for match in map(line.fullmatch, caplog.messages) if match]
    assert SAVE_INTERVAL_S == 5
    assert found == [(10, 25, 15), (20, 50, 10), (30, 75, 5), (40, 100, 0)]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3_599, "59 min 59 s"), (5_430, "1 h 30 min")],
)
def test_the_remaining_time_is_readable(seconds, words):
    assert str(Progress(Counts(), 0, 0, eta_s=seconds)).endswith(f", about {words} to go")


def test_unknown_values_and_zero_rejects_are_left_out():
    assert str(Progress(Counts(upserted=1_234, throttled=3), 1_000.4, 12_345_678)) == (
        "1,234 records confirmed, 1,000 records/s, 12.3 MB/s, 3 throttled"
    )
    assert ", 2 rejected, " in str(Progress(Counts(rejected=2), 1, 1))


def test_the_speed_of_a_resumed_run_is_that_of_this_try():
    earlier = Counts(upserted=1_000, request_bytes=5_000)
    meter = ProgressMeter(ProgressSample(100.0, earlier, 0.5))
    progress = meter.measure(ProgressSample(110.0, earlier + Counts(upserted=50, request_bytes=100), 0.6))
    assert (progress.counts.upserted, progress.records_per_second, progress.bytes_per_second) == (1_050, 5.0, 10.0)
    assert progress.eta_s == pytest.approx(40.0)
