"""What all operators share: connection, hook, retry policy, cancellation, console link, asset event, lineage."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from airflow_pinecone_upsert import lineage
from airflow_pinecone_upsert.exceptions import PineconeUpsertError
from airflow_pinecone_upsert.hooks.pinecone import PineconeHook
from airflow_pinecone_upsert.links import PineconeConsoleLink
from airflow_pinecone_upsert.operators.retry_policy import FINAL_ERRORS, final_error, retry_policy_argument
from airflow_pinecone_upsert.operators.vectors import Vectors
from airflow_pinecone_upsert.supervisor import cancellation_token

if TYPE_CHECKING:
    import jinja2
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context, RetryPolicy
    from airflow.sdk.definitions.mappedoperator import OperatorPartial

    from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken


log = logging.getLogger(__name__)


class PineconeBaseOperator(BaseOperator, ABC):
    """
    The base of the operators of this package. A subclass implements :meth:`run`.

    :param namespace: None for the connection's, ``""`` for Pinecone's default one. (templated)
    :param pinecone_conn_id: The Airflow connection. (templated)
    :param index_host: Instead of the connection's host. Where a template, an XCom or a mapped task sets it, it must be
        Pinecone's, the connection's own, or one of the connection's ``allowed_host_suffixes``. (templated)
    :param index_name: Instead of the connection's host: the index whose host is looked up. (templated)
    :param retry_policy: Replaces the default one, by which errors that a retry cannot fix are final. Needs Airflow 3.3.
    """

    template_fields: Sequence[str] = ("namespace", "pinecone_conn_id", "index_host", "index_name")
    operator_extra_links = (PineconeConsoleLink(),)
    ui_color = "#d7e3fc"

    operation: ClassVar[str] = "upsert"
    """What is cancelled when Airflow ends the task, for the message."""

    writes: ClassVar[bool] = True
    """Whether the task changes the namespace of its output, so that it emits an asset event."""

    output_keys_pushed: ClassVar[Sequence[str]] = ()
    """The keys of the output that are also pushed as XComs of their own."""

    def __init__(
        self,
        *,
        namespace: str | None = None,
        pinecone_conn_id: str = PineconeHook.default_conn_name,
        index_host: str | None = None,
        index_name: str | None = None,
        retry_policy: RetryPolicy | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs, **retry_policy_argument(retry_policy))
        if self.writes:
            self.outlets = lineage.with_outlet(self.outlets, self.dag_id, self.task_id)
        self.namespace = namespace
        self.pinecone_conn_id = pinecone_conn_id
        self.index_host = index_host
        self._index_host_in_dag = index_host
        self._is_mapped = False
        self.index_name = index_name
        self._cancellation: CancellationToken | None = None
        self._lineage: lineage.Trace | None = None
        self._output: dict[str, Any] = {}

    @classmethod
    def partial(cls, **kwargs: Any) -> OperatorPartial:
        """
        Declare the outlet also of a mapped task, whose ``__init__`` runs only in its instances.

        Otherwise Airflow creates the alias when the first instance ends: of two that ended at the same time, it marked one as
        failed, for good, although all of its records had been confirmed.
        """
        mapped: OperatorPartial = super().partial(**kwargs)
        if cls.writes and (dag := mapped.kwargs.get("dag")) is not None:
            outlets = mapped.kwargs.get("outlets") or []
            mapped.kwargs["outlets"] = lineage.with_outlet(outlets, dag.dag_id, mapped.kwargs["task_id"])
        return mapped

    @cached_property
    def hook(self) -> PineconeHook:
        """The hook, created from the rendered fields."""
        return PineconeHook(**self.hook_parameters)

    @property
    def hook_parameters(self) -> dict[str, Any]:
        """The parameters of the hook, of which none is a secret; a trigger needs them, too."""
        return {
            "pinecone_conn_id": self.pinecone_conn_id,
            "index_host": self.index_host,
            "index_name": self.index_name,
            "check_index_host": self._is_mapped or self.index_host != self._index_host_in_dag,
        }

    @property
    def index_url(self) -> str | None:
        """The index's URL, once the task knows it; the console link needs it."""
        report = self._lineage.report if self._lineage else None
        return report.index_host if report else self._output.get("indexHost")

    def render_template(
        self,
        content: Any,
        context: Context,
        jinja_env: jinja2.Environment | None = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        """
        Render one field; of :class:`Vectors`, which are records or ids, only resolve the XComs.

        Airflow would visit every number in them (3000 x 1536 took 10 s and 142 MB) and render their text as Jinja.
        """
        if isinstance(content, Vectors):
            return content.resolved(context)
        return super().render_template(content, context, jinja_env, seen_oids)

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Do the task's work.

        :return: The task's output, see the class.
        :raises PineconeUpsertError: See :mod:`airflow_pinecone_upsert.exceptions`.
            One that a retry cannot fix has no traceback of this package; DEBUG logs it. Before Airflow 3.3, it is also
            an ``AirflowFailException``.
        """
        return self.perform(context, lambda cancellation: self.run(context, cancellation))

    def perform(self, context: Context, work: Callable[[CancellationToken], dict[str, Any]]) -> dict[str, Any]:
        """
        Do :meth:`execute`'s work, or what is left of it when the task resumes after a deferral.

        :param work: Returns the task's output.
        """
        self._cancellation = cancellation_token(self.operation)  # first, because a signal may come at any moment
        # What is mapped is resolved before __init__, so that it looks like a part of the DAG's code.
        self._is_mapped = getattr(context.get("ti"), "map_index", -1) >= 0
        try:
            with self.hook:
                output = self._output = work(self._cancellation)
        except PineconeUpsertError as error:
            # Airflow prints the message next to the traceback, in one line that a log view cuts off.
            log.error("%s", "\n".join(error.lines))  # noqa: TRY400
            if not isinstance(error, FINAL_ERRORS):
                raise
            log.debug("The traceback of this error:", exc_info=True)
            raise final_error(error) from None
        if context.get("ti"):
            for key in self.output_keys_pushed:
                if output[key] is not None:  # Airflow would not find it
                    context["ti"].xcom_push(key=key, value=output[key])
        for event in self.asset_events(output):
            lineage.emit_event(self, context, event)
        return output

    def asset_events(self, output: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Return the extras of the asset events to emit, each with the namespace that was written."""
        return [output] if self.writes else []

    @abstractmethod
    def run(self, context: Context, cancellation: CancellationToken) -> dict[str, Any]:
        """
        Do the work of this operator, with :attr:`hook`.

        :param context: Airflow's; empty outside a DAG run.
        :param cancellation: Cancelled when Airflow ends the task.
        :return: The task's output. Its ``indexHost`` and ``namespace`` say what was written.
        """

    def on_kill(self) -> None:
        """Cancel: start no new request, wait a moment for those in flight, and write the checkpoint."""
        if self._cancellation is not None:
            self._cancellation.cancel()

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:  # noqa: ARG002 - its signature
        """Return what was read and written. OpenLineage's provider calls this after a failure, too."""
        return lineage.openlineage(self._lineage)
