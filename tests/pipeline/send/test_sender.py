"""
The sender by itself, over a simulated server with a virtual clock.

The whole pipeline under every fault is in test_simulated_faults.py; what real HTTP adds is in test_run.py.
"""

from itertools import pairwise
from math import ceil, log2

import orjson
import pytest

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api.limits import MAX_ATTEMPTS, MAX_RETRY_AFTER_S
from airflow_pinecone_upsert.pipeline.cancellation import POLL_INTERVAL_S, CancellationToken
from airflow_pinecone_upsert.pipeline.encode.encoder import EncodedRecords
from airflow_pinecone_upsert.pipeline.send.batch import fill_batches
from airflow_pinecone_upsert.pipeline.send.events import Attempt, Failure, Rejection
from airflow_pinecone_upsert.pipeline.send.rate_limiter import RateLimiter
from airflow_pinecone_upsert.pipeline.send.requests import Envelope
from airflow_pinecone_upsert.pipeline.send.sender import Sender
from tests.pipeline.send.simulated_transport import OK, Outcome, SimulatedTransport


def batches_of(ids, *, size=1):
    ids = list(ids)
    bodies = [orjson.dumps({"id": record_id, "row": row}) for row, record_id in enumerate(ids)]
    fragments = EncodedRecords(["XCom"] * len(ids), list(range(len(ids))), ids, bodies)
    return fill_batches([fragments], Envelope(), max_records=size, max_bytes=100_000)


def unhurried() -> RateLimiter:
    return RateLimiter(None, None, lambda: 0.5)


def send(batches, lanes, **choices):
    """Send and wind down, as a run does."""
    sender = Sender(batches, lanes, stop=CancellationToken(), **choices)
    try:
        yield from sender.run()
    except Exception:
        yield from sender.wind_down()
        raise
    yield from sender.wind_down()


def sent(lanes, batches, *, window=4, pace=None, random=lambda: 0.5):
    """Send and return every event."""
    return list(send(iter(batches), lanes, pace=pace or unhurried(), max_unsettled=window, random=random))


def sent_from(source, lanes, *, window=4, pace=None, random=lambda: 0.5):
    """Send, and return every event and the source's error, if it had one."""
    events = []
    try:
        for event in send(source, lanes, pace=pace or unhurried(), max_unsettled=window, random=random):
            events.append(event)  # noqa: PERF402 - they must survive the error
    except exceptions.SourceError as exc:
        return events, exc
    return events, None


def failing(error, *, times, is_applied=False):
    """Fail so many times, then succeed."""
    left = iter(range(times))
    return lambda _: OK if next(left, None) is None else Outcome(error=error, is_applied=is_applied)


def throttled(retry_after_s=None):
    return exceptions.RateLimitError(
        "slow down", answer=exceptions.ErrorResponse(429, "slow down", retry_after_s=retry_after_s)
    )


def confirmed(events):
    return sum(event.confirmed for event in events if isinstance(event, Attempt))


def failures(events):
    return [event for event in events if isinstance(event, Failure)]


def refused(events):
    return [event.batch.ids[0] for event in events if isinstance(event, Rejection)]


# The window -------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 3, 8])
def test_the_window_is_filled_and_never_exceeded(window):
    lanes = SimulatedTransport()
    events = sent(lanes, batches_of(map(str, range(24))), window=window)
    assert confirmed(events) == 24
    assert lanes.max_in_flight == window
    assert lanes.clock_s == 24 / window


def test_a_request_that_has_ended_makes_room_before_another_batch_is_encoded():
    """A server that answers faster than records are encoded leaves one request in flight, however wide the window."""
    at_once = SimulatedTransport(lambda _: Outcome(latency_s=0.0))
    assert confirmed(sent(at_once, batches_of(map(str, range(24))), window=8)) == 24
    assert at_once.max_in_flight == 1


def test_nothing_is_started_once_the_run_is_to_stop_while_it_reads():
    lanes, stop = SimulatedTransport(), CancellationToken()

    def source():
        first, second, third = batches_of("abc")
        yield first
        yield second
        stop.ask()
        yield third

    sender = Sender(source(), lanes, pace=unhurried(), max_unsettled=4, random=lambda: 0.5, stop=stop)
    with pytest.raises(exceptions.IncompleteUpsertError, match="was cancelled"):
        list(sender.run())
    assert confirmed(sender.wind_down()) == 2
    assert [ids for _, ids in lanes.started] == [["a"], ["b"]]


def test_the_caller_is_called_while_no_request_ends():
    """A run of which nothing is heard for long must keep what it has confirmed before."""
    lanes = SimulatedTransport(lambda records: Outcome(latency_s=30.0) if records[0]["row"] == 3 else OK)
    called_at_s = []
    send_all = send(
        batches_of(map(str, range(4))),
        lanes,
        pace=unhurried(),
        max_unsettled=4,
        random=lambda: 0.5,
        on_wait=lambda: called_at_s.append(lanes.clock_s),
    )
    assert confirmed(send_all) == 4
    assert max(later - earlier for earlier, later in pairwise(called_at_s)) <= POLL_INTERVAL_S + 1e-9
    assert called_at_s[-1] > 29


def test_with_one_in_flight_the_order_is_the_sources():
    lanes = SimulatedTransport(failing(exceptions.ServerError("x"), times=3))
    sent(lanes, batches_of("abcd"), window=1)
    assert [ids for _, ids in lanes.started] == [["a"]] * 4 + [["b"], ["c"], ["d"]]


def test_the_source_is_pulled_one_ahead_and_no_further():
    pulled = []

    def source():
        for batch in batches_of("abcdef"):
            pulled.append(batch)
            yield batch

    events = send(source(), SimulatedTransport(), pace=unhurried(), max_unsettled=2, random=lambda: 0.5)
    next(events)
    assert len(pulled) == 3


def test_a_batch_that_waits_for_another_try_takes_room_in_the_window():
    lanes = SimulatedTransport(
        lambda records: OK if records[0]["id"] != "a" else Outcome(error=exceptions.ServerError("x"))
    )
    pulled = []

    def source():
        for batch in batches_of("abcdefgh"):
            pulled.append(batch)
            yield batch

    events = send(source(), lanes, pace=unhurried(), max_unsettled=1, random=lambda: 0.5)
    assert [type(event) for event in events] == [*[Attempt] * MAX_ATTEMPTS, Failure]
    assert len(pulled) == 2


def test_nothing_to_send():
    lanes = SimulatedTransport()
    assert sent(lanes, []) == []
    assert lanes.started == []


# Waiting ----------------------------------------------------------------------------------------


def test_a_failed_request_waits_for_its_backoff_while_others_go_on():
    lanes = SimulatedTransport(failing(exceptions.ServerError("x"), times=1))
    sent(lanes, batches_of("abc"), window=2, random=lambda: 0.9)
    # a fails at 1.0 and is due at 1.9; b lands at 1.0, so c starts; a is next.
    assert lanes.started == [(0.0, ["a"]), (0.0, ["b"]), (1.0, ["c"]), (1.9, ["a"])]


def test_backoff_doubles_up_to_its_cap():
    lanes = SimulatedTransport(lambda _: Outcome(latency_s=0.0, error=exceptions.ServerError("x"), is_applied=False))
    [*_, failure] = sent(lanes, batches_of("a"), random=lambda: 1.0)
    waits = [later[0] - earlier[0] for earlier, later in pairwise(lanes.started)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert isinstance(failure, Failure)


def test_retry_after_holds_every_start_and_not_only_the_throttled_one():
    lanes = SimulatedTransport(failing(throttled(7.0), times=1))
    sent(lanes, batches_of("abc"), window=1)
    assert lanes.started[:2] == [(0.0, ["a"]), (8.0, ["a"])]
    assert [ids for _, ids in lanes.started[2:]] == [["b"], ["c"]]

    lanes = SimulatedTransport(failing(throttled(7.0), times=1))
    sent(lanes, batches_of("abc"), window=2)
    (again_s, again), (next_s, fresh) = lanes.started[2:]
    assert (again, fresh) == (["a"], ["c"])
    assert next_s >= again_s == 8.0


def test_an_absurd_retry_after_is_cut():
    lanes = SimulatedTransport(failing(throttled(1e9), times=1))
    assert confirmed(sent(lanes, batches_of("a"))) == 1
    assert lanes.started[1][0] == 1.0 + MAX_RETRY_AFTER_S


def test_a_server_that_is_down_holds_its_own_batch_only():
    down = exceptions.ServerError("x", answer=exceptions.ErrorResponse(503, "x", retry_after_s=7.0))
    lanes = SimulatedTransport(failing(down, times=1))
    sent(lanes, batches_of("abc"), window=2)
    assert lanes.started[2:] == [(1.0, ["c"]), (8.0, ["a"])]


def test_the_pace_spaces_the_starts():
    lanes = SimulatedTransport(lambda _: Outcome(latency_s=0.0))
    sent(lanes, batches_of(map(str, range(101))), pace=RateLimiter(100, None, lambda: 0.5))
    assert lanes.clock_s == pytest.approx(1.0, abs=0.06)


# Giving up --------------------------------------------------------------------------------------


def test_tries_are_bounded():
    lanes = SimulatedTransport(lambda _: Outcome(error=exceptions.TransportError("x"), is_applied=False))
    events = sent(lanes, batches_of("a"))
    assert len(lanes.started) == MAX_ATTEMPTS
    assert [event.repeated for event in events[:-1]] == [False] + [True] * (MAX_ATTEMPTS - 1)
    assert isinstance(events[-1], Failure)


def test_after_a_final_error_nothing_more_starts_and_what_is_in_flight_is_counted():
    refusal = exceptions.NotFoundError("no")
    lanes = SimulatedTransport(
        lambda records: Outcome(latency_s=0.5, error=refusal) if records[0]["id"] == "b" else Outcome(latency_s=2.0)
    )
    events = sent(lanes, batches_of("abcdef"), window=3)
    assert [ids for _, ids in lanes.started] == [["a"], ["b"], ["c"]]
    assert confirmed(events) == 2
    assert [failure.error for failure in failures(events)] == [refusal]
    assert lanes.is_idle


def test_after_a_final_error_a_batch_that_waits_for_another_try_is_given_up_with_its_own_error():
    down, refusal = exceptions.ServerError("down"), exceptions.NotFoundError("no")
    by_id = {"a": Outcome(0.1, down, is_applied=False), "b": Outcome(0.2, refusal, is_applied=False)}
    lanes = SimulatedTransport(lambda records: by_id[records[0]["id"]])
    events = sent(lanes, batches_of("ab"), random=lambda: 0.9)
    assert {failure.error for failure in failures(events)} == {down, refusal}
    assert lanes.clock_s == 0.2  # nobody waits for a try that will not come


def test_an_error_of_the_source_is_raised_when_everything_in_flight_has_settled():
    broken = exceptions.SourceError("broken")

    def source():
        yield from batches_of("ab")
        raise broken

    lanes = SimulatedTransport()
    events, error = sent_from(source(), lanes)
    assert error is broken
    assert confirmed(events) == 2
    assert lanes.is_idle


def test_an_error_of_the_source_does_not_wait_for_a_try_that_will_not_come():
    def source():
        yield from batches_of("a")
        raise exceptions.SourceError("broken")

    lanes = SimulatedTransport(lambda _: Outcome(error=throttled(60.0), is_applied=False))
    events, error = sent_from(source(), lanes)
    assert isinstance(error, exceptions.SourceError)
    assert lanes.clock_s == 1.0
    assert len(failures(events)) == 1


def test_a_fault_of_ours_is_final_and_the_cause_of_the_failure():
    bug = ZeroDivisionError("a bug")
    lanes = SimulatedTransport(failing(bug, times=1))
    [failure] = failures(sent(lanes, batches_of("abc"), window=2))
    assert failure.error.__cause__ is bug
    assert lanes.is_idle
    assert len(lanes.started) == 2


@pytest.mark.parametrize(("more", "counted"), [(-1, 2), (-3, 0), (1, 0)])
def test_a_count_that_is_not_that_of_the_records_is_a_failure(more, counted):
    lanes = SimulatedTransport(lambda _: Outcome(confirmed_more=more))
    events = sent(lanes, batches_of("abc", size=3))
    [failure] = failures(events)
    assert isinstance(failure.error, exceptions.UnexpectedResponseError)
    assert f"confirmed {3 + more} of 3 records" in str(failure.error)
    assert (confirmed(events), failure.unconfirmed) == (counted, 3 - counted)


# Splitting --------------------------------------------------------------------------------------


def too_large_beyond(records_at_most):
    return lambda records: (
        OK if len(records) <= records_at_most else Outcome(error=exceptions.RequestTooLargeError("x"), is_applied=False)
    )


@pytest.mark.parametrize("fits", [1, 3, 8])
def test_what_is_too_large_is_split_until_it_fits_and_all_of_it_lands(fits):
    lanes = SimulatedTransport(too_large_beyond(fits))
    ids = [str(n) for n in range(24)]
    events = sent(lanes, batches_of(ids, size=8), window=3)
    assert confirmed(events) == 24
    assert set(lanes.stored) == set(ids)
    assert lanes.max_in_flight <= 3


def test_halves_are_sent_in_order():
    lanes = SimulatedTransport(too_large_beyond(1))
    sent(lanes, batches_of("abcd", size=4), window=1)
    assert [ids for _, ids in lanes.started if len(ids) == 1] == [["a"], ["b"], ["c"], ["d"]]


def test_a_single_record_that_is_too_large_is_refused():
    lanes = SimulatedTransport(too_large_beyond(0))
    events = sent(lanes, batches_of("ab", size=2))
    assert len(lanes.started) == 3
    assert refused(events) == ["a", "b"]


@pytest.mark.parametrize("error", [exceptions.BadRequestError("no"), exceptions.RequestTooLargeError("no")])
@pytest.mark.parametrize("count", [1, 2, 7, 1_000])
def test_the_one_record_that_the_server_refuses_is_found_by_halving(count, error):
    bad = str(count * 2 // 3)

    def outcome(records):
        has_bad = any(record["id"] == bad for record in records)
        return Outcome(error=error, is_applied=False) if has_bad else OK

    lanes = SimulatedTransport(outcome)
    events = sent(lanes, batches_of(map(str, range(count)), size=1_000))
    assert refused(events) == [bad]
    assert confirmed(events) == count - 1 == len(lanes.stored)
    assert len(lanes.started) - 1 <= 2 * ceil(log2(count))
    assert not failures(events)


# One id in two batches --------------------------------------------------------------------------


def test_batches_that_share_an_id_are_never_in_flight_together():
    lanes = SimulatedTransport()
    sent(lanes, batches_of("abac"), window=4)
    assert lanes.started == [(0.0, ["a"]), (0.0, ["b"]), (1.0, ["a"]), (1.0, ["c"])]
    assert lanes.stored["a"] == 2


def test_a_batch_waits_for_one_with_its_id_that_waits_for_another_try():
    lanes = SimulatedTransport(failing(exceptions.ServerError("x"), times=1))
    sent(lanes, batches_of("aa"), window=4, random=lambda: 0.9)
    assert lanes.started == [(0.0, ["a"]), (1.9, ["a"]), (2.9, ["a"])]
    assert lanes.stored["a"] == 1
