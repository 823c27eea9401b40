"""
How fast requests may start. Pure: every transition is a function of the state and of ``now``, in monotonic seconds.

A bucket spaces what it lets through instead of letting a second's worth through at once, because a server counts over
windows that are not ours: a burst at a boundary of its windows is throttled though the average is allowed.
"""

from __future__ import annotations

from typing import Final

from airflow_pinecone_upsert.api.limits import MAX_RETRY_AFTER_S

_SLACK_S: Final = 0.05
"""A start that comes late by this much does not lower the rate: threads are not woken on time to the millisecond."""


class _Bucket:
    """A rate, as the moment from which the next unit is allowed (the generic cell rate algorithm)."""

    def __init__(self, per_second: float | None) -> None:
        self._per_second = per_second
        self._next_s = 0.0

    def wait_s(self, now: float) -> float:
        return max(0.0, self._next_s - now)

    def take(self, amount: float, now: float) -> None:
        if self._per_second is not None:
            self._next_s = max(self._next_s, now - _SLACK_S) + amount / self._per_second


class Pace:
    """
    The moment at which the next request may start.

    :param requests_per_second: None for no bound.
    :param bytes_per_second: Bytes of bodies; None for no bound.
    """

    def __init__(self, requests_per_second: float | None, bytes_per_second: float | None) -> None:
        self._requests = _Bucket(requests_per_second)
        self._bytes = _Bucket(bytes_per_second)
        self._held_until_s = 0.0

    def wait_s(self, now: float) -> float:
        """Tell how long no request may start: seconds, 0 for at once."""
        return max(self._requests.wait_s(now), self._bytes.wait_s(now), self._held_until_s - now, 0.0)

    def started(self, body_bytes: int, now: float) -> None:
        """Take a request out of the buckets."""
        self._requests.take(1, now)
        self._bytes.take(body_bytes, now)

    def hold(self, seconds: float, now: float) -> None:
        """Start nothing for a while, as a ``Retry-After`` asks for all of us and not for one request."""
        self._held_until_s = max(self._held_until_s, now + min(seconds, MAX_RETRY_AFTER_S))
