"""The delete operator: which records it deletes, and its output. Everything else is in the base or the pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import XComArg

from airflow_pinecone_upsert.operators.base import PineconeBaseOperator
from airflow_pinecone_upsert.operators.vectors import Vectors
from airflow_pinecone_upsert.pipeline import defaults

if TYPE_CHECKING:
    from airflow.sdk import Context, ObjectStoragePath

    from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
    from airflow_pinecone_upsert.pipeline.delete.selection import Selection


class PineconeDeleteOperator(PineconeBaseOperator):
    """
    Delete records of one namespace, selected in exactly one of four ways.

    What is gone already is success, so a retry is safe. The output is a dict with ``deletedCount``, ``requestCount``,
    ``requestBytes``, ``retryCount``, ``throttledCount``, ``durationSeconds``, ``lsn``, ``dryRun``, ``namespace`` and
    ``indexHost``; ``deletedCount`` and ``lsn`` are also pushed under their own keys. The first counts ids that the server
    confirmed, unknown ones included; for a filter, the records that it matched, or None where the server does not count them; for ``delete_all``,
    what the statistics said before.

    :param ids: A list of ids, also as the output of an upstream task, mapped or not. They are not rendered or shown.
    :param id_path: Instead of ``ids``: Parquet files that contain the ids, as ``parquet_paths`` of the upsert operator. Read
        in bounded memory. (templated)
    :param filter: Instead of ``ids``: a filter on metadata, such as ``{"year": {"$lt": 2020}}``. (templated)
    :param delete_all: Instead of ``ids``: delete all records of the namespace.
    :param id_column: The column of ``id_path``.
    :param max_deletes: With more ids or records than this, nothing is deleted, and the task fails. Ids in files are counted
        by their footers.
    :param dry_run: Count, and delete nothing. Ids are read and checked.

    The other parameters are those of :class:`PineconeBaseOperator`.
    """

    template_fields: Sequence[str] = ("ids", "id_path", "filter", *PineconeBaseOperator.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {"id_path": "json", "filter": "json"}

    operation: ClassVar[str] = "deletion"
    output_keys_pushed: ClassVar[Sequence[str]] = ("deletedCount", "lsn")

    def __init__(  # noqa: PLR0913 - the user's options
        self,
        *,
        ids: Any = None,
        id_path: str | ObjectStoragePath | Sequence[str | ObjectStoragePath] | XComArg | None = None,
        filter: Mapping[str, Any] | XComArg | None = None,  # noqa: A002 - the API's word
        delete_all: bool = False,
        id_column: str = defaults.ID_COLUMN,
        max_deletes: int | None = None,
        dry_run: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if sum(one is not None for one in (ids, id_path, filter)) + bool(delete_all) != 1:
            raise ValueError(f"Task {self.task_id!r}: set exactly one of ids, id_path, filter and delete_all.")
        if max_deletes is not None and max_deletes < 0:
            raise ValueError(f"Task {self.task_id!r}: max_deletes is {max_deletes}. Set a number from 0, or None.")
        self.ids = None if ids is None else Vectors(ids, "ids")
        self.id_path = id_path
        self.filter: Any = filter
        self.delete_all = delete_all
        self.id_column = id_column
        self.max_deletes = max_deletes
        self.is_dry_run = dry_run  # dry_run() is a method of every operator
        for reference in self.ids.references() if self.ids else ():
            XComArg.apply_upstream_relationship(self, reference)

    def run(self, context: Context, cancellation: CancellationToken) -> dict[str, Any]:  # noqa: ARG002 - of all operators
        """Delete what is selected. See :class:`PineconeBaseOperator`."""
        return self.hook.delete_selected(
            self._selection(cancellation),
            namespace=self.namespace,
            max_deletes=self.max_deletes,
            dry_run=self.is_dry_run,
            cancellation=cancellation,
        ).as_output()

    def _selection(self, cancellation: CancellationToken) -> Selection:
        from airflow_pinecone_upsert.pipeline.delete.selection import AllRecords, IdsInMemory, MatchingRecords
        from airflow_pinecone_upsert.storage import ids_in_files

        if self.delete_all:
            return AllRecords()
        if self.ids is not None:
            return IdsInMemory(self.ids.value)
        if self.id_path is not None:
            return ids_in_files(self.id_path, self.id_column, cancellation)
        return MatchingRecords(self.filter)
