"""
The counters of a run. A new counter is one more field of :class:`Counts`.

The checkpoint, the report, the metrics, the span and the progress line read them from here, each under the name that
the field gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from typing_extensions import Self


def _counter(output_key: str, *, metric: str | None = None) -> Any:
    """
    Declare a counter that starts at 0.

    :param output_key: Its name in the task's output and in the checkpoint.
    :param metric: Its name after ``pinecone_upsert.``; None for a counter without a metric.
    """
    return field(default=0, metadata={"output_key": output_key, "metric": metric})


@dataclass(frozen=True)
class Counts:
    """
    What was done so far. Counts add up.

    :param upserted: Records that the server confirmed: the sum of its ``upsertedCount``.
    :param rejected: Records that were not sent, or that the server does not take.
    :param requests: Requests that ended, repeated ones included.
    :param request_bytes: Bytes of their bodies.
    :param retries: Requests that repeated an earlier one, whole or in part.
    :param throttled: Requests that the server answered with 429.
    :param duration_s: Seconds.
    """

    upserted: int = _counter("upsertedCount", metric="records")
    rejected: int = _counter("rejectedCount")
    requests: int = _counter("requestCount", metric="requests")
    request_bytes: int = _counter("requestBytes", metric="bytes")
    retries: int = _counter("retryCount", metric="retries")
    throttled: int = _counter("throttledCount", metric="throttled")
    duration_s: float = _counter("durationSeconds")

    def __add__(self, other: Self) -> Self:
        """Add each counter to its counterpart."""
        return type(self)(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def as_json(self) -> dict[str, float]:
        """Return the counters by the names of the task's output; seconds in milliseconds' precision."""
        return {one.metadata["output_key"]: round(getattr(self, one.name), 3) for one in fields(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """
        Read what :meth:`as_json` returned.

        :raises KeyError: A counter is missing.
        :raises TypeError: A counter is not a number.
        """
        counts = {one.name: value[one.metadata["output_key"]] for one in fields(cls)}
        return cls(**{name: count + 0 for name, count in counts.items()})

    @classmethod
    def metric_names(cls) -> frozenset[str]:
        """Return the names of the counters that have a metric."""
        return frozenset(name for one in fields(cls) if (name := one.metadata["metric"]))

    def metrics(self) -> Iterator[tuple[str, int]]:
        """Yield the name and the value of each counter that has a metric and is not 0."""
        for one in fields(self):
            value = getattr(self, one.name)
            if value and one.metadata["metric"]:
                yield one.metadata["metric"], value


@dataclass(frozen=True)
class ReindexCounts(Counts):
    """
    What a reindexing run did so far.

    :param new: Confirmed records whose ids the manifest did not have. Of a dry run, records that would be sent.
    :param changed: Likewise, records that replaced others.
    :param unchanged: Records that were not sent.
    :param deleted: Ids whose deletion the server confirmed. Of a dry run, ids that would be deleted.
    :param delete_requests: Requests that deleted ids and ended, repeated ones included.
    :param write_units: Estimate of what the run cost.
    :param write_units_saved: Estimate of what sending the unchanged records would have cost.
    :param verified: Records, and deleted ids, that were fetched and compared.
    :param lost: Ids of the manifest that an audit did not find in the namespace.
    :param stray: Ids of the namespace that an audit did not find in the manifest.
    """

    new: int = _counter("newCount")
    changed: int = _counter("changedCount")
    unchanged: int = _counter("unchangedCount")
    deleted: int = _counter("deletedCount", metric="deleted")
    delete_requests: int = _counter("deleteRequestCount")
    write_units: int = _counter("writeUnits")
    write_units_saved: int = _counter("writeUnitsSaved")
    verified: int = _counter("verifiedCount")
    lost: int = _counter("lostCount")
    stray: int = _counter("strayCount")
