"""The trigger of the freshness sensor."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_pinecone_upsert.triggers.base import PineconeBaseTrigger

if TYPE_CHECKING:
    from airflow_pinecone_upsert.exceptions import TransientError
    from airflow_pinecone_upsert.hooks.pinecone import PineconeHook
    from airflow_pinecone_upsert.pipeline.freshness import Freshness


class PineconeFreshnessTrigger(PineconeBaseTrigger):
    """
    Wait until a namespace shows what was written. See :mod:`airflow_pinecone_upsert.pipeline.freshness`.

    The event is what :meth:`Freshness.as_output` returns, or has the key ``timeout`` with a message.

    :param namespace: None for the connection's.
    :param lsn: The position of the last write; None where the server did not report it.
    :param min_records: The namespace must also hold at least so many records.
    :param timeout_s: The time that the sensor waits in total, for the message.
    :param deadline_s: When it ends, in seconds since the epoch, so that a restart does not prolong it.
    :param hook: The parameters of :class:`PineconeBaseTrigger`.
    """

    parameters: ClassVar[tuple[str, ...]] = (
        *PineconeBaseTrigger.parameters,
        "namespace",
        "lsn",
        "min_records",
        "timeout_s",
        "deadline_s",
    )

    def __init__(
        self,
        *,
        namespace: str | None,
        lsn: int | None,
        min_records: int | None,
        timeout_s: float,
        deadline_s: float,
        **hook: Any,
    ) -> None:
        super().__init__(**hook)
        self.namespace = namespace
        self.lsn = lsn
        self.min_records = min_records
        self.timeout_s = timeout_s
        self.deadline_s = deadline_s
        self._freshness: Freshness | None = None

    def poll(self, hook: PineconeHook) -> dict[str, Any] | None:
        """Ask the index. See :class:`PineconeBaseTrigger`."""
        freshness = self._freshness = self._freshness or hook.freshness(
            self.namespace, lsn=self.lsn, min_records=self.min_records
        )
        if freshness.poll():
            return freshness.as_output()
        return self._if_time_is_up(str(freshness.error(self.timeout_s, "timeout")))

    def failed(self, error: TransientError) -> dict[str, Any] | None:
        """End where time is up, although the index cannot be reached. See :class:`PineconeBaseTrigger`."""
        return self._if_time_is_up(str(error))

    def _if_time_is_up(self, message: str) -> dict[str, Any] | None:
        return {"timeout": message} if time.time() >= self.deadline_s else None
