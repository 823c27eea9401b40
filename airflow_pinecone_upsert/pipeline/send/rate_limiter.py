"""
How fast requests may start. Pure: every transition is a function of the state and of ``now``, in monotonic seconds.

There are two rules, and the slower one counts:

* The rates that the user set, and the one that ``learned_limits`` finds, are spaced, not spent a second's worth at once: a
  server counts over windows that are not ours, so a burst at a boundary of its windows would be throttled although the
  average is allowed.
* What only the server knows (others write to the namespace, the allowance has changed) is learned from being throttled:
  the rate is cut, kept for a while, and raised again until the next cut.

A 429 does not say why: the allowance fell and will come back, or others share it for good. The first is worth probing
soon, the second rarely, since every probe costs someone a 429 or two. So a rate far below the recent mean is kept for a
short while, and one that has been much the same for half a minute for a long one. The price: an allowance that comes back
after a whole minute is found after 11 s, at most 15 s, instead of 2 to 4 s.

The constants of the second rule were chosen in a simulation of servers with token buckets of 0.25 to 2 s and several
kinds of latency (``tests/pipeline/send/test_rate_limiter_simulated.py``). Where every rate is kept for 3 s, 7 % of four
senders' requests are throttled and 14 % of eight senders'; with this rule 3.5 to 4.5 % and 10 %, for shares that are a
little less equal.

Besides requests, a server counts *units*: bytes of the bodies of upserts, ids of deletes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from airflow_pinecone_upsert.api.backoff import Random
from airflow_pinecone_upsert.api.limits import MAX_RETRY_AFTER_S
from airflow_pinecone_upsert.pipeline.send.learned_limits import ByteRate, ByteRates

_SLACK_S: Final = 0.05
"""A start that is late by this much does not lower the rate: threads do not wake up to the millisecond."""

_START: Final = 0.5
"""The share of the user's rate to begin with: tasks that start together find their shares without a burst."""

_CUT: Final = 0.85
"""The share that remains of a kept rate, and of a rate after each further 429 of the same flight."""

_FALL: Final = 0.55
"""The share that remains of a rate that was being raised, but no less than a cut of the rate kept before."""

_KEEP_S: Final = 10.0
_KEEP_MOVED_S: Final = 3.0
"""How long a rate is kept, and how long where the allowance seems to have moved or the share to be too small."""

_LOST: Final = 0.7
"""It has moved where less than this share of the recent mean remains. One cut is normal, two amount to this."""

_MOVED: Final = 2.0
"""It has moved where this multiple of the rate kept before was reached."""

_RISE_S: Final = 2.0
"""From nothing to the user's rate, growing with the square of the time, at the start."""

_RISE_PER_KEEP: Final = 2 / 3
"""A probe after a long while is slow: the 429s of a fast one hit the other senders as well."""

_PAUSE_S: Final = 0.5
"""Mean pause after a 429, in which the excess drains; from half to one and a half times as long."""

_METER_S: Final = 1.0
_MEMORY_S: Final = 30.0
"""The window of the recent mean."""

_RECHECK_S: Final = 0.5


class _Spacing:
    """A rate, as the moment from which the next unit is allowed (the generic cell rate algorithm)."""

    def __init__(self, per_second: float | None) -> None:
        self.per_second = per_second
        self._next_s = float("-inf")

    def wait_s(self, now: float) -> float:
        return self._next_s - now

    def take(self, amount: float, now: float) -> None:
        if self.per_second is not None:
            self._next_s = max(self._next_s, now - _SLACK_S) + amount / self.per_second


class _LearnedRate:
    """
    The rate of units that the server seems to allow.

    :ivar limit: The rate of the first rule; None for no bound.
    :param scale: What a rate rises by in ``_rise_s``: the same for senders that found different limits, so that they
        share alike.
    """

    def __init__(self, limit: float | None, scale: float | None) -> None:
        self.limit = limit
        self._scale = scale or 0.0
        self._kept: float | None = None
        self._cut_s = 0.0
        self._keep_s = 0.0
        self._rise_s = _RISE_S
        self._first_s = float("inf")
        self._flight_began_s = float("-inf")
        self._recent: deque[tuple[float, int]] = deque()

    def per_second(self, now: float) -> float | None:
        """Return the bound; None where there is none below the user's rate."""
        if self._kept is None:
            return None
        grown_s = max(0.0, now - self._cut_s - self._keep_s)
        rate = self._kept + self._scale * (grown_s / self._rise_s) ** 2
        return rate if self.limit is None or rate < self.limit else None

    def wait_s(self, now: float) -> float:
        rate = self.per_second(now)
        if rate is None or not self._recent:
            return 0.0
        last_s, units = self._recent[-1]
        # The rate may rise meanwhile: check again soon.
        return min(last_s + units / rate - now, _RECHECK_S)

    def started(self, units: int, now: float) -> None:
        if self._first_s > now:
            self._first_s = now
            if self.limit is not None:
                self._kept, self._cut_s = _START * self.limit, now
        self._recent.append((now, units))
        while self._recent[0][0] < now - _MEMORY_S:
            self._recent.popleft()

    def throttled(self, started_s: float, now: float) -> None:
        recent, kept_before = self._mean(_MEMORY_S, now), self._kept
        rate = self.per_second(now)
        if rate is None or self._kept is None:
            # The last second alone may have been a pause.
            rate = self._kept = max(self._mean(_METER_S, now), recent)
            self._scale = self._scale or rate
        if started_s < self._flight_began_s:
            self._kept *= _CUT
        else:
            self._kept = max(_CUT * self._kept, _FALL * rate)
            self._flight_began_s = now
        has_moved = self._kept < _LOST * recent or (kept_before is not None and rate > _MOVED * kept_before)
        self._cut_s, self._keep_s = now, _KEEP_MOVED_S if has_moved else _KEEP_S
        self._rise_s = _RISE_PER_KEEP * self._keep_s

    def _mean(self, over_s: float, now: float) -> float:
        """Return the units per second of the last ``over_s``, or of the time since the first start."""
        started_units = sum(size for at_s, size in self._recent if at_s >= now - over_s)
        return (started_units or 1) / max(_METER_S, min(over_s, now - self._first_s))


class RateLimiter:
    """
    When the next request may start.

    :param requests_per_second: None for no bound.
    :param units_per_second: Bytes of upserts, also a rate that grows; ids of deletes; None for no bound.
    :param random: A source of floats in [0, 1).
    """

    def __init__(
        self, requests_per_second: float | None, units_per_second: float | ByteRate | None, random: Random
    ) -> None:
        rate = (
            units_per_second if isinstance(units_per_second, ByteRate | None) else ByteRates(units_per_second).create()
        )
        self._random = random
        self._rate = rate
        self._requests = _Spacing(requests_per_second)
        self._units = _Spacing(rate.per_second if rate else None)
        self._binary = _Spacing(rate.max_binary if rate else None)
        self._learned = _LearnedRate(rate.per_second, rate.safe) if rate else _LearnedRate(None, None)
        self._held_until_s = 0.0

    def wait_s(self, now: float) -> float:
        """Return how long no request may start: seconds, 0 for at once."""
        rules = (self._requests, self._units, self._binary, self._learned)
        return max(0.0, self._held_until_s - now, *(rule.wait_s(now) for rule in rules))

    def started(self, units: int, now: float, binary_units: Callable[[], int] | None = None) -> None:
        """
        Count a request that starts.

        :param binary_units: Returns what the server may count instead of ``units``, where that is less.
        """
        self._learned.started(units, now)
        self._requests.take(1, now)
        self._units.take(units, now)
        if self._rate is None:
            return
        if binary_units is not None and self._rate.per_second > self._rate.safe:
            self._binary.take(binary_units(), now)
        self._rate.started(units, now)
        self._follow(self._rate)

    def throttled(self, started_s: float, retry_after_s: float | None, now: float) -> None:
        """
        Slow down all requests, not only the one that was throttled.

        :param started_s: When that one started: the 429s of one flight are one event.
        :param retry_after_s: The server's ``Retry-After``, at most 120 s of it.
        """
        is_step_too_far = self._rate is not None and self._rate.throttled(started_s, now)
        if self._rate is not None:
            self._follow(self._rate)
        if not is_step_too_far:  # then to go back to what was accepted is enough
            self._learned.throttled(started_s, now)
        pause_s = _PAUSE_S * (0.5 + self._random())
        self._held_until_s = max(self._held_until_s, now + max(pause_s, min(retry_after_s or 0.0, MAX_RETRY_AFTER_S)))

    def _follow(self, rate: ByteRate) -> None:
        self._units.per_second = self._learned.limit = rate.per_second
