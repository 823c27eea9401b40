"""The reindex operator: what happens to the rest of the namespace, and its output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_pinecone_upsert import lineage
from airflow_pinecone_upsert.operators.records import PineconeGivenRecordsOperator, PineconeRecordsBaseOperator
from airflow_pinecone_upsert.pipeline import defaults

if TYPE_CHECKING:
    from airflow.sdk import Context, ObjectStoragePath

    from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
    from airflow_pinecone_upsert.pipeline.options import Columns
    from airflow_pinecone_upsert.pipeline.read.source import RecordSource


class PineconeReindexBaseOperator(PineconeRecordsBaseOperator):
    """
    The base of the reindex operators.

    :param manifest_path: The folder of the manifest, which says what the namespace holds; local or in object storage, one
        for each namespace, or for all namespaces that the records name. A retry finds there what earlier tries have sent.
        (templated)
    :param delete_missing: Delete the records that earlier runs sent and that are not in the source any more; a namespace of
        which nothing is left is deleted as a whole.
    :param max_delete_fraction: The share of the manifest's records that may be deleted; with more, nothing is deleted and
        the task fails. Ten records always may.
    :param full: Send every record, also those that are unchanged.
    :param audit: List the ids of the namespace first (of many, those of the manifest and of the source): what it lost is sent
        again, and what the manifest does not know is deleted as if it had vanished from the source.
    :param dry_run: Send and write nothing, and report what would be done.
    :param verify_sample: Records of each kind (sent, not sent, deleted) that are fetched in the end and compared; 0 for none.
    :param verify_timeout_s: How long the namespace may take until it shows what was written.
    """

    template_fields: Sequence[str] = (*PineconeRecordsBaseOperator.template_fields, "manifest_path")
    operation: ClassVar[str] = "reindexing"

    def __init__(  # noqa: PLR0913 - the user's options
        self,
        *,
        manifest_path: str | ObjectStoragePath,
        delete_missing: bool = defaults.DELETE_MISSING,
        max_delete_fraction: float = defaults.MAX_DELETE_FRACTION,
        full: bool = False,
        audit: bool = False,
        dry_run: bool = False,
        verify_sample: int = defaults.VERIFY_SAMPLE,
        verify_timeout_s: float = defaults.VERIFY_TIMEOUT_S,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.manifest_path = manifest_path
        self.delete_missing = delete_missing
        self.max_delete_fraction = max_delete_fraction
        self.full = full
        self.audit = audit
        self.is_dry_run = dry_run  # dry_run() is a method of every operator
        self.verify_sample = verify_sample
        self.verify_timeout_s = verify_timeout_s

    def run(self, context: Context, cancellation: CancellationToken) -> dict[str, Any]:
        """Make the namespace equal to :meth:`source`. See :class:`PineconeBaseOperator`."""
        from airflow_pinecone_upsert.reindex.options import ReindexParameters

        parameters = self.parameters(ReindexParameters.__annotations__.keys() - {"dry_run"})
        # First, because it reads the connection, which only the main thread may request from Airflow.
        options = self.hook.reindex_options(self.namespace, dry_run=self.is_dry_run, **parameters)
        source = self.source(context, options, cancellation)
        self._lineage = lineage.Trace(source)
        return self.hook.reindex_source(
            source,
            options,
            manifest_path=self.manifest_path,
            rejects_path=self.rejects_path,
            state=context.get("task_state_store"),
            cancellation=cancellation,
            observers=[self._lineage],
        ).as_output()


class PineconeReindexOperator(PineconeGivenRecordsOperator, PineconeReindexBaseOperator):
    """
    Make a namespace of a Pinecone index equal to its source: send what is new or changed, delete what vanished.

    The records are those that ``parquet_paths`` or ``vectors`` yield, all of them each time. With ``namespace_column`` or
    ``namespace_from_path`` they belong to many namespaces, and each of those becomes equal to its part. The task succeeds only if every
    new or changed record was confirmed by the server or rejected where allowed, if nothing that vanished is left, and if
    a sample of the namespace is equal to the source bit for bit. Nothing else in the index is touched.

    Its output has the keys of :class:`~airflow_pinecone_upsert.operators.upsert.PineconeUpsertOperator`, and ``newCount``,
    ``changedCount``, ``unchangedCount``, ``deletedCount``, ``deleteRequestCount``, ``writeUnits`` and ``writeUnitsSaved``
    (estimates), ``verifiedCount``, ``lostCount`` and ``strayCount`` (what an audit found), ``manifestPath`` and ``dryRun``.
    Its ``namespaces`` are those of the source and those that something was deleted from.

    The parameters are those of :class:`~airflow_pinecone_upsert.operators.records.PineconeGivenRecordsOperator`,
    :class:`PineconeReindexBaseOperator` and their bases.
    """

    template_fields: Sequence[str] = (*PineconeGivenRecordsOperator.template_fields, "manifest_path")

    def source(self, context: Context, columns: Columns, cancellation: CancellationToken) -> RecordSource:
        """Return the records of the files, or those in memory."""
        from airflow_pinecone_upsert.storage import check_manifest_path

        if self.parquet_paths is not None:
            check_manifest_path(self.manifest_path, self.parquet_paths, columns)
        return super().source(context, columns, cancellation)
