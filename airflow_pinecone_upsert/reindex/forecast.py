"""What a dry run reports besides its counts: money, time and examples, as lines for the log."""

from __future__ import annotations

from collections.abc import Iterator

from airflow_pinecone_upsert.api.limits import (
    MAX_BYTES_PER_SECOND,
    MAX_DELETE_REQUESTS_PER_SECOND,
    MAX_DELETED_IDS_PER_SECOND,
)
from airflow_pinecone_upsert.pipeline.counts import ReindexCounts
from airflow_pinecone_upsert.reindex.options import ReindexOptions
from airflow_pinecone_upsert.reindex.report import ReindexReport


def forecast(report: ReindexReport, options: ReindexOptions, usd_per_million_write_units: float) -> Iterator[str]:
    """
    Yield what the run would cost, how long it would take, and examples of what it would write.

    :param report: Of a dry run.
    :param options: Its options.
    :param usd_per_million_write_units: The price in the user's plan.
    """
    counts = report.counts
    price = f"{usd_per_million_write_units:g} USD per million"
    cost, saved = (
        f"{units * usd_per_million_write_units / 1e6:,.2f}" for units in (counts.write_units, counts.write_units_saved)
    )
    yield f"The run would cost about {cost} USD in write units, and save {saved} USD, at {price}."
    yield f"It would take about {_seconds_at_the_limits(counts, options) / 60:,.1f} minutes at the limits of its rates."
    for kind, ids in report.examples.items():
        if ids:
            yield f"{kind.capitalize()}, for example: {', '.join(map(repr, ids))}."


def _seconds_at_the_limits(counts: ReindexCounts, options: ReindexOptions) -> float:
    upserts_s = max(
        counts.requests / (options.max_requests_per_second or float("inf")),
        counts.request_bytes / (options.max_bytes_per_second or MAX_BYTES_PER_SECOND),
    )
    deletions_s = max(
        counts.delete_requests / MAX_DELETE_REQUESTS_PER_SECOND, counts.deleted / MAX_DELETED_IDS_PER_SECOND
    )
    return upserts_s + deletions_s
