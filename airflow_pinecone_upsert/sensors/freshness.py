"""The freshness sensor: waits until what was written is searchable."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final

from airflow.sdk import BaseSensorOperator

from airflow_pinecone_upsert.operators.base import PineconeBaseOperator
from airflow_pinecone_upsert.operators.numbers import whole_number
from airflow_pinecone_upsert.pipeline import defaults

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context, XComArg

    from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
    from airflow_pinecone_upsert.pipeline.freshness import Freshness

log = logging.getLogger(__name__)

_TRIGGERER_GRACE_S: Final = 300.0
"""How long a triggerer may be away before Airflow itself ends the deferral."""


class PineconeFreshnessSensor(PineconeBaseOperator, BaseSensorOperator):
    """
    Wait until a namespace shows what was written.

    With ``lsn``, until a query sees the write with this number. If the server reports no numbers, and without ``lsn``, until
    the number of records has been the same for some seconds; the log says so. Its output is a dict with ``namespace``,
    ``indexHost``, ``lsn`` (the last write that a query sees, or None) and ``recordCount`` (or None where it was not needed).

    :param lsn: ``upsert.output["lsn"]``, or several of them, such as those of a mapped task. (templated)
    :param min_records: The namespace must also hold at least so many records. (templated)
    :param deferrable: Wait in the triggerer, which takes no worker slot.
    :param poke_interval: Seconds between two polls.
    :param timeout: Seconds until the sensor fails, without a retry; with ``soft_fail=True`` it is skipped.

    The other parameters are those of :class:`PineconeBaseOperator` and of every sensor. ``mode="reschedule"`` needs
    ``deferrable=True``, which replaces it.
    """

    template_fields: Sequence[str] = (*PineconeBaseOperator.template_fields, "lsn", "min_records")
    operation: ClassVar[str] = "wait"
    writes: ClassVar[bool] = False

    def __init__(
        self,
        *,
        lsn: int | str | Sequence[int | None] | XComArg | None = None,
        min_records: int | str | XComArg | None = None,
        deferrable: bool = True,
        poke_interval: timedelta | float = defaults.FRESHNESS_POLL_INTERVAL_S,
        timeout: timedelta | float = defaults.FRESHNESS_TIMEOUT_S,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, timeout=timeout, **kwargs)
        if self.reschedule and not deferrable:
            raise ValueError(f'Task {self.task_id!r}: use deferrable=True instead of mode="reschedule".')
        self.lsn = lsn
        self.min_records = min_records
        self.deferrable = deferrable

    def render_template(
        self,
        content: Any,
        context: Context,
        jinja_env: jinja2.Environment | None = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        """Render one field. Of a server that sends no LSN, an upsert has none to push: then it is None."""
        from airflow.providers.common.compat.sdk import XComNotFound

        try:
            return super().render_template(content, context, jinja_env, seen_oids)
        except XComNotFound:
            if content is not self.lsn:
                raise
            return None

    def run(self, context: Context, cancellation: CancellationToken) -> dict[str, Any]:  # noqa: ARG002
        """Poll once, and then here or in the triggerer. See :class:`PineconeBaseOperator`."""
        from airflow_pinecone_upsert.pipeline.freshness import Polling
        from airflow_pinecone_upsert.pipeline.read.prefetch import call_in_background

        deadline_s = time.time() + self.timeout
        lsn, min_records = latest_lsn(self.lsn), whole_number("min_records", self.min_records)
        freshness = self.hook.freshness(self.namespace, lsn=lsn, min_records=min_records)
        if not self.deferrable:
            polling = Polling(self.timeout, time.monotonic, time.sleep, cancellation, self.poke_interval)
            if not polling.until(lambda: call_in_background(freshness.poll, cancellation)):
                raise self._timed_out(str(freshness.error(self.timeout, "timeout")))
        elif not call_in_background(freshness.poll, cancellation):
            self._defer(freshness, lsn, min_records, deadline_s)
        return freshness.as_output()

    def _defer(self, freshness: Freshness, lsn: int | None, min_records: int | None, deadline_s: float) -> None:
        from airflow_pinecone_upsert.triggers.freshness import PineconeFreshnessTrigger

        trigger = PineconeFreshnessTrigger(
            **self.hook_parameters,
            namespace=freshness.namespace,
            lsn=lsn,
            min_records=min_records,
            timeout_s=self.timeout,
            deadline_s=deadline_s,
            poll_interval_s=self.poke_interval,
        )
        remaining_s = max(0.0, deadline_s - time.time())
        self.defer(trigger=trigger, method_name="resume", timeout=timedelta(seconds=remaining_s + _TRIGGERER_GRACE_S))

    def resume(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Return what the trigger saw, or raise its error."""
        from airflow_pinecone_upsert.triggers.base import raise_error

        def finish(_: CancellationToken) -> dict[str, Any]:
            raise_error(event)
            if "timeout" in event:
                raise self._timed_out(event["timeout"])
            return event

        return self.perform(context, finish)

    def _timed_out(self, message: str) -> Exception:
        from airflow.providers.common.compat.sdk import AirflowSensorTimeout, AirflowSkipException

        log.error("%s", message)  # in a line of its own, as the errors of the base
        error: Exception = (AirflowSkipException if self.soft_fail else AirflowSensorTimeout)(message)
        return error


def latest_lsn(value: Any) -> int | None:
    """
    Return the greatest LSN of what a template or an XCom resolved to.

    :param value: A number, its text, None, or several of these.
    :raises SetupError: It is something else.
    """
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, dict)):
        found = [one for one in map(latest_lsn, value) if one is not None]
        return max(found, default=None)
    return whole_number("lsn", value, 'upsert.output["lsn"]')
