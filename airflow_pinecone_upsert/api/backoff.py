"""The wait between two attempts at one request. Pure: randomness is an argument."""

from __future__ import annotations

from collections.abc import Callable

from airflow_pinecone_upsert.api.limits import BACKOFF_BASE_S, BACKOFF_CAP_S, MAX_RETRY_AFTER_S

Random = Callable[[], float]
"""Returns a float in [0, 1), as ``random.random`` does."""


def backoff_s(attempt: int, retry_after_s: float | None, random: Random) -> float:
    """
    Return the wait before the next attempt: exponential backoff with full jitter, and at least the server's ``Retry-After``.

    Full jitter spreads clients that failed at the same time over the whole interval
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).

    :param attempt: Attempts so far, at least 1.
    :param retry_after_s: The server's ``Retry-After`` in seconds, None if it sent none. Values above 120 are cut to 120.
    :param random: A source of floats in [0, 1).
    :return: The wait in seconds.
    """
    ceiling = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** (attempt - 1))
    return max(random() * ceiling, min(retry_after_s or 0.0, MAX_RETRY_AFTER_S))
