"""The upsert operator: its checkpoint and its output. Everything else is in the bases or the pipeline."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow_pinecone_upsert import lineage
from airflow_pinecone_upsert.operators.records import PineconeGivenRecordsOperator, PineconeRecordsBaseOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
    from airflow_pinecone_upsert.pipeline.read.source import RecordSource
    from airflow_pinecone_upsert.pipeline.track.checkpoint import StateStore

log = logging.getLogger(__name__)


class PineconeUpsertBaseOperator(PineconeRecordsBaseOperator):
    """
    The base of the upsert operators.

    :param durable: A retry resumes after the last confirmed row, and so does a failed task that is cleared. Needs
        Airflow 3.3 and Parquet files; otherwise every try starts at the first row.
    """

    def __init__(self, *, durable: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.durable = durable

    def run(self, context: Context, cancellation: CancellationToken) -> dict[str, Any]:
        """Upsert the records of :meth:`source`. See :class:`PineconeBaseOperator`."""
        from airflow_pinecone_upsert.pipeline.options import UpsertParameters

        # First, because it reads the connection, which only the main thread may request from Airflow.
        options = self.hook.upsert_options(self.namespace, **self.parameters(UpsertParameters.__annotations__))
        source = self.source(context, options, cancellation)
        self._lineage = lineage.Trace(source)
        return self.hook.upsert_source(
            source,
            options,
            rejects_path=self.rejects_path,
            state=self._state(context, source),
            cancellation=cancellation,
            observers=[self._lineage],
        ).as_output()

    def _state(self, context: Context, source: RecordSource) -> StateStore | None:
        """Return where the checkpoint goes; None for nowhere."""
        if not self.durable:
            return None
        store: StateStore | None = context.get("task_state_store")
        if store is None and source.identity is not None:
            log.info("There is no task state store (a task of Airflow 3.3 has one): a retry starts at the first row.")
        return store


class PineconeUpsertOperator(PineconeGivenRecordsOperator, PineconeUpsertBaseOperator):
    """
    Upsert vectors from Parquet files or from upstream tasks into a namespace of a Pinecone index.

    The task succeeds only if every record was confirmed by the server or rejected where allowed. Its output is a dict
    with ``upsertedCount`` (the sum of what the server confirmed, over all tries), ``resumedCount`` (those of earlier
    tries), ``distinctCount`` (distinct ids among them, where one try sent all of them and at most a million; else None),
    ``rejectedCount``, ``rejectsPaths``, ``requestCount``, ``requestBytes``, ``retryCount``, ``throttledCount``,
    ``durationSeconds``, ``namespace``, ``indexHost``, ``lsn`` (the log sequence number of the last write; None where
    the server sends none) and ``learned`` (``requestBytes`` and ``bytesPerSecond``: the limits that were found);
    ``upsertedCount`` and ``lsn`` are also pushed under their own keys. Where the records name their namespaces, it also has
    ``namespaces`` (the 100 that got most records, each with its ``upsertedCount``) and ``namespaceCount`` (how many there
    are).

    The parameters are those of :class:`PineconeGivenRecordsOperator`, :class:`PineconeUpsertBaseOperator` and their bases.
    """
