"""The trigger of the bulk import operator."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow_pinecone_upsert.triggers.base import PineconeBaseTrigger, in_thread

if TYPE_CHECKING:
    from airflow_pinecone_upsert.hooks.pinecone import PineconeHook

log = logging.getLogger(__name__)


class PineconeBulkImportTrigger(PineconeBaseTrigger):
    """
    Wait for a bulk import. The event has its state, as JSON, under the key ``import``, and the expectation.

    :param import_id: The import.
    :param expectation: What the task needs when it resumes. It travels with the trigger, because ``dag.test()`` drops the
        arguments of the method that resumes.
    :param shown_percent: The progress that the task's state shows. None: the event comes at the end only; else also after
        each further 10 %, because a trigger cannot write the state itself.
    :param on_kill_action: ``cancel``: cancel the import when a user ends the task (Airflow 3.3). A restart of the triggerer
        does not.
    :param hook: The parameters of :class:`PineconeBaseTrigger`.
    """

    parameters: ClassVar[tuple[str, ...]] = (
        *PineconeBaseTrigger.parameters,
        "import_id",
        "expectation",
        "shown_percent",
        "on_kill_action",
    )
    SHOW_EVERY_PERCENT: ClassVar[float] = 10.0

    def __init__(
        self,
        *,
        import_id: str,
        expectation: dict[str, Any],
        shown_percent: float | None,
        on_kill_action: Literal["cancel", "leave"],
        **hook: Any,
    ) -> None:
        super().__init__(**hook)
        self.import_id = import_id
        self.expectation = expectation
        self.shown_percent = shown_percent
        self.on_kill_action = on_kill_action
        self._logged = ""

    def poll(self, hook: PineconeHook) -> dict[str, Any] | None:
        """Ask for the state of the import. See :class:`PineconeBaseTrigger`."""
        found = hook.get_conn().describe_import(self.import_id)
        if str(found) != self._logged:
            self._logged = str(found)
            log.info("%s.", self._logged)
        is_due = (
            self.shown_percent is not None and found.percent_complete >= self.shown_percent + self.SHOW_EVERY_PERCENT
        )
        if not (found.is_finished or is_due):
            return None
        return {"import": found.model_dump(mode="json"), "expectation": self.expectation}

    async def on_kill(self) -> None:
        """Cancel the import. Airflow calls this when a user ends, clears or marks the deferred task."""
        if self.on_kill_action == "cancel":
            await in_thread(self._cancel)

    def _cancel(self) -> None:
        with self.hook() as hook:
            hook.get_conn().cancel_import(self.import_id)
        log.warning("Import %s was cancelled, because its task was.", self.import_id)
