"""The upsert operator: where its records come from, and its output. Everything else is in the base or the pipeline."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.sdk import XComArg

from airflow_pinecone_upsert import lineage
from airflow_pinecone_upsert.operators.base import PineconeBaseOperator
from airflow_pinecone_upsert.operators.vectors import Vectors
from airflow_pinecone_upsert.pipeline import defaults

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context, ObjectStoragePath

    from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
    from airflow_pinecone_upsert.pipeline.options import Columns
    from airflow_pinecone_upsert.pipeline.read.source import RecordSource
    from airflow_pinecone_upsert.pipeline.track.checkpoint import StateStore

log = logging.getLogger(__name__)


class PineconeUpsertBaseOperator(PineconeBaseOperator):
    """
    The base of the upsert operators. A subclass implements :meth:`source`, where its records come from.

    :param id_column: Column of ids: strings, integers or UUIDs.
    :param values_column: Column of dense vectors, lists of numbers.
    :param values_format: ``"list"``, or ``"json"`` where vectors are texts such as ``[0.1, 0.2]``, as pgvector exports them.
    :param sparse_values_column: Column of structs of ``indices`` and ``values``; may be absent.
    :param metadata_column: Column of metadata, JSON text, structs or maps; may be absent.
    :param metadata_columns: Instead of ``metadata_column``: the names of plain columns, each a key of the metadata.
    :param batch_size: Records in one request, at most.
    :param max_request_bytes: Bytes of one request's body, at most.
    :param max_concurrency: Requests in flight, at most.
    :param max_requests_per_second: Upper bound for this task; None removes it.
    :param max_bytes_per_second: Upper bound for this task; None removes it.
    :param max_rejects: Invalid records that may be rejected, over all tries; with more, the task fails. None for any
        number.
    :param rejects_path: Where rejected records are written as Parquet, each with its reason: a folder, or a name that
        ends in ``.parquet``; local or in object storage. No file is overwritten. (templated)
    :param wait_until_searchable: Succeed only once queries see what was written.
    :param searchable_timeout_s: How long that may take, in seconds. Then the task fails, and a retry waits on.
    :param durable: A retry resumes after the last confirmed row, and so does a failed task that is cleared. Needs
        Airflow 3.3 and Parquet files; otherwise every try starts at the first row.
    """

    template_fields: Sequence[str] = (*PineconeBaseOperator.template_fields, "rejects_path")
    output_keys_pushed: ClassVar[Sequence[str]] = ("upsertedCount", "lsn")

    def __init__(  # noqa: PLR0913 - the user's options
        self,
        *,
        id_column: str = defaults.ID_COLUMN,
        values_column: str = defaults.VALUES_COLUMN,
        values_format: Literal["list", "json"] = defaults.VALUES_FORMAT,
        sparse_values_column: str = defaults.SPARSE_VALUES_COLUMN,
        metadata_column: str = defaults.METADATA_COLUMN,
        metadata_columns: Sequence[str] | None = None,
        batch_size: int = defaults.BATCH_SIZE,
        max_request_bytes: int = defaults.MAX_REQUEST_BYTES,
        max_concurrency: int = defaults.MAX_CONCURRENCY,
        max_requests_per_second: float | None = defaults.MAX_REQUESTS_PER_SECOND,
        max_bytes_per_second: float | None = defaults.MAX_BYTES_PER_SECOND,
        max_rejects: int | None = defaults.MAX_REJECTS,
        rejects_path: str | ObjectStoragePath | None = None,
        wait_until_searchable: bool = defaults.WAIT_UNTIL_SEARCHABLE,
        searchable_timeout_s: float = defaults.SEARCHABLE_TIMEOUT_S,
        durable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.id_column = id_column
        self.values_column = values_column
        self.values_format = values_format
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
        self.wait_until_searchable = wait_until_searchable
        self.searchable_timeout_s = searchable_timeout_s
        self.durable = durable

    @abstractmethod
    def source(self, context: Context, columns: Columns, cancellation: CancellationToken) -> RecordSource:
        """
        Return the records.

        :param columns: The names of the columns.
        :param cancellation: Ends the wait for a storage that does not respond.
        """

    def run(self, context: Context, cancellation: CancellationToken) -> dict[str, Any]:
        """Upsert the records of :meth:`source`. See :class:`PineconeBaseOperator`."""
        # First, because it reads the connection, which only the main thread may request from Airflow.
        options = self.hook.upsert_options(self.namespace, **self._parameters())
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

    def _parameters(self) -> Any:
        from airflow_pinecone_upsert.pipeline.options import UpsertParameters

        return {name: getattr(self, name) for name in UpsertParameters.__annotations__}

    def _state(self, context: Context, source: RecordSource) -> StateStore | None:
        """Return where the checkpoint goes; None for nowhere."""
        if not self.durable:
            return None
        store: StateStore | None = context.get("task_state_store")
        if store is None and source.identity is not None:
            log.info("There is no task state store (a task of Airflow 3.3 has one): a retry starts at the first row.")
        return store


class PineconeUpsertOperator(PineconeUpsertBaseOperator):
    """
    Upsert vectors from Parquet files or from upstream tasks into a namespace of a Pinecone index.

    The task succeeds only if every record was confirmed by the server or rejected where allowed. Its output is a dict
    with ``upsertedCount`` (the sum of what the server confirmed, over all tries), ``resumedCount`` (those of earlier
    tries), ``distinctCount`` (distinct ids among them, where one try sent all of them and at most a million; else None),
    ``rejectedCount``, ``rejectsPaths``, ``requestCount``, ``requestBytes``, ``retryCount``, ``throttledCount``,
    ``durationSeconds``, ``namespace``, ``indexHost`` and ``lsn`` (the log sequence number of the last write; None where
    the server sends none); ``upsertedCount`` and ``lsn`` are also pushed under their own keys.

    :param parquet_paths: A file, a folder or a glob; text or ``ObjectStoragePath``; local or of any scheme that
        Airflow's object storage knows; or a list of these. Read in bounded memory. (templated)
    :param vectors: Instead of ``parquet_paths``: records, tuples ``(id, values[, metadata])``, DataFrames or tables,
        also as the output of an upstream task, mapped or not. XComArgs are resolved, also those that are parts of a
        record, as in ``[("a", embed.output)]``; text in the records is not rendered.

    The other parameters are those of :class:`PineconeUpsertBaseOperator` and :class:`PineconeBaseOperator`.
    """

    template_fields: Sequence[str] = ("parquet_paths", "vectors", *PineconeUpsertBaseOperator.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {"parquet_paths": "json"}

    def __init__(
        self,
        *,
        parquet_paths: str | ObjectStoragePath | Sequence[str | ObjectStoragePath] | XComArg | None = None,
        vectors: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (parquet_paths is None) == (vectors is None):
            raise ValueError(f"Task {self.task_id!r}: set exactly one of parquet_paths and vectors.")
        self.parquet_paths = parquet_paths
        self.vectors = None if vectors is None else Vectors(vectors)
        for reference in self.vectors.references() if self.vectors else ():
            XComArg.apply_upstream_relationship(self, reference)

    def render_template(
        self,
        content: Any,
        context: Context,
        jinja_env: jinja2.Environment | None = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        """
        Render one field; of vectors, only resolve the XComs.

        Airflow would visit every number in them (3000 x 1536 took 10 s and 142 MB) and render their text as Jinja.
        """
        if isinstance(content, Vectors):
            return content.resolved(context)
        return super().render_template(content, context, jinja_env, seen_oids)

    def source(self, context: Context, columns: Columns, cancellation: CancellationToken) -> RecordSource:  # noqa: ARG002
        """Return the records of the files, or those in memory."""
        from airflow_pinecone_upsert.pipeline.read.in_memory import InMemorySource
        from airflow_pinecone_upsert.storage import check_rejects_path, parquet_source

        if self.vectors is not None:
            return InMemorySource(self.vectors.value, columns)
        check_rejects_path(self.rejects_path, self.parquet_paths)
        return parquet_source(self.parquet_paths, columns, cancellation)
