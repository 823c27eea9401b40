"""The limits of 2 MB a request and 50 MB/s a namespace, in both readings."""

from __future__ import annotations

import pytest

from airflow_pinecone_upsert.emulator.allowance import Allowance
from airflow_pinecone_upsert.emulator.records import Row
from airflow_pinecone_upsert.emulator.rules import ApiError
from tests.clock import Clock

ROWS = [Row("r", values=b"0" * 499_990, metadata=b"{}" * 4, sparse_values=b"0")]
"""500,000 bytes in binary."""


@pytest.mark.parametrize(
    ("measure", "sent_bytes", "is_accepted"),
    [
        ("json", 2_000_000, True),
        ("json", 2_000_001, False),
        ("binary", 4_000_000, True),
        (None, 4_000_000, True),
    ],
)
def test_the_size_of_a_request(measure, sent_bytes, is_accepted):
    allowance = Allowance(measure, Clock())
    if is_accepted:
        allowance.take("", sent_bytes, ROWS)
    else:
        with pytest.raises(ApiError, match="Request size 2MB exceeds the maximum supported size of 2MB"):
            allowance.take("", sent_bytes, ROWS)


def test_the_size_in_binary():
    with pytest.raises(ApiError, match="exceeds the maximum supported size"):
        Allowance("binary", Clock()).take("", 1, ROWS * 5)


@pytest.mark.parametrize(("measure", "requests"), [("json", 25), ("binary", 100)])
def test_the_rate_of_a_namespace(measure, requests):
    clock = Clock(10.0)
    allowance = Allowance(measure, clock)

    def accepted(namespace):
        for count in range(1_000):
            try:
                allowance.take(namespace, 2_000_000, ROWS)
            except ApiError as exc:
                return count, exc.status, exc.code
        raise AssertionError("the rate has no limit")

    assert accepted("a") == (requests, 429, 8)
    clock.now += 0.4
    assert accepted("a") == (requests * 0.4, 429, 8)
    clock.now += 60
    assert accepted("a") == accepted("b") == (requests, 429, 8)


def test_an_index_has_a_measure_for_its_upserts(pinecone_index_factory, connect):
    record = {"id": "r", "values": [0.123456789] * 20_000}
    records = [{**record, "id": f"r{row}"} for row in range(10)]
    for measure, status in (("json", 400), ("binary", 200), (None, 200)):
        http = connect(pinecone_index_factory(20_000, measure=measure))
        assert http.post("/vectors/upsert", json={"vectors": records}).status_code == status


def test_a_measure_that_does_not_exist(pinecone_index_factory):
    with pytest.raises(ValueError, match="measure must be one of json, binary, not 'text'"):
        pinecone_index_factory(2, measure="text")
