"""How fast a run goes and how long it will take: a line in the log, and the same for the state that Airflow shows."""

from __future__ import annotations

from typing import Any, NamedTuple


class ProgressSample(NamedTuple):
    """
    Where a run stands.

    :param at_s: Monotonic seconds.
    :param records: Confirmed in this try.
    :param body_bytes: Of the requests of this try.
    :param share: Which part of the source lies before the watermark, 0 to 1; None where nobody knows.
    """

    at_s: float
    records: int = 0
    body_bytes: int = 0
    share: float | None = None


class Progress(NamedTuple):
    """
    What happened between two looks.

    :param records: Confirmed so far, over all tries.
    :param records_per_second: Since the look before.
    :param bytes_per_second: Since the look before.
    :param in_flight: Requests under way.
    :param throttled: Requests refused for coming too fast, so far.
    :param rejected: Records set aside so far.
    :param share: Of the source, 0 to 1.
    :param eta_s: Seconds to the end at the mean speed of this try.
    """

    records: int
    records_per_second: float
    bytes_per_second: float
    in_flight: int
    throttled: int
    rejected: int
    share: float | None
    eta_s: float | None

    def __str__(self) -> str:
        """Write the line for the log."""
        aside = f", {self.rejected:,} rejected" if self.rejected else ""
        done = "" if self.share is None else f", {self.share:.0%} done"
        eta = "" if self.eta_s is None else f", about {_duration(self.eta_s)} to go"
        return (
            f"{self.records:,} records confirmed{aside}, {self.records_per_second:,.0f} records/s, "
            f"{self.bytes_per_second / 1e6:.1f} MB/s, {self.in_flight} in flight, {self.throttled:,} throttled{done}{eta}"
        )

    def as_state(self) -> dict[str, Any]:
        """Return what the state store shows."""
        return {
            "records": self.records,
            "recordsPerSecond": round(self.records_per_second),
            "megabytesPerSecond": round(self.bytes_per_second / 1e6, 1),
            "throttled": self.throttled,
            "rejected": self.rejected,
            "percent": None if self.share is None else round(100 * self.share, 1),
            "etaSeconds": None if self.eta_s is None else round(self.eta_s),
        }


def rates(before: ProgressSample, now: ProgressSample) -> tuple[float, float]:
    """Return records and bytes per second between two readings."""
    elapsed_s = max(now.at_s - before.at_s, 1e-9)
    return (now.records - before.records) / elapsed_s, (now.body_bytes - before.body_bytes) / elapsed_s


def eta_s(start: ProgressSample, now: ProgressSample) -> float | None:
    """Return the seconds to the end at the mean speed since the start; None where nobody knows."""
    if now.share is None or now.share <= (start.share or 0.0):
        return None
    return (1.0 - now.share) * (now.at_s - start.at_s) / (now.share - (start.share or 0.0))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
