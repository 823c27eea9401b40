"""Backoff between attempts, with a random number that the test chooses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pinecone_upsert.api.backoff import backoff_s
from airflow_pinecone_upsert.api.limits import BACKOFF_CAP_S, MAX_RETRY_AFTER_S


def test_the_longest_wait_doubles_up_to_the_cap():
    assert [backoff_s(attempt, None, lambda: 1.0) for attempt in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize(("random_number", "wait_s"), [(0.0, 0.0), (0.25, 2.0), (0.5, 4.0)])
def test_the_jitter_is_full(random_number, wait_s):
    assert backoff_s(4, None, lambda: random_number) == wait_s


@given(st.integers(1, 1_000), st.none() | st.floats(0, allow_nan=False), st.floats(0, 1, exclude_max=True))
def test_the_wait_is_at_least_retry_after_and_bounded(attempt, retry_after_s, random_number):
    wait_s = backoff_s(attempt, retry_after_s, lambda: random_number)
    shortest_s = min(retry_after_s or 0.0, MAX_RETRY_AFTER_S)
    assert shortest_s <= wait_s <= max(BACKOFF_CAP_S, shortest_s)
