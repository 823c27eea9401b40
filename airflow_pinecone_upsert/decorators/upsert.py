"""``@task.pinecone_upsert``: what a function returns or yields goes straight into Pinecone, and never becomes an XCom."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import (
    DecoratedOperator,
    context_merge,
    determine_kwargs,
    task_decorator_factory,
)

from airflow_pinecone_upsert.operators.upsert import PineconeUpsertOperator, RenderedVectors

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.bases.decorator import TaskDecorator

    from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
    from airflow_pinecone_upsert.pipeline.options import Columns
    from airflow_pinecone_upsert.pipeline.read.source import RecordSource


class PineconeUpsertDecoratedOperator(DecoratedOperator, PineconeUpsertOperator):
    """
    Upsert what a function returns or yields, in memory that does not grow with it.

    The function may return, or yield one by one or list by list: records, tuples ``(id, values[, metadata])``,
    DataFrames, tables, or paths of Parquet files. It runs while the requests before are in flight.

    :param python_callable: The function.
    :param op_args: Its positional arguments. (templated)
    :param op_kwargs: Its keyword arguments. (templated)

    All other parameters but ``vectors`` and ``parquet_paths`` are those of :class:`PineconeUpsertOperator`.
    """

    custom_operator_name = "@task.pinecone_upsert"
    template_fields: Sequence[str] = (*DecoratedOperator.template_fields, *PineconeUpsertOperator.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **PineconeUpsertOperator.template_fields_renderers,
    }

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("parquet_paths") is not None or kwargs.get("vectors") is not None:
            raise ValueError("@task.pinecone_upsert takes neither vectors nor parquet_paths: return or yield them.")
        kwargs["vectors"] = RenderedVectors(None, f"what {python_callable.__name__}() yields")
        super().__init__(python_callable=python_callable, op_args=op_args, op_kwargs=op_kwargs, **kwargs)

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Run the function and upsert.

        :return: As :meth:`PineconeUpsertOperator.execute`.
        """
        context_merge(context, self.op_kwargs)
        arguments = determine_kwargs(self.python_callable, self.op_args, context)
        self.vectors = self.python_callable(*self.op_args, **arguments)
        return PineconeUpsertOperator.execute(self, context)

    def _source(self, columns: Columns, stop: CancellationToken) -> RecordSource:
        from airflow_pinecone_upsert.pipeline.read.in_memory import InMemorySource
        from airflow_pinecone_upsert.storage import ParquetPaths

        origin = f"{self.python_callable.__name__}()"
        return InMemorySource(self.vectors, columns, origin=origin, paths=ParquetPaths(columns, stop))


def pinecone_upsert_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """
    Turn a function into a task that upserts what it returns or yields.

    :param python_callable: The function.
    :param kwargs: Parameters of :class:`PineconeUpsertOperator`.
    """
    decorator: TaskDecorator = task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=PineconeUpsertDecoratedOperator, **kwargs
    )
    return decorator
