"""Rates and ids in flight are those of one namespace each."""

import orjson
import pytest

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.send.events import Attempt
from airflow_pinecone_upsert.pipeline.send.limiters import NamespaceLimiters
from airflow_pinecone_upsert.pipeline.send.rate_limiter import RateLimiter
from airflow_pinecone_upsert.pipeline.send.requests import Envelope, UpsertRequest
from airflow_pinecone_upsert.pipeline.send.sender import Sender
from tests.pipeline.send.simulated_transport import OK, Outcome, SimulatedTransport


def request_of(row, namespace, record_id=None):
    record_id = record_id or f"r{row}"
    body = orjson.dumps({"id": record_id, "row": row, "namespace": namespace})
    records = EncodedRecords(["f"], [row], [record_id], [body], [b""], [namespace])
    return UpsertRequest(records, Envelope(namespace))


def limiters(requests_per_second=None, **more):
    return NamespaceLimiters(lambda: RateLimiter(requests_per_second, None, lambda: 0.5), **more)


def sent(requests, transport, rate_limiter, *, window=4, pulled=4):
    sender = Sender(
        iter(requests),
        transport,
        rate_limiter=rate_limiter,
        max_pulled=pulled,
        max_unsettled=window,
        random=lambda: 0.5,
        cancellation=CancellationToken(),
    )
    return [event for event in sender.run() if isinstance(event, Attempt)]


def test_many_namespaces_may_exceed_the_rate_of_one():
    def seconds(count):
        transport = SimulatedTransport(lambda _: Outcome(latency_s=0.01))
        sent((request_of(row, f"n{row % count}") for row in range(60)), transport, limiters(10))
        return transport.clock_s

    assert seconds(1) > 5.5
    assert seconds(10) < 0.2 * seconds(1)


def test_the_same_id_in_two_namespaces_is_no_conflict():
    transport = SimulatedTransport()
    sent([request_of(0, "a", "same"), request_of(1, "b", "same"), request_of(2, "a", "same")], transport, limiters())
    assert transport.max_in_flight == 2


def test_a_namespace_that_is_throttled_does_not_hold_back_the_others():
    response = exceptions.ErrorResponse(429, "slow down", retry_after_s=60.0)
    throttled = Outcome(error=exceptions.RateLimitError("slow down", response=response))
    left = [throttled]

    def server(records):
        return left.pop() if records[0]["namespace"] == "a" and left else OK

    transport = SimulatedTransport(server)
    requests = [request_of(row, "a" if row < 3 else f"n{row}") for row in range(12)]
    attempts = sent(requests, transport, limiters())
    order = [attempt.request.records.rows[0] for attempt in attempts if attempt.error is None]
    assert sorted(order) == list(range(12))
    assert order[-1] == 0
    assert transport.clock_s >= 60.0
    assert [at_s for at_s, ids in transport.started if at_s > 30 and ids != ["r0"]] == []


def test_the_requests_of_a_namespace_start_in_order():
    transport = SimulatedTransport()
    requests = [request_of(row, "ab"[row % 2]) for row in range(40)]
    attempts = sent(requests, transport, limiters(20), window=1)
    for name in "ab":
        rows = [attempt.request.records.rows[0] for attempt in attempts if attempt.request.namespace == name]
        assert rows == sorted(rows)


def test_the_number_of_limiters_is_bounded():
    created = []

    def create():
        created.append(RateLimiter(1, None, lambda: 0.5))
        return created[-1]

    kept = NamespaceLimiters(create, max_kept=2)
    first = kept.of("a")
    assert kept.of("b") is not first
    assert kept.of("a") is first
    kept.of("c")  # drops b, which was not used for longest
    assert kept.of("a") is first
    assert len(created) == 3
    kept.of("b")
    assert len(created) == 4


@pytest.mark.parametrize("pulled", [1, 4])
def test_no_more_is_pulled_in_advance_than_is_allowed(pulled):
    taken = []

    def source():
        for row in range(50):
            taken.append(row)
            yield request_of(row, "a")

    transport = SimulatedTransport(lambda _: Outcome(latency_s=0.0))
    seen = []
    sender = Sender(
        source(),
        transport,
        rate_limiter=limiters(10),
        max_pulled=pulled,
        max_unsettled=2,
        random=lambda: 0.5,
        cancellation=CancellationToken(),
        on_turn=lambda: seen.append(len(taken)),
    )
    done = 0
    for _ in sender.run():
        done += 1
        assert len(taken) <= done + 2 + pulled
    assert done == 50
