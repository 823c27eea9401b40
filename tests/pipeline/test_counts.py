"""The counters: one declaration each, for the output, the checkpoint and the metrics."""

from dataclasses import fields

import pytest

from airflow_pinecone_upsert.pipeline.counts import Counts

SOME = Counts(upserted=5, rejected=1, requests=3, request_bytes=700, retries=1, throttled=0, duration_s=1.25)


def test_counts_add_up():
    assert SOME + Counts(upserted=2, duration_s=0.5) == Counts(7, 1, 3, 700, 1, 0, 1.75)
    assert Counts() + SOME == SOME


def test_counts_survive_json():
    assert Counts.from_json(SOME.as_json()) == SOME
    assert Counts.from_json({**SOME.as_json(), "a later counter": 3}) == SOME


def test_a_missing_or_wrong_counter_is_an_error():
    with pytest.raises(KeyError):
        Counts.from_json({})
    with pytest.raises(TypeError):
        Counts.from_json({**SOME.as_json(), "retryCount": "many"})


def test_every_counter_has_a_name_in_the_output_and_no_two_share_one():
    keys = [one.metadata["output_key"] for one in fields(Counts)]
    assert len(set(keys)) == len(keys)
    metrics = [one.metadata["metric"] for one in fields(Counts) if one.metadata["metric"]]
    assert len(set(metrics)) == len(metrics)


def test_only_counters_that_are_not_zero_are_metrics():
    assert dict(SOME.metrics()) == {"records": 5, "requests": 3, "bytes": 700, "retries": 1}
