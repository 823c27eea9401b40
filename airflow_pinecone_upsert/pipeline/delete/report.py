"""The result of a deletion."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from airflow_pinecone_upsert.pipeline.counts import Counts
from airflow_pinecone_upsert.pipeline.wording import number_of

_OUTPUT_KEYS: Final = ("requestCount", "requestBytes", "retryCount", "throttledCount", "durationSeconds")
"""Of the counters of a run, those that a deletion has."""


@dataclass(frozen=True)
class DeletionReport:
    """
    The result of a deletion, or of a dry run.

    :param deleted_count: Ids whose deletion the server confirmed, unknown ones included; of a filter, the records that it
        matched; of all records, how many the namespace had by the statistics. None where the server does not count what a
        filter matches. Of a dry run, what would be deleted.
    :param counts: The counters of the requests.
    :param lsn: The position of the last write; None where the server does not report it.
    :param namespace: ``""`` is the default namespace.
    :param index_host: The URL of the index.
    :param is_dry_run: Nothing was deleted.
    """

    deleted_count: int | None = 0
    counts: Counts = field(default_factory=Counts)
    lsn: int | None = None
    namespace: str = ""
    index_host: str = ""
    is_dry_run: bool = False

    def as_output(self) -> dict[str, Any]:
        """Return the task's output."""
        counts = self.counts.as_json()
        return {
            "deletedCount": self.deleted_count,
            **{key: counts[key] for key in _OUTPUT_KEYS},
            "lsn": self.lsn,
            "dryRun": self.is_dry_run,
            "namespace": self.namespace,
            "indexHost": self.index_host,
        }

    def __str__(self) -> str:
        """Summarise it in one sentence, for the log."""
        count = (
            "an unknown number of records" if self.deleted_count is None else number_of(self.deleted_count, "record")
        )
        where = f"{count} from {self.namespace or '__default__'!r}"
        if self.is_dry_run:
            return f"Dry run: would delete {where}. Nothing was deleted."
        return (
            f"Deleted {where} in {self.counts.duration_s:,.1f} s ({number_of(self.counts.requests, 'request')}, "
            f"{number_of(self.counts.retries, 'retry', 'retries')}). Ids that did not exist are counted, too."
        )
