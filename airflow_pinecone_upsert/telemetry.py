"""An upsert seen from outside: Airflow's metrics for each request, and a span around the whole."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow_pinecone_upsert.exceptions import PineconeUpsertError, RateLimitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from airflow_pinecone_upsert.api.client import IndexClient
    from airflow_pinecone_upsert.pipeline.options import UpsertOptions
    from airflow_pinecone_upsert.pipeline.read.source import RecordSource
    from airflow_pinecone_upsert.pipeline.report import UpsertReport
    from airflow_pinecone_upsert.pipeline.send.events import Attempt


def observed_upsert(source: RecordSource, client: IndexClient, options: UpsertOptions, **others: Any) -> UpsertReport:
    """
    Do what :func:`airflow_pinecone_upsert.pipeline.run.upsert` does, seen from outside.

    :param others: Its other parameters.
    """
    from airflow_pinecone_upsert.pipeline.run import upsert

    with _span(client.host, options.namespace) as annotate:
        report = upsert(source, client, options, observe=_Metrics(**_task()), **others)
        annotate(report.as_output())
    return report


def _task() -> dict[str, str]:
    """Name the task that runs; a program that uses the hook has none."""
    from airflow.sdk import get_current_context

    try:
        instance = get_current_context()["ti"]
    except RuntimeError:
        return {}
    return {"dag_id": instance.dag_id, "task_id": instance.task_id}


class _Metrics:
    """
    Counts requests as they end, under ``pinecone_upsert.*``.

    :param tags: Of each metric, where Airflow's metrics have tags.
    """

    def __init__(self, **tags: str) -> None:
        from airflow.providers.common.compat.sdk import Stats

        self._stats = Stats
        self._tags = tags

    def __call__(self, attempt: Attempt) -> None:
        """Count one request: records, bytes, requests, retries, throttled, latency."""
        counts = {
            "records": attempt.confirmed,
            "bytes": attempt.body_bytes,
            "requests": 1,
            "retries": int(attempt.repeated),
            "throttled": int(isinstance(attempt.error, RateLimitError)),
        }
        for name, count in counts.items():
            if count:
                self._stats.incr(f"pinecone_upsert.{name}", count, tags=self._tags)
        self._stats.timing("pinecone_upsert.latency", 1_000 * attempt.latency_s, tags=self._tags)


@contextmanager
def _span(index_url: str, namespace: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """
    Trace an upsert, under the task's own span; without a tracer of Airflow's that does nothing.

    :return: Takes the output of the task, whose numbers become attributes.
    """
    from opentelemetry import trace

    # The names of OpenTelemetry's conventions for database calls, as far as they go.
    attributes = {
        "db.system.name": "pinecone",
        "db.operation.name": "upsert",
        "db.namespace": namespace,
        "server.address": index_url,
    }
    with trace.get_tracer("airflow_pinecone_upsert").start_as_current_span(
        "pinecone_upsert", attributes=attributes
    ) as current:

        def annotate(output: Mapping[str, Any]) -> None:
            numbers = {name: value for name, value in output.items() if isinstance(value, (int, float))}
            current.set_attributes({f"pinecone_upsert.{name}": value for name, value in numbers.items()})

        try:
            yield annotate
        except BaseException as exc:
            if isinstance(exc, PineconeUpsertError):
                annotate(exc.report)
            # OpenTelemetry by itself takes an Exception for an error; Airflow's time-out of a task is none.
            current.set_status(trace.Status(trace.StatusCode.ERROR, f"{type(exc).__name__}: {exc}"))
            raise
