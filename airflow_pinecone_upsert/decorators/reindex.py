"""``@task.pinecone_reindex``: makes a namespace equal to what a function returns or yields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import task_decorator_factory

from airflow_pinecone_upsert.decorators.function_records import FunctionRecordsOperator
from airflow_pinecone_upsert.operators.reindex import PineconeReindexBaseOperator

if TYPE_CHECKING:
    from airflow.sdk.bases.decorator import TaskDecorator


class PineconeReindexDecoratedOperator(FunctionRecordsOperator, PineconeReindexBaseOperator):
    """
    Make a namespace equal to what a function returns or yields: all records that the namespace is to hold.

    The parameters are those of :class:`FunctionRecordsOperator`, :class:`PineconeReindexBaseOperator` and their bases.
    """

    custom_operator_name = "@task.pinecone_reindex"
    template_fields: Sequence[str] = (*FunctionRecordsOperator.template_fields, "manifest_path")


def pinecone_reindex_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """
    Turn a function into a task that makes a namespace equal to what it returns or yields.

    :param python_callable: The function.
    :param kwargs: Parameters of :class:`PineconeReindexDecoratedOperator`.
    """
    decorator: TaskDecorator = task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=PineconeReindexDecoratedOperator, **kwargs
    )
    return decorator
