"""The result of an upsert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from airflow_pinecone_upsert.api.endpoints import shown_namespace
from airflow_pinecone_upsert.pipeline.counts import Counts
from airflow_pinecone_upsert.pipeline.learned import Learned
from airflow_pinecone_upsert.pipeline.wording import number_of

MAX_NAMESPACES_NAMED: Final = 100
"""In the output and in asset events: both are rows of Airflow's database."""


class Written(NamedTuple):
    """
    What the server confirmed in one namespace.

    :param upserted: Records.
    :param lsn: The log sequence number of the last write; None where the server reports none.
    """

    upserted: int
    lsn: int | None = None


@dataclass(frozen=True)
class UpsertReport:
    """
    The result of an upsert, over all tries of its task. Every count is what the server said.

    :param counts: The counters.
    :param resumed_count: Those of the upserted records that earlier tries had sent.
    :param rejects_paths: The files that contain the rejected records.
    :param distinct_count: Distinct ids among the upserted records, if one try sent all of them, and at most a million.
    :param namespace: Where the records are; ``""`` is the default namespace.
    :param index_host: The URL of the index.
    :param lsn: The log sequence number of the last write, as far as the tries know it; None where the server reports none.
    :param namespaces: What the server confirmed in each namespace, where the records named theirs.
    :param learned: How large a request may be, and how many bytes may start in a second, as the server showed; None where
        nothing was sent.
    :param is_dry_run: Nothing was sent or written, as only a reindexing run can.
    """

    counts: Counts = field(default_factory=Counts)
    resumed_count: int = 0
    rejects_paths: tuple[str, ...] = ()
    distinct_count: int | None = None
    namespace: str = ""
    index_host: str = ""
    lsn: int | None = None
    namespaces: Mapping[str, Written] | None = None
    learned: Learned | None = None
    is_dry_run: bool = False

    @property
    def upserted_count(self) -> int:
        """Records that the server confirmed: the sum of its ``upsertedCount``."""
        return self.counts.upserted

    @property
    def rejected_count(self) -> int:
        """Records that were not sent, or that the server does not take."""
        return self.counts.rejected

    def as_output(self) -> dict[str, Any]:
        """Return the task's output."""
        return {
            **self.counts.as_json(),
            "resumedCount": self.resumed_count,
            "rejectsPaths": list(self.rejects_paths),
            "distinctCount": self.distinct_count,
            "namespace": self.namespace,
            "indexHost": self.index_host,
            "lsn": self.lsn,
            "learned": self.learned.as_output() if self.learned else None,
            **self._namespaces_as_output(),
        }

    @property
    def largest_namespaces(self) -> dict[str, int]:
        """The records of the namespaces that got most, 100 at most; ``""`` is the default one."""
        found = sorted((self.namespaces or {}).items(), key=lambda item: (-item[1].upserted, item[0]))
        return {name: written.upserted for name, written in found[:MAX_NAMESPACES_NAMED]}

    def _namespaces_as_output(self) -> dict[str, Any]:
        if self.namespaces is None:
            return {}
        named = {shown_namespace(name): count for name, count in self.largest_namespaces.items()}
        return {"namespaces": named, "namespaceCount": len(self.namespaces)}

    @property
    def target(self) -> str:
        """Where the records are, for messages."""
        if self.namespaces is None:
            return repr(shown_namespace(self.namespace))
        return number_of(len(self.namespaces), "namespace")

    def __str__(self) -> str:
        """Summarise it in one sentence, for the log."""
        counts = self.counts
        resumed = f", {self.resumed_count:,} of them in earlier tries" if self.resumed_count else ""
        return (
            f"Upserted {number_of(counts.upserted, 'record')}{resumed} into {self.target} "
            f"in {counts.duration_s:,.1f} s ({number_of(counts.requests, 'request')}, "
            f"{counts.request_bytes / 1e6:,.1f} MB, {number_of(counts.retries, 'retry', 'retries')})."
        )
