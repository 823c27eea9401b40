"""
Which failures Airflow may retry: those of the setup and of the input stay the same, however often a task is tried.

On Airflow 3.3 this is a retry policy, a default that a user can replace; before, it is Airflow's exception that fails a
task for good.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow_pinecone_upsert.exceptions import InputError, SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import RetryPolicy

try:
    from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule
except ImportError:  # Airflow before 3.3
    ExceptionRetryPolicy = None  # type: ignore[assignment,misc]

FINAL_ERRORS = (SetupError, InputError)


def retry_policy_argument(chosen: RetryPolicy | None) -> dict[str, Any]:
    """
    Return the arguments of ``BaseOperator`` that set the retry policy.

    :param chosen: The user's policy; None for the default one, under which an error that a retry cannot fix is final.
    """
    if ExceptionRetryPolicy is None:
        return {}
    reason = "A retry cannot fix this: the setup or the data must change first."
    rule = RetryRule(exception=list(FINAL_ERRORS), action=RetryAction.FAIL, reason=reason)
    return {"retry_policy": chosen or ExceptionRetryPolicy(rules=[rule])}


@contextmanager
def final_errors_fail_at_once() -> Iterator[None]:
    """
    Fail a task at once before Airflow 3.3; later versions use the policy.

    :raises AirflowFailException: Instead of an error that a retry cannot fix; the error is its cause.
    """
    try:
        yield
    except FINAL_ERRORS as exc:
        if ExceptionRetryPolicy is not None:
            raise
        from airflow.providers.common.compat.sdk import AirflowFailException

        raise AirflowFailException(str(exc)) from exc
