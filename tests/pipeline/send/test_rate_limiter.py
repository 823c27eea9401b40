"""When the next request may start, by a clock that the test sets."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pinecone_upsert.api.limits import MAX_RETRY_AFTER_S
from airflow_pinecone_upsert.pipeline.send.rate_limiter import RateLimiter

SLACK_S = 0.05
START_S = 1_000.0


def starts(limiter, bodies, pauses=()):
    """Start requests as early as the limiter allows, each after a pause of its own; return when."""
    now, found = START_S, []
    for body_bytes, pause_s in zip(bodies, pauses or [0.0] * len(bodies), strict=True):
        now += pause_s
        now += limiter.wait_s(now)
        limiter.started(body_bytes, now)
        found.append(now)
    return found


def test_without_a_bound_nothing_waits():
    assert set(starts(RateLimiter(None, None, lambda: 0.5), [10**9] * 50)) == {START_S}


def test_requests_are_slimiterd():
    found = starts(RateLimiter(100, None, lambda: 0.5), [1] * 101)
    assert found[-1] - found[0] == pytest.approx(1.0 - SLACK_S)
    assert max(later - earlier for earlier, later in pairwise(found)) == pytest.approx(0.01)


def test_bytes_are_slimiterd():
    found = starts(RateLimiter(None, 50_000_000, lambda: 0.5), [2_000_000] * 200)
    last = found[-26:]
    assert last[-1] - last[0] == pytest.approx(1.0)
    assert max(later - earlier for earlier, later in pairwise(last)) == pytest.approx(0.04)


def test_the_byte_rate_starts_below_the_limit_and_reaches_it_within_two_seconds():
    found = starts(RateLimiter(None, 50_000_000, lambda: 0.5), [2_000_000] * 200)
    gaps = [later - earlier for earlier, later in pairwise(found)]
    assert gaps[0] > 0.07
    assert gaps == sorted(gaps, reverse=True) or max(gaps[60:]) == pytest.approx(0.04)
    assert sum(at < START_S + 2.0 for at in found) >= 25


def test_a_low_rate_of_large_requests_is_not_slowed_by_the_start():
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
def test_a_rate_is_exceeded_in_no_interval(requests, requests_per_second, bytes_per_second):
    bodies, pauses = zip(*requests, strict=True)
    found = starts(RateLimiter(requests_per_second, bytes_per_second, lambda: 0.5), bodies, pauses)
    for first in range(len(found)):
        for last in range(first, len(found)):
            allowed_s = found[last] - found[first] + SLACK_S + 1e-6
            assert last - first <= requests_per_second * allowed_s
            assert sum(bodies[first:last]) <= bytes_per_second * allowed_s


def test_idle_time_does_not_accumulate():
    found = starts(RateLimiter(10, None, lambda: 0.5), [1] * 12, [0.0, 60.0, *[0.0] * 10])
    assert found[-1] - found[1] == pytest.approx(1.0 - SLACK_S)


def throttle(limiter, retry_after_s, now):
    limiter.started(1, now)
    limiter.throttled(now, retry_after_s, now)


def test_retry_after_delays_every_start():
    limiter = RateLimiter(None, None, lambda: 0.5)
    throttle(limiter, 5.0, START_S)
    assert limiter.wait_s(START_S + 2.0) == 3.0
    throttle(limiter, 1.0, START_S + 2.0)
    assert limiter.wait_s(START_S + 2.0) == 3.0  # a shorter one does not shorten it
    assert limiter.wait_s(START_S + 9.0) == 0.0


def test_an_absurd_retry_after_is_cut():
    limiter = RateLimiter(None, None, lambda: 0.5)
    throttle(limiter, 1e9, START_S)
    assert limiter.wait_s(START_S) == MAX_RETRY_AFTER_S


def test_throttling_within_one_flight_cuts_less_than_across_flights():
    """Ten refusals of requests that started together, and ten of requests that started after the refusal before."""

    def rate_after(gap_s):
        limiter, now = RateLimiter(None, 1_000, lambda: 0.0), START_S
        for _ in range(500):
            now += limiter.wait_s(now)
            limiter.started(10, now)
        for number in range(5):
            limiter.throttled(now if gap_s == 0 else now + number * gap_s, None, now + number * gap_s)
        end = now + 4 * gap_s + 1.0
        first = end + limiter.wait_s(end)
        limiter.started(10, first)
        return 10 / limiter.wait_s(first)

    assert rate_after(0.0) == pytest.approx(1_000 * 0.85**5, rel=0.05)


def limiter_at_its_full_rate():
    limiter, now = RateLimiter(None, 1_000, lambda: 0.0), START_S
    for _ in range(500):
        now += limiter.wait_s(now)
        limiter.started(10, now)
    return limiter, now


def gap_s(limiter, now):
    limiter.started(10, now)
    return limiter.wait_s(now)


def test_a_rate_near_the_recent_mean_is_kept_for_long_and_then_rises():
    limiter, start = limiter_at_its_full_rate()
    limiter.throttled(start, None, start)
    now = start + 0.1
    limiter.throttled(now, None, now)
    kept = 1_000 * 0.85**2
    assert [gap_s(limiter, now + 1.0), gap_s(limiter, now + 9.9)] == pytest.approx([10 / kept] * 2, rel=0.02)
    assert 10 / 1_000 < gap_s(limiter, now + 12.0) < 10 / kept
    assert gap_s(limiter, now + 14.0) == pytest.approx(10 / 1_000 - SLACK_S, abs=SLACK_S)


def test_a_sender_at_its_full_rate_probes_again_soon():
    limiter, now = limiter_at_its_full_rate()
    limiter.throttled(now, None, now)
    assert [gap_s(limiter, now + 1.0), gap_s(limiter, now + 2.9)] == pytest.approx([10 / 850] * 2, rel=0.02)
    assert gap_s(limiter, now + 4.0) == pytest.approx(10 / 1_000 - SLACK_S, abs=SLACK_S)


def test_after_a_deep_fall_the_rate_is_probed_soon():
    limiter, now = limiter_at_its_full_rate()
    for _ in range(3):
        limiter.throttled(now, None, now)
    kept = 1_000 * 0.85**3
    assert [gap_s(limiter, now + 1.0), gap_s(limiter, now + 2.9)] == pytest.approx([10 / kept] * 2, rel=0.02)
    assert gap_s(limiter, now + 4.5) == pytest.approx(10 / 1_000 - SLACK_S, abs=SLACK_S)


def test_a_probe_that_went_far_is_followed_by_another_one_soon():
    """The rate has been low for so long that it is what was had lately; then twice as much is accepted."""
    limiter, now = limiter_at_its_full_rate()
    for _ in range(8):
        limiter.throttled(now, None, now)
    end = now + 4.6  # where it has risen from 272 to 912
    rate = 272 + 1_000 * (1.6 / 2) ** 2
    limiter.throttled(end, None, end)
    kept = 0.55 * rate
    assert gap_s(limiter, end + 2.9) == pytest.approx(10 / kept, rel=0.02)
    assert gap_s(limiter, end + 5.0) == pytest.approx(10 / 1_000 - SLACK_S, abs=SLACK_S)
