"""When the next request may start, by a clock that the test turns."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pinecone_upsert.api.limits import MAX_RETRY_AFTER_S
from airflow_pinecone_upsert.pipeline.send.rate_limiter import RateLimiter

SLACK_S = 0.05
START_S = 1_000.0


def starts(pace, bodies, pauses=()):
    """Start requests as early as the pace allows, each after a pause of its own, and tell when."""
    now, found = START_S, []
    for body_bytes, pause_s in zip(bodies, pauses or [0.0] * len(bodies), strict=True):
        now += pause_s
        now += pace.wait_s(now)
        pace.started(body_bytes, now)
        found.append(now)
    return found


def test_without_a_bound_nothing_waits():
    assert set(starts(RateLimiter(None, None, lambda: 0.5), [10**9] * 50)) == {START_S}


def test_requests_are_spaced():
    found = starts(RateLimiter(100, None, lambda: 0.5), [1] * 101)
    assert found[-1] - found[0] == pytest.approx(1.0 - SLACK_S)
    assert max(later - earlier for earlier, later in pairwise(found)) == pytest.approx(0.01)


def test_bytes_are_spaced():
    found = starts(RateLimiter(None, 50_000_000, lambda: 0.5), [2_000_000] * 200)
    last = found[-26:]
    assert last[-1] - last[0] == pytest.approx(1.0)
    assert max(later - earlier for earlier, later in pairwise(last)) == pytest.approx(0.04)


def test_bytes_begin_below_what_was_asked_for_and_rise_to_it_within_two_seconds():
    found = starts(RateLimiter(None, 50_000_000, lambda: 0.5), [2_000_000] * 200)
    gaps = [later - earlier for earlier, later in pairwise(found)]
    assert gaps[0] > 0.07
    assert gaps == sorted(gaps, reverse=True) or max(gaps[60:]) == pytest.approx(0.04)
    assert sum(at < START_S + 2.0 for at in found) >= 25


def test_a_low_rate_of_large_requests_does_not_suffer_from_the_beginning():
    found = starts(RateLimiter(None, 100_000, lambda: 0.5), [2_000_000] * 3)
    assert found[1] - found[0] <= 20.0
    assert found[-1] - found[0] == pytest.approx(40.0 - SLACK_S, abs=0.6)


def test_the_slower_bound_counts():
    assert starts(RateLimiter(1, 10**9, lambda: 0.5), [1, 1, 1])[-1] == pytest.approx(START_S + 2.0 - SLACK_S)
    assert starts(RateLimiter(10**9, 1, lambda: 0.5), [1, 1, 1])[-1] >= START_S + 2.0 - SLACK_S


@given(
    st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 3)), min_size=2, max_size=60),
    st.floats(0.5, 50),
    st.floats(100, 20_000),
)
def test_in_no_stretch_of_time_is_a_rate_exceeded(requests, requests_per_second, bytes_per_second):
    bodies, pauses = zip(*requests, strict=True)
    found = starts(RateLimiter(requests_per_second, bytes_per_second, lambda: 0.5), bodies, pauses)
    for first in range(len(found)):
        for last in range(first, len(found)):
            allowed_s = found[last] - found[first] + SLACK_S + 1e-6
            assert last - first <= requests_per_second * allowed_s
            assert sum(bodies[first:last]) <= bytes_per_second * allowed_s


def test_idle_time_is_not_saved_up():
    found = starts(RateLimiter(10, None, lambda: 0.5), [1] * 12, [0.0, 60.0, *[0.0] * 10])
    assert found[-1] - found[1] == pytest.approx(1.0 - SLACK_S)


def throttle(pace, retry_after_s, now):
    pace.started(1, now)
    pace.throttled(now, retry_after_s, now)


def test_retry_after_stops_every_start_until_it_is_over():
    pace = RateLimiter(None, None, lambda: 0.5)
    throttle(pace, 5.0, START_S)
    assert pace.wait_s(START_S + 2.0) == 3.0
    throttle(pace, 1.0, START_S + 2.0)
    assert pace.wait_s(START_S + 2.0) == 3.0  # a shorter one does not shorten it
    assert pace.wait_s(START_S + 9.0) == 0.0


def test_an_absurd_retry_after_is_cut():
    pace = RateLimiter(None, None, lambda: 0.5)
    throttle(pace, 1e9, START_S)
    assert pace.wait_s(START_S) == MAX_RETRY_AFTER_S


def test_refusals_of_one_flight_cut_less_than_those_of_several():
    """Ten refusals of requests that started together, and ten of requests that started after the refusal before."""

    def rate_after(gap_s):
        pace, now = RateLimiter(None, 1_000, lambda: 0.0), START_S
        for _ in range(500):
            now += pace.wait_s(now)
            pace.started(10, now)
        for number in range(5):
            pace.throttled(now if gap_s == 0 else now + number * gap_s, None, now + number * gap_s)
        end = now + 4 * gap_s + 1.0
        first = end + pace.wait_s(end)
        pace.started(10, first)
        return 10 / pace.wait_s(first)

    assert rate_after(0.0) == pytest.approx(1_000 * 0.85**5, rel=0.05)


def pace_at_its_full_rate():
    pace, now = RateLimiter(None, 1_000, lambda: 0.0), START_S
    for _ in range(500):
        now += pace.wait_s(now)
        pace.started(10, now)
    return pace, now


def gap_s(pace, now):
    pace.started(10, now)
    return pace.wait_s(now)


def test_a_rate_that_is_nearly_what_was_had_lately_is_kept_for_long_and_then_rises_to_what_was_asked_for():
    pace, start = pace_at_its_full_rate()
    pace.throttled(start, None, start)
    now = start + 0.1
    pace.throttled(now, None, now)
    kept = 1_000 * 0.85**2
    assert [gap_s(pace, now + 1.0), gap_s(pace, now + 9.9)] == pytest.approx([10 / kept] * 2, rel=0.02)
    assert 10 / 1_000 < gap_s(pace, now + 12.0) < 10 / kept
    assert gap_s(pace, now + 14.0) == pytest.approx(10 / 1_000 - SLACK_S, abs=SLACK_S)


def test_who_had_all_that_was_asked_for_looks_for_it_soon():
    pace, now = pace_at_its_full_rate()
    pace.throttled(now, None, now)
    assert [gap_s(pace, now + 1.0), gap_s(pace, now + 2.9)] == pytest.approx([10 / 850] * 2, rel=0.02)
    assert gap_s(pace, now + 4.0) == pytest.approx(10 / 1_000 - SLACK_S, abs=SLACK_S)


def test_what_has_fallen_far_is_looked_for_soon():
    pace, now = pace_at_its_full_rate()
    for _ in range(3):
        pace.throttled(now, None, now)
    kept = 1_000 * 0.85**3
    assert [gap_s(pace, now + 1.0), gap_s(pace, now + 2.9)] == pytest.approx([10 / kept] * 2, rel=0.02)
    assert gap_s(pace, now + 4.5) == pytest.approx(10 / 1_000 - SLACK_S, abs=SLACK_S)


def test_a_look_that_came_far_is_followed_by_another_one_soon():
    """The rate has been low for so long that it is what was had lately; then twice as much is accepted."""
    pace, now = pace_at_its_full_rate()
    for _ in range(8):
        pace.throttled(now, None, now)
    end = now + 4.6  # where it has risen from 272 to 912
    rate = 272 + 1_000 * (1.6 / 2) ** 2
    pace.throttled(end, None, end)
    kept = 0.55 * rate
    assert gap_s(pace, end + 2.9) == pytest.approx(10 / kept, rel=0.02)
    assert gap_s(pace, end + 5.0) == pytest.approx(10 / 1_000 - SLACK_S, abs=SLACK_S)
