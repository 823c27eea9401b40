"""Deletes by id: the request, and how the sender sends it to a simulated server with a virtual clock."""

from math import ceil, log2

import orjson
import pytest

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api.limits import MAX_DELETE_REQUESTS_PER_SECOND, MAX_DELETED_IDS_PER_SECOND
from airflow_pinecone_upsert.api.models import DeleteResponse
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.send.events import Attempt, Failure, Rejection
from airflow_pinecone_upsert.pipeline.send.rate_limiter import RateLimiter
from airflow_pinecone_upsert.pipeline.send.requests import DeleteRequest, Envelope, UpsertRequest
from airflow_pinecone_upsert.pipeline.send.sender import Sender
from tests.pipeline.send.simulated_transport import OK, Outcome, SimulatedTransport


def deletes_of(count, *, size):
    """Return requests for so many ids."""
    ids = [f"r{n}" for n in range(count)]
    return [DeleteRequest(ids[start : start + size]) for start in range(0, count, size)]


def upsert_of(record_id, row):
    body = orjson.dumps({"id": record_id, "row": row})
    return UpsertRequest(EncodedRecords(["XCom"], [row], [record_id], [body], [b""], [""]), Envelope())


def unlimited():
    return RateLimiter(None, None, lambda: 0.5)


def at_pinecones_rate():
    """Limit the rate as the client does."""
    return RateLimiter(MAX_DELETE_REQUESTS_PER_SECOND, MAX_DELETED_IDS_PER_SECOND, lambda: 0.5)


def send(requests, transport, *, rate_limiter=None, max_unsettled=8):
    """Send, and return every event."""
    events = []
    Sender(
        iter(requests),
        transport,
        rate_limiter=rate_limiter or unlimited(),
        max_unsettled=max_unsettled,
        random=lambda: 0.5,
        cancellation=CancellationToken(),
    ).send_all(events.append)
    return events


def confirmed(events):
    return sum(event.confirmed for event in events if isinstance(event, Attempt))


def failing_once(error):
    outcomes = iter([Outcome(error=error, is_applied=False)])
    return lambda _: next(outcomes, OK)


# The request ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("namespace", "body"), [("", {"ids": ["a", "b"]}), ("ns", {"ids": ["a", "b"], "namespace": "ns"})]
)
def test_the_body_has_the_ids_and_the_namespace(namespace, body):
    request = DeleteRequest(["a", "b"], namespace)
    assert orjson.loads(request.body) == body
    assert str(request.endpoint) == "POST /vectors/delete"


def test_the_items_and_rate_units_of_a_delete_are_its_ids():
    request = DeleteRequest(["a", "b", "c"])
    assert (len(request), request.rate_units, request.ids) == (3, 3, ["a", "b", "c"])
    assert request.confirmed(DeleteResponse()) == 3


def test_a_delete_is_split_in_the_middle_within_its_namespace():
    first, second = DeleteRequest(["a", "b", "c"], "ns").halves()
    assert (first.ids, second.ids) == (["a"], ["b", "c"])
    assert (first.namespace, second.namespace) == ("ns", "ns")


@pytest.mark.parametrize("count", [1, 1_000])
def test_the_location_of_a_delete_names_its_first_id(count):
    [request] = deletes_of(count, size=count)
    assert "'r0'" in request.location
    assert (f"{count:,} ids" in request.location) is (count > 1)


# Rate -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "size", "shortest_s"),
    [
        pytest.param(20_000, 1_000, 3.5, id="5,000 ids a second"),
        pytest.param(400, 1, 3.5, id="100 requests a second"),
    ],
)
@pytest.mark.parametrize("latency_s", [0.0, 0.5])
def test_deletes_keep_within_pinecones_rate(count, size, shortest_s, latency_s):
    transport = SimulatedTransport(lambda _: Outcome(latency_s=latency_s))
    events = send(deletes_of(count, size=size), transport, rate_limiter=at_pinecones_rate(), max_unsettled=64)
    assert confirmed(events) == count
    started_s = [at_s for at_s, _ in transport.started]
    assert started_s[-1] - started_s[0] >= shortest_s
    for at_s in started_s:
        ids = [len(ids) for other_s, ids in transport.started if at_s <= other_s < at_s + 1.0]
        assert len(ids) <= MAX_DELETE_REQUESTS_PER_SECOND * 1.05 + 1
        assert sum(ids) <= MAX_DELETED_IDS_PER_SECOND * 1.05 + size


def test_without_a_rate_limit_deletes_are_bounded_by_their_number_in_flight_only():
    transport = SimulatedTransport()
    assert confirmed(send(deletes_of(20_000, size=1_000), transport, max_unsettled=20)) == 20_000
    assert (transport.max_in_flight, transport.clock_s) == (20, 1.0)


def test_a_throttled_delete_delays_every_other():
    throttled = exceptions.RateLimitError("slow", response=exceptions.ErrorResponse(429, "slow", retry_after_s=7.0))
    transport = SimulatedTransport(failing_once(throttled))
    events = send(deletes_of(4, size=1), transport, rate_limiter=at_pinecones_rate(), max_unsettled=2)
    assert confirmed(events) == 4
    assert all(at_s >= 8.0 for at_s, _ in transport.started[2:])


# Order ------------------------------------------------------------------------------------------


def test_deletes_are_in_flight_together():
    transport = SimulatedTransport()
    send(deletes_of(8, size=2), transport, max_unsettled=4)
    assert transport.max_in_flight == 4


def test_deletes_that_share_an_id_are_not_in_flight_together():
    transport = SimulatedTransport()
    send([DeleteRequest(["a", "b"]), DeleteRequest(["b", "c"]), DeleteRequest(["d"])], transport)
    assert transport.started == [(0.0, ["a", "b"]), (1.0, ["b", "c"]), (1.0, ["d"])]


def test_an_upsert_and_a_delete_of_one_id_are_applied_in_order():
    transport = SimulatedTransport()
    send([upsert_of("a", 0), DeleteRequest(["a", "b"]), upsert_of("b", 1), DeleteRequest(["c"])], transport)
    assert transport.stored == {"b": 1}
    assert [at_s for at_s, ids in transport.started if "c" not in ids] == [0.0, 1.0, 2.0]


# Failures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [exceptions.ServerError("x"), exceptions.RateLimitError("x"), exceptions.TransportError("x")], ids=repr
)
def test_a_failed_delete_is_retried_with_the_same_body(error):
    bodies = []

    class Recording(SimulatedTransport):
        def start(self, request):
            bodies.append(request.body)
            super().start(request)

    transport = Recording(failing_once(error))
    events = send([DeleteRequest(["a", "b"], "ns")], transport)
    assert [(event.confirmed, event.is_repeat, event.error) for event in events] == [(0, False, error), (2, True, None)]
    assert bodies == [orjson.dumps({"ids": ["a", "b"], "namespace": "ns"})] * 2
    [(first_s, _), (second_s, _)] = transport.started
    assert second_s >= first_s + 1.5  # one second to fail, and half of the first backoff


@pytest.mark.parametrize("error", [exceptions.BadRequestError("no"), exceptions.RequestTooLargeError("no")])
@pytest.mark.parametrize("count", [1, 2, 7, 1_000])
def test_the_id_that_the_server_rejects_is_found_by_halving(count, error):
    invalid = f"r{count * 2 // 3}"

    def outcome(records):
        has_invalid = any(record["id"] == invalid for record in records)
        return Outcome(error=error, is_applied=False) if has_invalid else OK

    transport = SimulatedTransport(outcome)
    events = send(deletes_of(count, size=1_000), transport)
    assert [event.request.ids for event in events if isinstance(event, Rejection)] == [[invalid]]
    assert confirmed(events) == count - 1
    assert len(transport.started) - 1 <= 2 * ceil(log2(count))
    assert not any(isinstance(event, Failure) for event in events)


def test_after_a_final_error_deletes_in_flight_are_awaited():
    error = exceptions.AuthenticationError("no")
    transport = SimulatedTransport(
        lambda records: Outcome(0.5, error, is_applied=False) if records[0]["id"] == "r1" else Outcome(latency_s=2.0)
    )
    events = send(deletes_of(6, size=1), transport, max_unsettled=3)
    assert [ids for _, ids in transport.started] == [["r0"], ["r1"], ["r2"]]
    assert confirmed(events) == 2
    assert [event.error for event in events if isinstance(event, Failure)] == [error]
    assert transport.is_idle
