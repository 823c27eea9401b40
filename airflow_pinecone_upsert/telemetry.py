"""Telemetry: Airflow's metrics for each attempt, and a span around the run."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from typing_extensions import Self

from airflow_pinecone_upsert.pipeline.counts import Counts

if TYPE_CHECKING:
    from airflow_pinecone_upsert.pipeline.report import UpsertReport
    from airflow_pinecone_upsert.pipeline.send.events import Attempt
    from airflow_pinecone_upsert.pipeline.send.requests import UpsertRequest


class UpsertTelemetry:
    """
    Observes an upsert. As a context manager it is a span inside the task's own; without a tracer it does nothing.

    :param index_url: The index's URL.
    :param namespace: The namespace that is written; None for many.
    :param operation: ``upsert`` or ``reindex``, for the span.
    """

    def __init__(self, index_url: str, namespace: str | None, *, operation: str = "upsert") -> None:
        from airflow.providers.common.compat.sdk import Stats
        from opentelemetry import trace

        self._stats = Stats
        self._tags = _task_tags()
        # Names from OpenTelemetry's semantic conventions for database calls, as far as they apply.
        self._attributes = {
            "db.system.name": "pinecone",
            "db.operation.name": operation,
            "server.address": index_url,
            **({} if namespace is None else {"db.namespace": namespace}),
        }
        self._span_name = f"pinecone_{operation}"
        self._span: trace.Span = trace.INVALID_SPAN
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start the span."""
        from opentelemetry import trace

        tracer = trace.get_tracer("airflow_pinecone_upsert")
        self._span = self._stack.enter_context(
            tracer.start_as_current_span(self._span_name, attributes=self._attributes)
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        """End the span."""
        from opentelemetry import trace

        if error is not None:
            # OpenTelemetry sets this status only for an Exception; Airflow's task time-out is a BaseException.
            self._span.set_status(trace.Status(trace.StatusCode.ERROR, f"{type(error).__name__}: {error}"))
        self._stack.close()

    def attempted(self, attempt: Attempt[UpsertRequest]) -> None:
        """Emit the counts of one attempt as ``pinecone_upsert.*``, and its latency in milliseconds."""
        for name, count in attempt.counts.metrics():
            self._stats.incr(f"pinecone_upsert.{name}", count, tags=self._tags)
        self._stats.timing("pinecone_upsert.latency", 1_000 * attempt.latency_s, tags=self._tags)

    def ended(self, report: UpsertReport) -> None:
        """Set the numbers of the output as attributes of the span, and emit the counts that no attempt has emitted."""
        for name, count in report.counts.metrics():
            if name not in Counts.metric_names() and not report.is_dry_run:
                self._stats.incr(f"pinecone_upsert.{name}", count, tags=self._tags)
        numbers = {name: value for name, value in report.as_output().items() if isinstance(value, (int, float))}
        self._span.set_attributes({f"pinecone_upsert.{name}": value for name, value in numbers.items()})


def _task_tags() -> dict[str, str]:
    """Return the tags of the running task; none if the hook is used outside a task."""
    from airflow.sdk import get_current_context

    try:
        instance = get_current_context()["ti"]
    except RuntimeError:
        return {}
    return {"dag_id": instance.dag_id, "task_id": instance.task_id}
