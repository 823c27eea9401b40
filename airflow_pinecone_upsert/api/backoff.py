"""How long to wait before the same request is sent again. Pure: randomness is an argument."""

from __future__ import annotations

from collections.abc import Callable

from airflow_pinecone_upsert.api.limits import BACKOFF_BASE_S, BACKOFF_CAP_S, MAX_RETRY_AFTER_S

Random = Callable[[], float]
"""Returns a float in [0, 1), as ``random.random`` does."""


def backoff_s(attempt: int, retry_after_s: float | None, random: Random) -> float:
    """
    Exponential backoff with full jitter, but never less than what the server asked for.

    Full jitter spreads the clients that failed together over the whole interval
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).

    :param attempt: Tries so far, from 1.
    :param retry_after_s: The server's ``Retry-After``; beyond 120 s it is cut.
    :param random: A source of floats in [0, 1).
    :return: Seconds to wait.
    """
    ceiling = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** (attempt - 1))
    return max(random() * ceiling, min(retry_after_s or 0.0, MAX_RETRY_AFTER_S))
