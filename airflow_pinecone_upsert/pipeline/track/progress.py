"""Progress: how fast a run is and how long it will take, as a line of the log and for the task's state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from airflow_pinecone_upsert.pipeline.counts import Counts


class ProgressSample(NamedTuple):
    """
    How far a run is at one moment.

    :param at_s: Monotonic seconds.
    :param counts: The counters over all tries.
    :param share: The share of the source that is settled, 0 to 1; None where it is unknown.
    """

    at_s: float
    counts: Counts
    share: float | None


@dataclass(frozen=True)
class Progress:
    """
    What happened since the previous sample.

    :param counts: The counters over all tries.
    :param records_per_second: Since the previous sample.
    :param bytes_per_second: Since the previous sample.
    :param share: Of the source, 0 to 1; None where it is unknown.
    :param eta_s: Seconds to the end at the mean speed of this try; None where it is unknown.
    """

    counts: Counts
    records_per_second: float
    bytes_per_second: float
    share: float | None = None
    eta_s: float | None = None

    def __str__(self) -> str:
        """Return the line for the log."""
        counts = self.counts
        rejected = f", {counts.rejected:,} rejected" if counts.rejected else ""
        done = "" if self.share is None else f", {self.share:.0%} done"
        eta = "" if self.eta_s is None else f", about {_duration(self.eta_s)} to go"
        return (
            f"{counts.upserted:,} records confirmed{rejected}, {self.records_per_second:,.0f} records/s, "
            f"{self.bytes_per_second / 1e6:.1f} MB/s, {counts.throttled:,} throttled{done}{eta}"
        )

    def as_state(self) -> dict[str, Any]:
        """Return what the task's state shows."""
        return {
            "records": self.counts.upserted,
            "recordsPerSecond": round(self.records_per_second),
            "megabytesPerSecond": round(self.bytes_per_second / 1e6, 1),
            "throttled": self.counts.throttled,
            "rejected": self.counts.rejected,
            "percent": None if self.share is None else round(100 * self.share, 1),
            "etaSeconds": None if self.eta_s is None else round(self.eta_s),
        }


class ProgressMeter:
    """
    Measures the speed between two samples, and since the start.

    :param start: The first sample.
    """

    def __init__(self, start: ProgressSample) -> None:
        self._start = self._last = start

    def measure(self, sample: ProgressSample) -> Progress:
        """Compare a sample with the previous one, and remember it."""
        before, self._last = self._last, sample
        elapsed_s = max(sample.at_s - before.at_s, 1e-9)
        return Progress(
            sample.counts,
            (sample.counts.upserted - before.counts.upserted) / elapsed_s,
            (sample.counts.request_bytes - before.counts.request_bytes) / elapsed_s,
            sample.share,
            _eta_s(self._start, sample),
        )


def _eta_s(start: ProgressSample, now: ProgressSample) -> float | None:
    if now.share is None or now.share <= (start.share or 0.0):
        return None
    return (1.0 - now.share) * (now.at_s - start.at_s) / (now.share - (start.share or 0.0))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
