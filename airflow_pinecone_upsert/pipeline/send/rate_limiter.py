"""
How fast requests may start. Pure: every transition is a function of the state and of ``now``, in monotonic seconds.

Two rules, and the slower one counts:

* What was asked for is spaced, not let through a second's worth at once: a server counts over windows that are not
  ours, so a burst at a boundary of its windows is throttled though the average is allowed.
* What only the server knows (others write to the namespace, the allowance has moved) is learned from being throttled:
  the rate is cut, kept for a while, and raised again until the next cut.

A refusal tells nothing of why: the allowance fell and will be back, or others share it for good. The first wants to be
looked for soon, the second seldom, since every look costs a refusal or two of somebody's. So a rate far below what was
had lately is kept for a short while, and one that has been much the same for half a minute for a long one. The price: an
allowance that comes back after a whole minute is found after 11 s, 15 s at the most, not after 2 to 4 s.

The constants of the second rule were chosen in a simulation of servers with token buckets of 0.25 to 2 s and latencies
of several kinds (``tests/pipeline/send/test_rate_limiter_simulated.py``). Where every rate is kept for 3 s, 7 % of four senders'
requests are throttled and 14 % of eight senders'; with this rule 3.5 to 4.5 % and 10 %, for parts a little less equal.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from airflow_pinecone_upsert.api.backoff import Random
from airflow_pinecone_upsert.api.limits import MAX_RETRY_AFTER_S

_SLACK_S: Final = 0.05
"""A start that comes late by this much does not lower the rate: threads are not woken on time to the millisecond."""

_START: Final = 0.5
"""Of the rate that was asked for, to begin with: tasks that start together find their shares without a storm."""

_CUT: Final = 0.85
"""What is left of a kept rate, and of a rate after each further refusal of the same flight."""

_FALL: Final = 0.55
"""What is left of a rate that was being raised, unless that is less than a cut leaves of the rate kept before."""

_KEEP_S: Final = 10.0
_KEEP_MOVED_S: Final = 3.0
"""How long a rate is kept, and how long after the allowance seems to have moved, or a part to have become too small."""

_LOST: Final = 0.7
"""It has moved where less than this is left of what was had lately. One cut is everyday life, two come to this."""

_MOVED: Final = 2.0
"""It has moved where this many times the rate kept before was reached."""

_RISE_S: Final = 2.0
"""From nothing to all that was asked for, growing with the square of the time: to begin with."""

_RISE_PER_KEEP: Final = 2 / 3
"""A look after a long while is a slow one: what is refused of a fast one hits the other senders as well."""

_PAUSE_S: Final = 0.5
"""Mean rest after a refusal, in which what came too fast drains; from half to one and a half times as long."""

_METER_S: Final = 1.0
_MEMORY_S: Final = 30.0
"""What "lately" means."""

_LOOK_AGAIN_S: Final = 0.5


class _Bucket:
    """A rate, as the moment from which the next unit is allowed (the generic cell rate algorithm)."""

    def __init__(self, per_second: float | None) -> None:
        self._per_second = per_second
        self._next_s = float("-inf")

    def wait_s(self, now: float) -> float:
        return self._next_s - now

    def take(self, amount: float, now: float) -> None:
        if self._per_second is not None:
            self._next_s = max(self._next_s, now - _SLACK_S) + amount / self._per_second


class _Learned:
    """
    The rate of bytes that the server seems to allow.

    :param asked: The most that was asked for; None for no bound.
    """

    def __init__(self, asked: float | None) -> None:
        self._asked = asked
        self._scale = asked or 0.0  # what a rate rises by in _rise_s
        self._kept: float | None = None
        self._cut_s = 0.0
        self._keep_s = 0.0
        self._rise_s = _RISE_S
        self._first_s = float("inf")
        self._flight_began_s = float("-inf")
        self._recent: deque[tuple[float, int]] = deque()

    def per_second(self, now: float) -> float | None:
        """Return the bound; None where there is none below what was asked for."""
        if self._kept is None:
            return None
        grown_s = max(0.0, now - self._cut_s - self._keep_s)
        rate = self._kept + self._scale * (grown_s / self._rise_s) ** 2
        return rate if self._asked is None or rate < self._asked else None

    def wait_s(self, now: float) -> float:
        rate = self.per_second(now)
        if rate is None or not self._recent:
            return 0.0
        last_s, body_bytes = self._recent[-1]
        # The rate may rise meanwhile: ask again soon.
        return min(last_s + body_bytes / rate - now, _LOOK_AGAIN_S)

    def started(self, body_bytes: int, now: float) -> None:
        if self._first_s > now:
            self._first_s = now
            if self._asked is not None:
                self._kept, self._cut_s = _START * self._asked, now
        self._recent.append((now, body_bytes))
        while self._recent[0][0] < now - _MEMORY_S:
            self._recent.popleft()

    def throttled(self, started_s: float, now: float) -> None:
        lately, kept_before = self._mean(_MEMORY_S, now), self._kept
        rate = self.per_second(now)
        if rate is None or self._kept is None:
            # The last second alone may have been a rest.
            rate = self._kept = max(self._mean(_METER_S, now), lately)
            self._scale = self._scale or rate
        if started_s < self._flight_began_s:
            self._kept *= _CUT
        else:
            self._kept = max(_CUT * self._kept, _FALL * rate)
            self._flight_began_s = now
        has_moved = self._kept < _LOST * lately or (kept_before is not None and rate > _MOVED * kept_before)
        self._cut_s, self._keep_s = now, _KEEP_MOVED_S if has_moved else _KEEP_S
        self._rise_s = _RISE_PER_KEEP * self._keep_s

    def _mean(self, over_s: float, now: float) -> float:
        """Return the bytes per second of the last ``over_s``, or of the time since the first start."""
        started_bytes = sum(size for at_s, size in self._recent if at_s >= now - over_s)
        return (started_bytes or 1) / max(_METER_S, min(over_s, now - self._first_s))


class RateLimiter:
    """
    The moment at which the next request may start.

    :param requests_per_second: None for no bound.
    :param bytes_per_second: Bytes of bodies; None for no bound.
    :param random: A source of floats in [0, 1).
    """

    def __init__(self, requests_per_second: float | None, bytes_per_second: float | None, random: Random) -> None:
        self._random = random
        self._requests = _Bucket(requests_per_second)
        self._bytes = _Bucket(bytes_per_second)
        self._learned = _Learned(bytes_per_second)
        self._held_until_s = 0.0

    def wait_s(self, now: float) -> float:
        """Tell how long no request may start: seconds, 0 for at once."""
        rules = (self._requests, self._bytes, self._learned)
        return max(0.0, self._held_until_s - now, *(rule.wait_s(now) for rule in rules))

    def started(self, body_bytes: int, now: float) -> None:
        """Take a request out of the buckets."""
        self._learned.started(body_bytes, now)
        self._requests.take(1, now)
        self._bytes.take(body_bytes, now)

    def throttled(self, started_s: float, retry_after_s: float | None, now: float) -> None:
        """
        Slow down, for all requests and not for the one that was refused.

        :param started_s: When that one started: refusals of one flight are one event.
        :param retry_after_s: What the server asks for; beyond 120 s it is cut.
        """
        self._learned.throttled(started_s, now)
        rest_s = _PAUSE_S * (0.5 + self._random())
        self._held_until_s = max(self._held_until_s, now + max(rest_s, min(retry_after_s or 0.0, MAX_RETRY_AFTER_S)))
