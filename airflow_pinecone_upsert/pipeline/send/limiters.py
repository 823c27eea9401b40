"""
A rate limiter for each namespace, because Pinecone's rates are for one: many namespaces may together exceed them.

Invariant: memory is bounded. The limiter that was not used for longest is dropped; a namespace that comes back starts as a
new one does. Of a namespace that waits, the limiter is in use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from airflow_pinecone_upsert.pipeline.send.rate_limiter import RateLimiter

MAX_LIMITERS: Final = 1_000
"""More than requests can be unsettled; an idle limiter takes about 2 KB, a busy one 300 KB."""


class Limiters(Protocol):
    """What has the rate limiter of each namespace."""

    def of(self, namespace: str) -> RateLimiter:
        """Return the limiter of a namespace."""
        ...


class SharedLimiter:
    """
    One rate limiter for all requests.

    :param limiter: The limiter.
    """

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter

    def of(self, namespace: str) -> RateLimiter:  # noqa: ARG002 - the same for all
        """Return the limiter."""
        return self._limiter


class NamespaceLimiters:
    """
    A rate limiter for each namespace.

    :param create: Returns a new one.
    :param max_kept: How many are kept.
    """

    def __init__(self, create: Callable[[], RateLimiter], *, max_kept: int = MAX_LIMITERS) -> None:
        self._create = create
        self._max_kept = max_kept
        self._limiters: dict[str, RateLimiter] = {}  # the one that was not used for longest is the first

    def of(self, namespace: str) -> RateLimiter:
        """Return the limiter of a namespace."""
        limiter = self._limiters.pop(namespace, None) or self._create()
        self._limiters[namespace] = limiter
        if len(self._limiters) > self._max_kept:
            del self._limiters[next(iter(self._limiters))]
        return limiter
