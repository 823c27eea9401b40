"""``@task.pinecone_upsert``: upserts what a function returns or yields, without storing it in XCom."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import task_decorator_factory

from airflow_pinecone_upsert.decorators.function_records import FunctionRecordsOperator
from airflow_pinecone_upsert.operators.upsert import PineconeUpsertBaseOperator

if TYPE_CHECKING:
    from airflow.sdk.bases.decorator import TaskDecorator


class PineconeUpsertDecoratedOperator(FunctionRecordsOperator, PineconeUpsertBaseOperator):
    """
    Upsert what a function returns or yields.

    The parameters are those of :class:`FunctionRecordsOperator`, :class:`PineconeUpsertBaseOperator` and their bases.
    """

    custom_operator_name = "@task.pinecone_upsert"


def pinecone_upsert_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """
    Turn a function into a task that upserts what it returns or yields.

    :param python_callable: The function.
    :param kwargs: Parameters of :class:`PineconeUpsertDecoratedOperator`.
    """
    decorator: TaskDecorator = task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=PineconeUpsertDecoratedOperator, **kwargs
    )
    return decorator
