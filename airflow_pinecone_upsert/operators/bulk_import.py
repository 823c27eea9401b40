"""The bulk import operator: Pinecone reads the files itself, and the task checks them before and the result after."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from airflow_pinecone_upsert.exceptions import (
    NotFoundError,
    PineconeUpsertError,
    SetupError,
    SourceError,
    StorageError,
    TransientError,
)
from airflow_pinecone_upsert.operators.base import PineconeBaseOperator
from airflow_pinecone_upsert.pipeline import defaults

if TYPE_CHECKING:
    from airflow.sdk import Context, ObjectStoragePath

    from airflow_pinecone_upsert.api.models import BulkImport
    from airflow_pinecone_upsert.client import IndexClient
    from airflow_pinecone_upsert.pipeline.bulk_import.preflight import ImportPlan
    from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken

log = logging.getLogger(__name__)

_STATE: Final = "progress"
_UNFINISHED: Final = ("Pending", "InProgress")
_MAX_NAMESPACES_NAMED: Final = 100


class PineconeBulkImportOperator(PineconeBaseOperator):
    """
    Let Pinecone import Parquet files from object storage into new namespaces, one for each folder.

    Before it starts, the task reads the footers of the files and reports what Pinecone would reject or drop. It succeeds only
    if Pinecone imported as many records as the files hold. A retry continues with the import that is running. Its output is a
    dict with ``importId``, ``uri``, ``recordsImported``, ``expectedRecords``, ``namespaces`` (the first 100; empty if the files
    cannot be read here), ``indexHost``, ``createdAt`` and ``finishedAt``.

    :param uri: The folder that has a folder for each namespace, such as ``s3://bucket/import``. The files are read here with the
        Airflow connection that it may name, ``s3://my_conn@bucket/import``. (templated)
    :param integration_id: Pinecone's storage integration, for a private bucket. (templated)
    :param error_mode: What an invalid record does: ``"abort"`` fails the import, ``"continue"`` leaves the record out.
    :param expected_records: Records that must be imported; None for the rows of the files. Where the files cannot be read here,
        this is needed, and they are not checked. (templated)
    :param deferrable: Wait in the triggerer, which takes no worker slot.
    :param poll_interval_s: Seconds between two looks at the import.
    :param on_kill: ``"cancel"``: cancel the import when the task is ended; while it is deferred, that needs Airflow 3.3.
        ``"leave"``: let it go on.

    The other parameters are those of :class:`PineconeBaseOperator`; ``namespace`` is not used.
    """

    template_fields: Sequence[str] = (
        *PineconeBaseOperator.template_fields,
        "uri",
        "integration_id",
        "expected_records",
    )
    operation: ClassVar[str] = "import"
    output_keys_pushed: ClassVar[Sequence[str]] = ("importId", "recordsImported")

    def __init__(  # noqa: PLR0913 - the user's options
        self,
        *,
        uri: str | ObjectStoragePath,
        integration_id: str | None = None,
        error_mode: Literal["abort", "continue"] = "abort",
        expected_records: int | str | None = None,
        deferrable: bool = True,
        poll_interval_s: float = defaults.IMPORT_POLL_INTERVAL_S,
        on_kill: Literal["cancel", "leave"] = "cancel",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value, allowed in (
            ("error_mode", error_mode, ("abort", "continue")),
            ("on_kill", on_kill, ("cancel", "leave")),
        ):
            if value not in allowed:
                raise ValueError(
                    f"Task {self.task_id!r}: {name} is {value!r}; set it to {' or '.join(map(repr, allowed))}."
                )
        self.uri = uri
        self.integration_id = integration_id
        self.error_mode: Literal["abort", "continue"] = error_mode
        self.expected_records = expected_records
        self.deferrable = deferrable
        self.poll_interval_s = poll_interval_s
        self.on_kill_action: Literal["cancel", "leave"] = on_kill
        self._is_killed = False

    def run(self, context: Context, cancellation: CancellationToken) -> dict[str, Any]:
        """Check the files, start the import or find the running one, and wait. See :class:`PineconeBaseOperator`."""
        from airflow_pinecone_upsert.pipeline.bulk_import.preflight import check_uri
        from airflow_pinecone_upsert.pipeline.read.prefetch import call_in_background
        from airflow_pinecone_upsert.storage import import_uri

        client = call_in_background(self.hook.get_conn, cancellation)
        uri = import_uri(self.uri)
        check_uri(uri)
        plan = self._plan(client, uri, cancellation)
        expected = self._expected(plan)
        earlier_id = _earlier_import(context, uri)
        found = call_in_background(lambda: self._find(client, uri, earlier_id), cancellation)
        if found is None and plan is not None:
            call_in_background(lambda: plan.check_namespaces(client), cancellation)
        started = found or call_in_background(lambda: self._start(client, uri), cancellation)
        namespaces = plan.namespaces[:_MAX_NAMESPACES_NAMED] if plan else []
        return self._wait(context, cancellation, started, {"expected": expected, "namespaces": list(namespaces)})

    # Before it starts -----------------------------------------------------------------------------

    def _plan(self, client: IndexClient, uri: str, cancellation: CancellationToken) -> ImportPlan | None:
        from airflow_pinecone_upsert.pipeline.bulk_import.preflight import plan_import
        from airflow_pinecone_upsert.pipeline.read.prefetch import call_in_background
        from airflow_pinecone_upsert.pipeline.stages import index_shape, index_stats
        from airflow_pinecone_upsert.storage import import_folder

        try:
            root, list_files = import_folder(self.uri)
            files = call_in_background(list_files, cancellation)
        except (SetupError, SourceError, StorageError) as exc:
            if self.expected_records is None:
                raise type(exc)(f"{exc} Or set expected_records, to import files that cannot be read here.") from exc
            log.warning("The files are not checked before the import: %s", exc)
            return None
        plan = plan_import(uri, root, files, index_shape(index_stats(client, cancellation)), cancellation)
        log.info(
            "%s has %s records in %s files and %s namespaces.",
            uri,
            f"{plan.record_count:,}",
            f"{plan.file_count:,}",
            f"{len(plan.namespaces):,}",
        )
        return plan

    def _expected(self, plan: ImportPlan | None) -> int:
        from airflow_pinecone_upsert.operators.numbers import whole_number

        given = whole_number("expected_records", self.expected_records)
        if given is not None:
            return given
        if plan is None:
            raise SetupError(
                "expected_records was rendered to nothing, and the files cannot be read here. Set a number."
            )
        return plan.record_count

    def _find(self, client: IndexClient, uri: str, earlier_id: str | None) -> BulkImport | None:
        """Find the import that an earlier try has started, or a running one of the same files."""
        if earlier_id is not None:
            try:
                earlier = client.describe_import(earlier_id)
            except NotFoundError:
                log.warning("The import %s of an earlier try does not exist any more.", earlier_id)
            else:
                log.info("Continuing with the import of an earlier try. %s.", earlier)
                return earlier
        running = _running(client, uri)
        if running:
            log.info("An import of %s is running already, so no second one is started. %s.", uri, running)
        return running

    def _start(self, client: IndexClient, uri: str) -> BulkImport:
        try:
            import_id = client.start_import(uri, integration_id=self.integration_id or None, error_mode=self.error_mode)
        except TransientError as exc:
            # It may have started all the same, and a second one would fail or import everything twice.
            found = _running(client, uri)
            if found is None:
                raise
            log.warning("%s The import has started nevertheless. %s.", exc, found)
            return found
        log.info("Started import %s of %s.", import_id, uri)
        return client.describe_import(import_id)

    # While it runs --------------------------------------------------------------------------------

    def _wait(
        self, context: Context, cancellation: CancellationToken, found: BulkImport, expectation: dict[str, Any]
    ) -> dict[str, Any]:
        """Wait here or in the triggerer, and return the output."""
        client = self.hook.get_conn()
        with self._cancelled_with_the_task(client, found.id):
            self._show(context, found)
            if self.deferrable and not found.is_finished:
                cancellation.raise_if_cancelled()
                self._defer(context, found, expectation)
            while not found.is_finished:
                found = self._next(context, cancellation, client, found)
        return self._finish(client, found, expectation)

    def _next(
        self, context: Context, cancellation: CancellationToken, client: IndexClient, before: BulkImport
    ) -> BulkImport:
        from airflow_pinecone_upsert.pipeline.freshness import pause
        from airflow_pinecone_upsert.pipeline.read.prefetch import call_in_background

        pause(self.poll_interval_s, time.sleep, cancellation)
        try:
            found = call_in_background(lambda: client.describe_import(before.id), cancellation)
        except TransientError as exc:
            log.warning("%s", exc)
            return before
        if str(found) != str(before):
            self._show(context, found)
        return found

    def _defer(self, context: Context, found: BulkImport, expectation: dict[str, Any]) -> None:
        from airflow_pinecone_upsert.triggers.bulk_import import PineconeBulkImportTrigger

        trigger = PineconeBulkImportTrigger(
            **self.hook_parameters,
            import_id=found.id,
            expectation=expectation,
            shown_percent=found.percent_complete if context.get("task_state_store") is not None else None,
            on_kill_action=self.on_kill_action,
            poll_interval_s=self.poll_interval_s,
        )
        self.defer(trigger=trigger, method_name="resume")

    def resume(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Continue after the trigger: show the progress and defer again, or check the result."""
        from airflow_pinecone_upsert.api.models import BulkImport
        from airflow_pinecone_upsert.triggers.base import raise_error

        def go_on(cancellation: CancellationToken) -> dict[str, Any]:
            raise_error(event)
            found = BulkImport.model_validate(event["import"])
            return self._wait(context, cancellation, found, event["expectation"])

        return self.perform(context, go_on)

    def _show(self, context: Context, found: BulkImport) -> None:
        from airflow_pinecone_upsert.pipeline.track.checkpoint import TaskState

        log.info("%s.", found)
        if (store := context.get("task_state_store")) is not None:
            TaskState(store).show(
                {
                    "importId": found.id,
                    "uri": found.uri,
                    "status": found.status,
                    "percent": round(found.percent_complete, 1),
                    "records": found.records_imported,
                }
            )

    def _finish(self, client: IndexClient, ended: BulkImport, expectation: dict[str, Any]) -> dict[str, Any]:
        from airflow_pinecone_upsert.pipeline.bulk_import.outcome import check_outcome

        check_outcome(ended, expectation["expected"])
        return {
            "importId": ended.id,
            "uri": ended.uri,
            "recordsImported": ended.records_imported,
            "expectedRecords": expectation["expected"],
            "namespaces": expectation["namespaces"],
            "indexHost": client.host,
            "createdAt": ended.created_at,
            "finishedAt": ended.finished_at,
        }

    def asset_events(self, output: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Return one event for each namespace that is named in the output."""
        return [{**output, "namespace": name} for name in output["namespaces"]]

    # When it is ended -----------------------------------------------------------------------------

    def on_kill(self) -> None:
        """End the task, and with it the import, unless that is to go on."""
        self._is_killed = True
        super().on_kill()

    @contextmanager
    def _cancelled_with_the_task(self, client: IndexClient, import_id: str) -> Iterator[None]:
        """Cancel the import where a user or a time-out ends the task; not where its supervisor is gone, as a retry attaches."""
        try:
            yield
        except BaseException:
            if self._is_killed and self.on_kill_action == "cancel":
                try:
                    client.cancel_import(import_id)
                except PineconeUpsertError as exc:
                    log.error("Import %s could not be cancelled: %s", import_id, exc)  # noqa: TRY400
                else:
                    log.warning("Import %s was cancelled, because its task was.", import_id)
            raise


def _running(client: IndexClient, uri: str) -> BulkImport | None:
    """Return the running import of a URI, the newest where there are several."""
    imports = (one for one in client.list_imports() if one.uri == uri and not one.is_finished)
    return max(imports, key=lambda one: one.created_at, default=None)


def _earlier_import(context: Context, uri: str) -> str | None:
    """Return the import that an earlier try waited for, as the task's state shows it; None where it has ended with it."""
    store = context.get("task_state_store")
    try:
        shown: Any = None if store is None else store.get(_STATE)
    except Exception as exc:  # noqa: BLE001 - a store's errors have no common class; the import is listed, too
        log.warning("The task's state could not be loaded: %s", exc)
        return None
    if not isinstance(shown, dict) or shown.get("uri") != uri or shown.get("status") not in _UNFINISHED:
        return None
    return str(shown["importId"])
