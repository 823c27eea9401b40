"""
Which failures Airflow may retry: those of the setup and of the input stay the same, however often a task is tried.

On Airflow 3.3 this is a retry policy, a default that a user can replace; before, it is Airflow's exception that fails a
task for good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_pinecone_upsert.exceptions import InputError, PineconeUpsertError, SetupError

if TYPE_CHECKING:
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


def final_error(error: PineconeUpsertError) -> PineconeUpsertError:
    """
    Return what to raise instead of an error that a retry cannot fix: the same error, without traceback and cause.

    Its message says what to fix, and frames of this package would only hide it in the log.

    :param error: One of :data:`FINAL_ERRORS`.
    :return: Before Airflow 3.3, which has no retry policies, it is an ``AirflowFailException`` at the same time.
    """
    if ExceptionRetryPolicy is not None:
        return error.with_traceback(None)
    final = _failing_at_once(type(error))
    copy = final.__new__(final, *error.args)
    vars(copy).update(vars(error))
    return copy


def _failing_at_once(kind: type[PineconeUpsertError]) -> type[PineconeUpsertError]:
    from airflow.providers.common.compat.sdk import AirflowFailException

    def __reduce__(self: PineconeUpsertError) -> tuple[Any, ...]:  # noqa: N807 - pickled as the public class
        return kind, self.args, vars(self)

    return type(kind.__name__, (kind, AirflowFailException), {"__module__": kind.__module__, "__reduce__": __reduce__})
