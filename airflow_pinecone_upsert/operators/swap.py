"""The swap operator: its parameters, and its output. Everything else is in the base or in ``reindex``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_pinecone_upsert.operators.base import PineconeBaseOperator
from airflow_pinecone_upsert.pipeline import defaults

if TYPE_CHECKING:
    from airflow.sdk import Context, XComArg

    from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken


class PineconeSwapNamespaceOperator(PineconeBaseOperator):
    """
    Point a namespace alias to a namespace that was filled, so that readers of the alias see it from one moment to the next.

    The alias is created or repointed only if the namespace exists, is searchable and holds enough records. Then a query
    through the alias proves that the namespace serves it, and old namespaces are deleted. A swap that failed anywhere
    converges when it is retried. With the previous namespace as the target, it is the rollback.

    The output is a dict with ``alias``, ``targetNamespace``, ``previousNamespace``, ``recordCount``,
    ``previousRecordCount``, ``deletedNamespaces``, ``namespace`` (the alias) and ``indexHost``. The asset event is that of
    the alias, ``pinecone://{index host}/{alias}``.

    :param alias: The alias, which readers use like a namespace. It is created if it does not exist. (templated)
    :param target_namespace: The namespace that it is to point to. (templated)
    :param lsn: The position of the last write to this namespace: ``upsert.output["lsn"]``. Without it, the namespace counts
        as searchable once its number of records has been the same for 10 s. (templated)
    :param min_records: The namespace must hold at least so many records. (templated)
    :param max_shrink_fraction: It may hold fewer records than the current target of the alias, by at most this share.
    :param keep: So many older namespaces are kept, among them the one that the alias pointed to before.
    :param namespace_prefix: Older namespaces with this prefix are deleted, but never one that an alias points to. Those are
        older whose names sort before that of the target, as dates do. None to delete none. (templated)
    :param searchable_timeout_s: How long the namespace may take until it is searchable, in seconds.

    The other parameters are those of :class:`PineconeBaseOperator`, but for ``namespace``.
    """

    template_fields: Sequence[str] = (
        "alias",
        "target_namespace",
        "lsn",
        "min_records",
        "namespace_prefix",
        *(name for name in PineconeBaseOperator.template_fields if name != "namespace"),
    )
    operation: ClassVar[str] = "swap"

    def __init__(  # noqa: PLR0913 - the user's options
        self,
        *,
        alias: str | XComArg,
        target_namespace: str | XComArg,
        lsn: int | XComArg | None = None,
        min_records: int | XComArg = defaults.MIN_RECORDS,
        max_shrink_fraction: float = defaults.MAX_SHRINK_FRACTION,
        keep: int = defaults.KEEP_NAMESPACES,
        namespace_prefix: str | None = None,
        searchable_timeout_s: float = defaults.SEARCHABLE_TIMEOUT_S,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if self.namespace is not None:
            raise ValueError(f"Task {self.task_id!r}: set alias and target_namespace instead of namespace.")
        self.alias = alias
        self.target_namespace = target_namespace
        self.lsn = lsn
        self.min_records = min_records
        self.max_shrink_fraction = max_shrink_fraction
        self.keep = keep
        self.namespace_prefix = namespace_prefix
        self.searchable_timeout_s = searchable_timeout_s

    def run(self, context: Context, cancellation: CancellationToken) -> dict[str, Any]:
        """Swap. See :class:`PineconeBaseOperator`."""
        from airflow_pinecone_upsert.reindex.swap_options import SwapParameters

        parameters: Any = {name: getattr(self, name) for name in SwapParameters.__annotations__}
        state = context.get("task_state_store")
        return self.hook.swap_namespace(state=state, cancellation=cancellation, **parameters).as_output()
