"""What the task decorators share: the records are what a function returns or yields, and never become an XCom."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import DecoratedOperator, context_merge, determine_kwargs

from airflow_pinecone_upsert.operators.records import PineconeRecordsBaseOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
    from airflow_pinecone_upsert.pipeline.options import Columns
    from airflow_pinecone_upsert.pipeline.read.source import RecordSource


class FunctionRecordsOperator(DecoratedOperator, PineconeRecordsBaseOperator):
    """
    The base of the operators whose records a function returns or yields.

    The function may return, or yield one by one or list by list: records, tuples ``(id, values[, metadata])``,
    DataFrames, tables, or paths of Parquet files. A generator runs while the previous requests are in flight, and
    memory does not grow with the number of records that it yields.

    :param python_callable: The function.
    :param op_args: Its positional arguments. (templated)
    :param op_kwargs: Its keyword arguments. (templated)
    """

    template_fields: Sequence[str] = (*DecoratedOperator.template_fields, *PineconeRecordsBaseOperator.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {**DecoratedOperator.template_fields_renderers}
    custom_operator_name: str

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("parquet_paths") is not None or kwargs.get("vectors") is not None:
            name = self.custom_operator_name
            raise ValueError(f"{name} takes neither vectors nor parquet_paths: return or yield them.")
        super().__init__(python_callable=python_callable, op_args=op_args, op_kwargs=op_kwargs, **kwargs)

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the function and send its records. Airflow's own ``execute`` would return the function's value."""
        return PineconeRecordsBaseOperator.execute(self, context)

    def source(self, context: Context, columns: Columns, cancellation: CancellationToken) -> RecordSource:
        """Return the records that the function returns or yields."""
        from airflow_pinecone_upsert.pipeline.read.in_memory import InMemorySource
        from airflow_pinecone_upsert.storage import ParquetPaths

        context_merge(context, self.op_kwargs)
        arguments = determine_kwargs(self.python_callable, self.op_args, context)
        value = self.python_callable(*self.op_args, **arguments)
        origin = f"{self.python_callable.__name__}()"
        return InMemorySource(value, columns, origin=origin, paths=ParquetPaths(columns, cancellation))
