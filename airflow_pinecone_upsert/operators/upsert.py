"""The task that upserts: its template fields, its run, its output. Everything else is in :mod:`.upsert`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from airflow_pinecone_upsert import lineage
from airflow_pinecone_upsert.hooks.pinecone import PineconeHook
from airflow_pinecone_upsert.links import PineconeConsoleLink
from airflow_pinecone_upsert.operators.retry_policy import final_errors_fail_at_once, retry_policy_argument

if TYPE_CHECKING:
    import jinja2
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context, ObjectStoragePath, RetryPolicy, XComArg

    from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
    from airflow_pinecone_upsert.pipeline.options import Columns, UpsertOptions
    from airflow_pinecone_upsert.pipeline.read.source import RecordSource
    from airflow_pinecone_upsert.pipeline.track.checkpoint import StateStore

log = logging.getLogger(__name__)


class PineconeUpsertOperator(BaseOperator):
    """
    Upsert vectors from Parquet files or from upstream tasks into a namespace of a Pinecone index.

    The task is green only if every record was confirmed by the server or tolerably set aside. Its output is a dict with
    ``upsertedCount`` (the sum of what the server confirmed, over all tries), ``resumedCount`` (those of earlier tries),
    ``rejectedCount``, ``rejectsPaths``, ``requestCount``, ``requestBytes``, ``retryCount``, ``throttledCount``,
    ``durationSeconds``, ``namespace`` and ``indexHost``; ``upsertedCount`` is also pushed under its own key.

    :param parquet_paths: A file, a folder or a glob; text or ``ObjectStoragePath``; local or of any scheme that
        Airflow's object storage knows; or a list of these. Read in bounded memory. (templated)
    :param vectors: In place of ``parquet_paths``: records, tuples ``(id, values[, metadata])``, DataFrames or tables,
        what one upstream task returned or what a mapped one did. (templated as far as XComArgs go: text in the records
        is left as it is)
    :param namespace: None for the connection's, ``""`` for Pinecone's default one. (templated)
    :param pinecone_conn_id: The Airflow connection. (templated)
    :param index_host: In place of the connection's host. (templated)
    :param index_name: In place of the connection's host: the index whose host is looked up. (templated)
    :param id_column: Column of ids, strings or integers.
    :param values_column: Column of dense vectors, lists of numbers.
    :param sparse_values_column: Column of structs of ``indices`` and ``values``; may be absent.
    :param metadata_column: Column of metadata, JSON text, structs or maps; may be absent.
    :param metadata_columns: In place of ``metadata_column``: the names of plain columns, each a key of the metadata.
    :param batch_size: Records in one request, at the most.
    :param max_request_bytes: Bytes of one request's body, at the most.
    :param max_concurrency: Requests in flight, at the most.
    :param max_requests_per_second: Upper bound for this task; None lifts it.
    :param max_bytes_per_second: Upper bound for this task; None lifts it.
    :param max_rejects: Invalid records that are rejected, over all tries, before the task fails; None for any number.
    :param rejects_path: Where these are written as Parquet, with the reason of each: a folder, or a name that ends in
        ``.parquet``; local or in object storage. No file is written over. (templated)
    :param durable: A retry goes on behind the last confirmed row, and so does a failed task that is cleared. Needs
        Airflow 3.3 and ``parquet_paths``; without either a try starts at the first row.
    :param retry_policy: In place of the default one, by which errors that no retry can mend fail at once (Airflow 3.3).
    """

    template_fields: Sequence[str] = (
        "parquet_paths",
        "vectors",
        "namespace",
        "pinecone_conn_id",
        "index_host",
        "index_name",
        "rejects_path",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"parquet_paths": "json"}
    operator_extra_links = (PineconeConsoleLink(),)
    ui_color = "#d7e3fc"

    def __init__(  # noqa: PLR0913 - each one is a choice of the user's
        self,
        *,
        parquet_paths: str | ObjectStoragePath | Sequence[str | ObjectStoragePath] | XComArg | None = None,
        vectors: Any = None,
        namespace: str | None = None,
        pinecone_conn_id: str = PineconeHook.default_conn_name,
        index_host: str | None = None,
        index_name: str | None = None,
        id_column: str = "id",
        values_column: str = "values",
        sparse_values_column: str = "sparse_values",
        metadata_column: str = "metadata",
        metadata_columns: Sequence[str] | None = None,
        batch_size: int = 1_000,
        max_request_bytes: int = 2_000_000,
        max_concurrency: int = 8,
        max_requests_per_second: float | None = 100,
        max_bytes_per_second: float | None = 50_000_000,
        max_rejects: int | None = 0,
        rejects_path: str | ObjectStoragePath | None = None,
        durable: bool = True,
        retry_policy: RetryPolicy | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs, **retry_policy_argument(retry_policy))
        if (parquet_paths is None) == (vectors is None):
            raise ValueError(f"Task {self.task_id!r}: set exactly one of parquet_paths and vectors.")
        self.outlets = [*self.outlets, lineage.outlet_alias(self)]
        self.parquet_paths = parquet_paths
        self.vectors = vectors
        self.namespace = namespace
        self.pinecone_conn_id = pinecone_conn_id
        self.index_host = index_host
        self.index_name = index_name
        self.id_column = id_column
        self.values_column = values_column
        self.sparse_values_column = sparse_values_column
        self.metadata_column = metadata_column
        self.metadata_columns = metadata_columns
        self.batch_size = batch_size
        self.max_request_bytes = max_request_bytes
        self.max_concurrency = max_concurrency
        self.max_requests_per_second = max_requests_per_second
        self.max_bytes_per_second = max_bytes_per_second
        self.max_rejects = max_rejects
        self.rejects_path = rejects_path
        self.durable = durable
        self._stop: CancellationToken | None = None
        self._trace: lineage.Trace | None = None

    @property
    def index_url(self) -> str | None:
        """The index, once the task knows it."""
        return self._trace.index_host if self._trace else None

    def render_template(
        self,
        content: Any,
        context: Context,
        jinja_env: jinja2.Environment | None = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        """
        Render one field; vectors are resolved and nothing more.

        Airflow would walk every number of them (3000 x 1536 took 10 s and 142 MB) and render their text as Jinja.
        """
        if isinstance(content, RenderedVectors):
            return content
        if content is self.vectors and content is not None:
            return _rendered(content, context)
        return super().render_template(content, context, jinja_env, seen_oids)

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Upsert.

        :return: The task's output, see the class.
        :raises PineconeUpsertError: Records are invalid or stayed unconfirmed, or the set-up is wrong.
        :raises AirflowFailException: In place of it before Airflow 3.3, where no retry can help.
        """
        with final_errors_fail_at_once():
            output = self._upsert(context)
        if context.get("ti"):
            context["ti"].xcom_push(key="upsertedCount", value=output["upsertedCount"])
        lineage.emit_event(self, context, output)
        return output

    def _upsert(self, context: Context) -> dict[str, Any]:
        from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken

        stop = self._stop = CancellationToken()  # before all else: a signal may come at any moment

        from airflow_pinecone_upsert.pipeline.read.prefetch import call_in_background
        from airflow_pinecone_upsert.storage import rejects_folder
        from airflow_pinecone_upsert.telemetry import observed_upsert

        with PineconeHook(self.pinecone_conn_id, index_host=self.index_host, index_name=self.index_name) as hook:
            options = self._options(hook)  # reads the connection, so that no other thread asks Airflow for it
            source = self._source(options, stop)
            client = call_in_background(hook.get_conn, stop)
            with lineage.Trace(source, client.host, options.namespace) as self._trace:
                output = observed_upsert(
                    source,
                    client,
                    options,
                    rejects_folder=rejects_folder(self.rejects_path) if self.rejects_path else None,
                    state=self._state(context),
                    stop=stop,
                ).as_output()
            self._trace.output = output
        return output

    def _options(self, hook: PineconeHook) -> UpsertOptions:
        from airflow_pinecone_upsert.pipeline.options import UpsertOptions

        namespace = hook.default_namespace if self.namespace is None else self.namespace
        others = {name: getattr(self, name) for name in UpsertOptions.model_fields if name != "namespace"}
        return UpsertOptions.checked(namespace=namespace, **others)

    def on_kill(self) -> None:
        """Ask the upsert to stop: no new request, a moment for those in flight, then the checkpoint."""
        if self._stop is not None:
            self._stop.ask()

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:  # noqa: ARG002 - its protocol
        """Tell OpenLineage's provider what was read and written; it asks after a failure, too."""
        return lineage.openlineage(self._trace)

    def _state(self, context: Context) -> StateStore | None:
        if not self.durable or self.parquet_paths is None:
            return None
        store: StateStore | None = context.get("task_state_store")
        if store is None:
            log.info("This Airflow has no task state store (3.3 has one): a retry starts at the first row.")
        return store

    def _source(self, columns: Columns, stop: CancellationToken) -> RecordSource:
        from airflow_pinecone_upsert.pipeline.read.in_memory import InMemorySource
        from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource
        from airflow_pinecone_upsert.storage import parquet_files

        if self.parquet_paths is not None:
            return ParquetSource(parquet_files(self.parquet_paths, stop), columns, stop)
        value = self.vectors.value if isinstance(self.vectors, RenderedVectors) else self.vectors
        return InMemorySource(value, columns)


class RenderedVectors:
    """
    Vectors as the *Rendered Template* view shows them: how many, and none of them.

    :param value: What was resolved.
    :param what: What it holds.
    """

    def __init__(self, value: Any, what: str = "vectors") -> None:
        self.value = value
        self._what = what

    def serialize(self) -> str:
        """Return what Airflow stores in place of the value."""
        try:
            return f"<{len(self.value):,} {self._what}>"
        except TypeError:
            return f"<{self._what}>"

    __repr__ = serialize


def _rendered(value: Any, context: Context) -> RenderedVectors:
    """Pull XComs, also those in a list, and leave all else alone."""
    if isinstance(value, (list, tuple)) and any(_is_reference(item) for item in value):
        return RenderedVectors([item.resolve(context) for item in value], "XComs of vectors")
    resolved = value.resolve(context) if _is_reference(value) else value
    is_mapped = type(resolved).__name__ == "LazyXComSequence"  # its class has no public home
    return RenderedVectors(resolved, "XComs of vectors" if is_mapped else "vectors")


def _is_reference(value: Any) -> bool:
    return hasattr(value, "resolve")
