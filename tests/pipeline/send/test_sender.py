"""
The sender alone, with a simulated server and a virtual clock.

The whole pipeline under every fault is in test_simulated_faults.py, real HTTP in test_run.py.
"""

from itertools import pairwise
from math import ceil, log2

import orjson
import pytest

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api.limits import MAX_ATTEMPTS, MAX_RETRY_AFTER_S
from airflow_pinecone_upsert.pipeline.cancellation import POLL_INTERVAL_S, CancellationToken
from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.send.batch import Batcher
from airflow_pinecone_upsert.pipeline.send.events import Attempt, Failure, Rejection
from airflow_pinecone_upsert.pipeline.send.learned_limits import RequestSize
from airflow_pinecone_upsert.pipeline.send.rate_limiter import RateLimiter
from airflow_pinecone_upsert.pipeline.send.requests import Envelope
from airflow_pinecone_upsert.pipeline.send.sender import Sender
from tests.pipeline.send.simulated_transport import OK, Outcome, SimulatedTransport


def requests_of(ids, *, size=1):
    ids = list(ids)
    bodies = [orjson.dumps({"id": record_id, "row": row}) for row, record_id in enumerate(ids)]
    records = EncodedRecords(["XCom"] * len(ids), list(range(len(ids))), ids, bodies, [b""] * len(ids), [""] * len(ids))
    return Batcher([records], Envelope(), max_records=size, size=RequestSize(100_000))


def unlimited() -> RateLimiter:
    return RateLimiter(None, None, lambda: 0.5)


def send(requests, transport, **choices):
    """Send and wind down, as a run does."""
    sender = Sender(iter(requests), transport, cancellation=CancellationToken(), **choices)
    try:
        yield from sender.run()
    except Exception:
        yield from sender.wind_down()
        raise
    yield from sender.wind_down()


def sent(transport, requests, *, window=4, rate_limiter=None, random=lambda: 0.5, is_proven=False):
    """Send and return every event."""
    choices = {"max_unsettled": window, "random": random, "is_proven": is_proven}
    return list(send(requests, transport, rate_limiter=rate_limiter or unlimited(), **choices))


def sent_from(source, transport, *, window=4, rate_limiter=None, random=lambda: 0.5):
    """Send, and return every event and the source's error, if it had one."""
    events = []
    try:
        for event in send(
            source, transport, rate_limiter=rate_limiter or unlimited(), max_unsettled=window, random=random
        ):
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
        "slow down", response=exceptions.ErrorResponse(429, "slow down", retry_after_s=retry_after_s)
    )


def confirmed(events):
    return sum(event.confirmed for event in events if isinstance(event, Attempt))


def failures(events):
    return [event for event in events if isinstance(event, Failure)]


def rejected(events):
    return [event.request.ids[0] for event in events if isinstance(event, Rejection)]


# The window -------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 3, 8])
def test_the_window_is_filled_and_never_exceeded(window):
    transport = SimulatedTransport()
    events = sent(transport, requests_of(map(str, range(24))), window=window)
    assert confirmed(events) == 24
    assert transport.max_in_flight == window
    assert transport.clock_s == 24 / window


def test_a_completed_request_makes_room_before_the_next_one_is_encoded():
    """A server that answers faster than records are encoded leaves one request in flight, however wide the window."""
    at_once = SimulatedTransport(lambda _: Outcome(latency_s=0.0))
    assert confirmed(sent(at_once, requests_of(map(str, range(24))), window=8)) == 24
    assert at_once.max_in_flight == 1


def test_nothing_starts_after_a_cancellation_during_reading():
    transport, cancellation = SimulatedTransport(), CancellationToken()

    def source():
        first, second, third = requests_of("abc")
        yield first
        yield second
        cancellation.cancel()
        yield third

    sender = Sender(
        source(), transport, rate_limiter=unlimited(), max_unsettled=4, random=lambda: 0.5, cancellation=cancellation
    )
    with pytest.raises(exceptions.IncompleteUpsertError, match="was cancelled"):
        list(sender.run())
    assert confirmed(sender.wind_down()) == 2
    assert [ids for _, ids in transport.started] == [["a"], ["b"]]


def test_the_caller_is_called_while_no_request_ends():
    """A run that waits for long must be able to save what is confirmed."""
    transport = SimulatedTransport(lambda records: Outcome(latency_s=30.0) if records[0]["row"] == 3 else OK)
    called_at_s = []
    send_all = send(
        requests_of(map(str, range(4))),
        transport,
        rate_limiter=unlimited(),
        max_unsettled=4,
        random=lambda: 0.5,
        on_turn=lambda: called_at_s.append(transport.clock_s),
    )
    assert confirmed(send_all) == 4
    assert max(later - earlier for earlier, later in pairwise(called_at_s)) <= POLL_INTERVAL_S + 1e-9
    assert called_at_s[-1] > 29


def test_with_a_window_of_one_requests_are_sent_in_order():
    transport = SimulatedTransport(failing(exceptions.ServerError("x"), times=3))
    sent(transport, requests_of("abcd"), window=1)
    assert [ids for _, ids in transport.started] == [["a"]] * 4 + [["b"], ["c"], ["d"]]


def test_one_request_is_pulled_in_advance():
    pulled = []

    def source():
        for request in requests_of("abcdef"):
            pulled.append(request)
            yield request

    events = send(source(), SimulatedTransport(), rate_limiter=unlimited(), max_unsettled=2, random=lambda: 0.5)
    next(events)
    assert len(pulled) == 3


def test_a_request_that_waits_for_a_retry_counts_in_the_window():
    transport = SimulatedTransport(
        lambda records: OK if records[0]["id"] != "a" else Outcome(error=exceptions.ServerError("x"))
    )
    pulled = []

    def source():
        for request in requests_of("abcdefgh"):
            pulled.append(request)
            yield request

    events = send(source(), transport, rate_limiter=unlimited(), max_unsettled=1, random=lambda: 0.5)
    assert [type(event) for event in events] == [*[Attempt] * MAX_ATTEMPTS, Failure]
    assert len(pulled) == 2


def test_nothing_to_send():
    transport = SimulatedTransport()
    assert sent(transport, []) == []
    assert transport.started == []


# Waiting ----------------------------------------------------------------------------------------


def test_a_failed_request_waits_for_its_backoff_while_others_continue():
    transport = SimulatedTransport(failing(exceptions.ServerError("x"), times=1))
    sent(transport, requests_of("abc"), window=2, random=lambda: 0.9)
    # a fails at 1.0 and is due at 1.9; b ends at 1.0, so c starts; a is next.
    assert transport.started == [(0.0, ["a"]), (0.0, ["b"]), (1.0, ["c"]), (1.9, ["a"])]


def test_backoff_doubles_up_to_its_cap():
    transport = SimulatedTransport(
        lambda _: Outcome(latency_s=0.0, error=exceptions.ServerError("x"), is_applied=False)
    )
    [*_, failure] = sent(transport, requests_of("a"), random=lambda: 1.0)
    waits = [later[0] - earlier[0] for earlier, later in pairwise(transport.started)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert isinstance(failure, Failure)


def test_retry_after_delays_every_request():
    transport = SimulatedTransport(failing(throttled(7.0), times=1))
    sent(transport, requests_of("abc"), window=1)
    assert transport.started[:2] == [(0.0, ["a"]), (8.0, ["a"])]
    assert [ids for _, ids in transport.started[2:]] == [["b"], ["c"]]

    transport = SimulatedTransport(failing(throttled(7.0), times=1))
    sent(transport, requests_of("abc"), window=2)
    (again_s, again), (next_s, fresh) = transport.started[2:]
    assert (again, fresh) == (["a"], ["c"])
    assert next_s >= again_s == 8.0


def test_an_absurd_retry_after_is_cut():
    transport = SimulatedTransport(failing(throttled(1e9), times=1))
    assert confirmed(sent(transport, requests_of("a"))) == 1
    assert transport.started[1][0] == 1.0 + MAX_RETRY_AFTER_S


def test_retry_after_of_a_503_delays_its_own_request_only():
    down = exceptions.ServerError("x", response=exceptions.ErrorResponse(503, "x", retry_after_s=7.0))
    transport = SimulatedTransport(failing(down, times=1))
    sent(transport, requests_of("abc"), window=2)
    assert transport.started[2:] == [(1.0, ["c"]), (8.0, ["a"])]


def test_the_rate_limiter_spaces_the_starts():
    transport = SimulatedTransport(lambda _: Outcome(latency_s=0.0))
    sent(transport, requests_of(map(str, range(101))), rate_limiter=RateLimiter(100, None, lambda: 0.5))
    assert transport.clock_s == pytest.approx(1.0, abs=0.06)


# Giving up --------------------------------------------------------------------------------------


def test_attempts_are_bounded():
    transport = SimulatedTransport(lambda _: Outcome(error=exceptions.TransportError("x"), is_applied=False))
    events = sent(transport, requests_of("a"))
    assert len(transport.started) == MAX_ATTEMPTS
    assert [event.is_repeat for event in events[:-1]] == [False] + [True] * (MAX_ATTEMPTS - 1)
    assert isinstance(events[-1], Failure)


def test_after_a_final_error_nothing_starts_and_requests_in_flight_are_counted():
    refusal = exceptions.NotFoundError("no")
    transport = SimulatedTransport(
        lambda records: Outcome(latency_s=0.5, error=refusal) if records[0]["id"] == "b" else Outcome(latency_s=2.0)
    )
    events = sent(transport, requests_of("abcdef"), window=3)
    assert [ids for _, ids in transport.started] == [["a"], ["b"], ["c"]]
    assert confirmed(events) == 2
    assert [failure.error for failure in failures(events)] == [refusal]
    assert transport.is_idle


def test_after_a_final_error_a_waiting_request_is_given_up_with_its_own_error():
    down, refusal = exceptions.ServerError("down"), exceptions.NotFoundError("no")
    by_id = {"a": Outcome(0.1, down, is_applied=False), "b": Outcome(0.2, refusal, is_applied=False)}
    transport = SimulatedTransport(lambda records: by_id[records[0]["id"]])
    events = sent(transport, requests_of("ab"), random=lambda: 0.9)
    assert {failure.error for failure in failures(events)} == {down, refusal}
    assert transport.clock_s == 0.2  # without waiting for a retry that will not come


def test_an_error_of_the_source_is_raised_after_the_requests_in_flight():
    broken = exceptions.SourceError("broken")

    def source():
        yield from requests_of("ab")
        raise broken

    transport = SimulatedTransport()
    events, error = sent_from(source(), transport)
    assert error is broken
    assert confirmed(events) == 2
    assert transport.is_idle


def test_an_error_of_the_source_does_not_wait_for_retries():
    def source():
        yield from requests_of("a")
        raise exceptions.SourceError("broken")

    transport = SimulatedTransport(lambda _: Outcome(error=throttled(60.0), is_applied=False))
    events, error = sent_from(source(), transport)
    assert isinstance(error, exceptions.SourceError)
    assert transport.clock_s == 1.0
    assert len(failures(events)) == 1


def test_an_unexpected_exception_is_final_and_the_cause_of_the_failure():
    bug = ZeroDivisionError("a bug")
    transport = SimulatedTransport(failing(bug, times=1))
    [failure] = failures(sent(transport, requests_of("abc"), window=2))
    assert failure.error.__cause__ is bug
    assert transport.is_idle
    assert len(transport.started) == 2


@pytest.mark.parametrize("more", [-1, -3])
def test_a_short_count_is_retried_and_counted_once(more):
    outcomes = iter([Outcome(confirmed_more=more)] * 2)
    transport = SimulatedTransport(lambda _: next(outcomes, OK))
    events = sent(transport, requests_of("abc", size=3))
    assert [(event.confirmed, type(event.error)) for event in events] == [
        (0, exceptions.ShortCountError),
        (0, exceptions.ShortCountError),
        (3, type(None)),
    ]
    assert [ids for _, ids in transport.started] == [["a", "b", "c"]] * 3


@pytest.mark.parametrize(("more", "counted"), [(-1, 2), (-3, 0)])
def test_a_count_that_stays_short_is_a_failure_after_all_attempts(more, counted):
    transport = SimulatedTransport(lambda _: Outcome(confirmed_more=more))
    events = sent(transport, requests_of("abc", size=3))
    [failure] = failures(events)
    assert len(transport.started) == MAX_ATTEMPTS
    assert isinstance(failure.error, exceptions.ShortCountError)
    assert f"confirmed {3 + more} of 3 records" in str(failure.error)
    assert (confirmed(events), failure.confirmed, failure.unconfirmed) == (0, counted, 3 - counted)


def test_what_an_earlier_answer_confirmed_stays_confirmed():
    outcomes = iter([Outcome(confirmed_more=-1)])
    transport = SimulatedTransport(lambda _: next(outcomes, Outcome(error=exceptions.ServerError("x"))))
    [failure] = failures(sent(transport, requests_of("abc", size=3)))
    assert (failure.confirmed, failure.unconfirmed) == (2, 1)


def test_a_count_that_is_too_high_is_a_failure_that_confirms_nothing():
    transport = SimulatedTransport(lambda _: Outcome(confirmed_more=1))
    events = sent(transport, requests_of("abc", size=3))
    [failure] = failures(events)
    assert isinstance(failure.error, exceptions.UnexpectedResponseError)
    assert "confirmed 4 of 3 records" in str(failure.error)
    assert (len(transport.started), confirmed(events), failure.unconfirmed) == (1, 0, 3)


# Splitting --------------------------------------------------------------------------------------


def too_large_beyond(max_records):
    return lambda records: (
        OK if len(records) <= max_records else Outcome(error=exceptions.RequestTooLargeError("x"), is_applied=False)
    )


@pytest.mark.parametrize("fits", [1, 3, 8])
def test_a_request_that_is_too_large_is_split_until_all_of_it_fits(fits):
    transport = SimulatedTransport(too_large_beyond(fits))
    ids = [str(n) for n in range(24)]
    events = sent(transport, requests_of(ids, size=8), window=3)
    assert confirmed(events) == 24
    assert set(transport.stored) == set(ids)
    assert transport.max_in_flight <= 3


def test_halves_are_sent_in_order():
    transport = SimulatedTransport(too_large_beyond(1))
    sent(transport, requests_of("abcd", size=4), window=1)
    assert [ids for _, ids in transport.started if len(ids) == 1] == [["a"], ["b"], ["c"], ["d"]]


def test_a_single_record_that_is_too_large_is_rejected():
    transport = SimulatedTransport(too_large_beyond(0))
    events = sent(transport, requests_of("ab", size=2))
    assert len(transport.started) == 3
    assert rejected(events) == ["a", "b"]


@pytest.mark.parametrize("error", [exceptions.BadRequestError("no"), exceptions.RequestTooLargeError("no")])
@pytest.mark.parametrize("count", [1, 2, 7, 1_000])
def test_the_record_that_the_server_rejects_is_found_by_halving(count, error):
    bad = str(count * 2 // 3)

    def outcome(records):
        has_bad = any(record["id"] == bad for record in records)
        return Outcome(error=error, is_applied=False) if has_bad else OK

    transport = SimulatedTransport(outcome)
    events = sent(transport, requests_of(map(str, range(count)), size=1_000))
    assert rejected(events) == [bad]
    assert confirmed(events) == count - 1 == len(transport.stored)
    assert len(transport.started) - 1 <= 2 * ceil(log2(count))
    assert not failures(events)


def rejects(ids):
    """A server that rejects every request that contains one of these ids."""
    error = exceptions.BadRequestError("no")
    return lambda records: (
        OK if ids.isdisjoint(record["id"] for record in records) else Outcome(error=error, is_applied=False)
    )


@pytest.mark.parametrize("window", range(1, 9))  # fewer may be in flight when the first one is rejected
def test_a_server_that_rejects_everything_ends_the_run_after_few_requests(window):
    ids = [str(n) for n in range(20_000)]
    transport = SimulatedTransport(rejects(set(ids)))
    failure = failures(sent(transport, requests_of(ids, size=1_000), window=window))[0]
    assert str(failure.error) == "The server has rejected the first 19 requests, and accepted none: no"
    assert len(transport.started) == 19


@pytest.mark.parametrize("window", [1, 8, 32])
def test_many_rejected_records_do_not_end_a_run_of_which_some_are_accepted(window):
    ids = [str(n) for n in range(4_000)]
    bad = set(ids[::10])
    transport = SimulatedTransport(rejects(bad))
    events = sent(transport, requests_of(ids, size=1_000), window=window)
    assert set(rejected(events)) == bad
    assert set(transport.stored) == set(ids) - bad


def test_a_run_is_not_ended_if_an_earlier_try_had_requests_accepted():
    ids = [str(n) for n in range(64)]
    transport = SimulatedTransport(rejects(set(ids)))
    events = sent(transport, requests_of(ids, size=64), is_proven=True)
    assert rejected(events) == ids


# One id in two requests --------------------------------------------------------------------------


def test_requests_that_share_an_id_are_never_in_flight_together():
    transport = SimulatedTransport()
    sent(transport, requests_of("abac"), window=4)
    assert transport.started == [(0.0, ["a"]), (0.0, ["b"]), (1.0, ["a"]), (1.0, ["c"])]
    assert transport.stored["a"] == 2


def test_a_request_waits_for_the_retry_of_one_that_shares_an_id():
    transport = SimulatedTransport(failing(exceptions.ServerError("x"), times=1))
    sent(transport, requests_of("aa"), window=4, random=lambda: 0.9)
    assert transport.started == [(0.0, ["a"]), (1.9, ["a"]), (2.9, ["a"])]
    assert transport.stored["a"] == 1
