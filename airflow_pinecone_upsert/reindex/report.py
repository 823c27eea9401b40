"""The result of a reindexing run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_pinecone_upsert.pipeline.counts import ReindexCounts
from airflow_pinecone_upsert.pipeline.report import UpsertReport


@dataclass(frozen=True)
class ReindexReport(UpsertReport):
    """
    The result of a reindexing run. Every count is what the server said, but for a dry run: what would be done.

    :param counts: The counters.
    :param manifest_path: The folder of the manifest.
    :param examples: At most ten ids of each kind (``new``, ``changed``, ``deleted``), of a dry run; of many namespaces, each
        after its namespace and a slash.
    """

    counts: ReindexCounts = field(default_factory=ReindexCounts)
    manifest_path: str = ""
    examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def as_output(self) -> dict[str, Any]:
        """Return the task's output."""
        return {**super().as_output(), "manifestPath": self.manifest_path, "dryRun": self.is_dry_run}

    def __str__(self) -> str:
        """Summarise it in one sentence, for the log."""
        counts = self.counts
        done = "A dry run of reindexing" if self.is_dry_run else "Reindexed"
        return (
            f"{done} {self.target}: {counts.new:,} new, {counts.changed:,} changed, "
            f"{counts.unchanged:,} unchanged, {counts.deleted:,} deleted, {counts.rejected:,} rejected in "
            f"{counts.duration_s:,.1f} s ({counts.requests + counts.delete_requests:,} requests, "
            f"{counts.request_bytes / 1e6:,.1f} MB, about {counts.write_units:,} write units, "
            f"{counts.write_units_saved:,} saved)."
        )
