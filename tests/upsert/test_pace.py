"""When the next request may start, by a clock that the test turns."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pinecone_upsert.api.limits import MAX_RETRY_AFTER_S
from airflow_pinecone_upsert.upsert.pace import Pace

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
    assert set(starts(Pace(None, None), [10**9] * 50)) == {START_S}


def test_requests_are_spaced():
    found = starts(Pace(100, None), [1] * 101)
    assert found[-1] - found[0] == pytest.approx(1.0 - SLACK_S)
    assert max(later - earlier for earlier, later in pairwise(found)) == pytest.approx(0.01)


def test_bytes_are_spaced():
    found = starts(Pace(None, 50_000_000), [2_000_000] * 26)
    assert found[-1] - found[0] == pytest.approx(1.0 - SLACK_S)


def test_the_slower_bound_counts():
    assert starts(Pace(1, 10**9), [1, 1, 1])[-1] == pytest.approx(START_S + 2.0 - SLACK_S)
    assert starts(Pace(10**9, 1), [1, 1, 1])[-1] == pytest.approx(START_S + 2.0 - SLACK_S)


@given(
    st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 3)), min_size=2, max_size=60),
    st.floats(0.5, 50),
    st.floats(100, 20_000),
)
def test_in_no_stretch_of_time_is_a_rate_exceeded(requests, requests_per_second, bytes_per_second):
    bodies, pauses = zip(*requests, strict=True)
    found = starts(Pace(requests_per_second, bytes_per_second), bodies, pauses)
    for first in range(len(found)):
        for last in range(first, len(found)):
            allowed_s = found[last] - found[first] + SLACK_S + 1e-6
            assert last - first <= requests_per_second * allowed_s
            assert sum(bodies[first:last]) <= bytes_per_second * allowed_s


def test_idle_time_is_not_saved_up():
    found = starts(Pace(10, None), [1] * 12, [0.0, 60.0, *[0.0] * 10])
    assert found[-1] - found[1] == pytest.approx(1.0 - SLACK_S)


def test_a_hold_stops_every_start_until_it_is_over():
    pace = Pace(None, None)
    pace.hold(5.0, START_S)
    assert pace.wait_s(START_S + 2.0) == 3.0
    pace.hold(1.0, START_S + 2.0)
    assert pace.wait_s(START_S + 2.0) == 3.0  # a shorter one does not shorten it
    assert pace.wait_s(START_S + 5.0) == 0.0


def test_an_absurd_hold_is_cut():
    pace = Pace(None, None)
    pace.hold(1e9, START_S)
    assert pace.wait_s(START_S) == MAX_RETRY_AFTER_S
