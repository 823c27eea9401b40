"""What the operators that send records share: how records are read and sent, and where they come from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.sdk import XComArg

from airflow_pinecone_upsert.operators.base import PineconeBaseOperator
from airflow_pinecone_upsert.operators.vectors import Vectors
from airflow_pinecone_upsert.pipeline import defaults

if TYPE_CHECKING:
    from airflow.sdk import Context, ObjectStoragePath

    from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
    from airflow_pinecone_upsert.pipeline.options import Columns
    from airflow_pinecone_upsert.pipeline.read.source import RecordSource


class PineconeRecordsBaseOperator(PineconeBaseOperator):
    """
    The base of the operators that send records. A subclass implements :meth:`source`, where they come from.

    :param id_column: Column of ids: strings, integers or UUIDs.
    :param values_column: Column of dense vectors, lists of numbers.
    :param values_format: ``"list"``, or ``"json"`` where vectors are texts such as ``[0.1, 0.2]``, as pgvector exports them.
    :param sparse_values_column: Column of structs of ``indices`` and ``values``; may be absent.
    :param metadata_column: Column of metadata, JSON text, structs or maps; may be absent.
    :param metadata_columns: Instead of ``metadata_column``: the names of plain columns, each a key of the metadata.
    :param namespace_column: Column of the namespace of each record, strings, integers or UUIDs; a record in memory has it as
        a key. Null is ``namespace``. The rates below are then for each namespace.
    :param namespace_from_path: Instead of ``namespace_column``: True for the layout of bulk imports, in which the folder right
        below a path (for a pattern, below its part before the first wildcard) names the namespace of the files in it, and a
        folder means all files below it. Or the folder that contains the namespaces' folders, where the paths are other ones.
    :param batch_size: Records in one request, at most.
    :param max_request_bytes: Bytes of one request's body, at most. None for what the server accepts: from 2 MB on, requests
        grow until one is rejected, or until their records have 2 MB in binary.
    :param max_concurrency: Requests in flight, at most.
    :param max_requests_per_second: Upper bound for this task; None removes it.
    :param max_bytes_per_second: Upper bound for this task. None for what the server accepts: from 50 MB/s on, the rate grows
        until a request is throttled, or until it is 50 MB/s in binary. ``float("inf")`` removes the bound.
    :param max_rejects: Invalid records that may be rejected, over all tries of an upsert and in each try of reindexing; with
        more, the task fails. None for any number.
    :param transport: What carries the upserts: ``"rest"``, or ``"grpc"``, which needs the extra ``grpc``. None for the
        connection's, which is ``"rest"`` where its extra has none.
    :param rejects_path: Where rejected records are written as Parquet, each with its reason: a folder, or a name that
        ends in ``.parquet``; local or in object storage. No file is overwritten. (templated)
    :param wait_until_searchable: Succeed only once queries see what was written.
    :param searchable_timeout_s: How long that may take, in seconds. Then the task fails, and a retry waits on.
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
        namespace_column: str | None = None,
        namespace_from_path: bool | str = False,
        batch_size: int = defaults.BATCH_SIZE,
        max_request_bytes: int | None = defaults.MAX_REQUEST_BYTES,
        max_concurrency: int = defaults.MAX_CONCURRENCY,
        max_requests_per_second: float | None = defaults.MAX_REQUESTS_PER_SECOND,
        max_bytes_per_second: float | None = defaults.MAX_BYTES_PER_SECOND,
        max_rejects: int | None = defaults.MAX_REJECTS,
        transport: Literal["rest", "grpc"] | None = None,
        rejects_path: str | ObjectStoragePath | None = None,
        wait_until_searchable: bool = defaults.WAIT_UNTIL_SEARCHABLE,
        searchable_timeout_s: float = defaults.SEARCHABLE_TIMEOUT_S,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.id_column = id_column
        self.values_column = values_column
        self.values_format = values_format
        self.sparse_values_column = sparse_values_column
        self.metadata_column = metadata_column
        self.metadata_columns = metadata_columns
        self.namespace_column = namespace_column
        self.namespace_from_path = namespace_from_path
        self.batch_size = batch_size
        self.max_request_bytes = max_request_bytes
        self.max_concurrency = max_concurrency
        self.max_requests_per_second = max_requests_per_second
        self.max_bytes_per_second = max_bytes_per_second
        self.max_rejects = max_rejects
        self.transport = transport
        self.rejects_path = rejects_path
        self.wait_until_searchable = wait_until_searchable
        self.searchable_timeout_s = searchable_timeout_s

    @abstractmethod
    def source(self, context: Context, columns: Columns, cancellation: CancellationToken) -> RecordSource:
        """
        Return the records.

        :param columns: The names of the columns.
        :param cancellation: Ends the wait for a storage that does not respond.
        """

    def asset_events(self, output: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Return one event; where the records name their namespaces, one for each that the output names."""
        namespaces = output.get("namespaces")
        if namespaces is None:
            return super().asset_events(output)
        common = {key: value for key, value in output.items() if key != "namespaces"}
        return [{**common, "namespace": name, "upsertedCount": count} for name, count in namespaces.items()]

    def parameters(self, names: Iterable[str]) -> Any:
        """Return some of the user's options, for the hook to check."""
        return {name: getattr(self, name) for name in names}


class PineconeGivenRecordsOperator(PineconeRecordsBaseOperator):
    """
    The base of the operators whose records are files or the output of upstream tasks.

    :param parquet_paths: A file, a folder or a glob; text or ``ObjectStoragePath``; local or of any scheme that
        Airflow's object storage knows; or a list of these. Read in bounded memory. (templated)
    :param vectors: Instead of ``parquet_paths``: records, tuples ``(id, values[, metadata])``, DataFrames or tables,
        also as the output of an upstream task, mapped or not. XComArgs are resolved, also those that are parts of a
        record, as in ``[("a", embed.output)]``; text in the records is not rendered.
    """

    template_fields: Sequence[str] = ("parquet_paths", "vectors", *PineconeRecordsBaseOperator.template_fields)
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

    def source(self, context: Context, columns: Columns, cancellation: CancellationToken) -> RecordSource:  # noqa: ARG002
        """Return the records of the files, or those in memory."""
        from airflow_pinecone_upsert.pipeline.read.in_memory import InMemorySource
        from airflow_pinecone_upsert.storage import check_rejects_path, parquet_source

        if self.vectors is not None:
            return InMemorySource(self.vectors.value, columns)
        check_rejects_path(self.rejects_path, self.parquet_paths, columns)
        return parquet_source(self.parquet_paths, columns, cancellation)
