"""The decision about each error, row by row of the table in policy.py."""

import pytest

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api.limits import MAX_ATTEMPTS, MAX_RETRY_AFTER_S
from airflow_pinecone_upsert.pipeline.send.policy import MAX_REJECTED_AT_FIRST, Abort, Reject, Retry, Split, decide

TRANSIENT = [
    exceptions.RateLimitError,
    exceptions.ServerError,
    exceptions.ShortCountError,
    exceptions.TransportError,
]
REJECTED = [exceptions.RequestTooLargeError, exceptions.BadRequestError]
FINAL = [
    exceptions.AuthenticationError,
    exceptions.NotFoundError,
    exceptions.UnsupportedIndexError,
    exceptions.QuotaExceededError,
    exceptions.UnexpectedResponseError,
    exceptions.PineconeUpsertError,
]


def decision(error, *, attempt=1, max_attempts=MAX_ATTEMPTS, items=10, rejected_at_first=0, rejected_single=False):
    return decide(
        error,
        attempt=attempt,
        max_attempts=max_attempts,
        items=items,
        random=lambda: 0.5,
        rejected_at_first=rejected_at_first,
        rejected_single=rejected_single,
    )


@pytest.mark.parametrize("kind", TRANSIENT)
def test_a_transient_error_is_retried_until_no_attempt_is_left(kind):
    assert [decision(kind("x"), attempt=attempt) for attempt in (1, 2, 3)] == [Retry(0.5), Retry(1.0), Retry(2.0)]
    assert isinstance(decision(kind("x"), attempt=MAX_ATTEMPTS - 1), Retry)
    assert decision(kind("x"), attempt=MAX_ATTEMPTS) == Abort()
    assert decision(kind("x"), attempt=2, max_attempts=2) == Abort()


@pytest.mark.parametrize(("asked_s", "wait_s"), [(None, 0.5), (0.1, 0.5), (7.0, 7.0), (1e9, MAX_RETRY_AFTER_S)])
def test_the_wait_is_at_least_the_retry_after_up_to_a_limit(asked_s, wait_s):
    error = exceptions.RateLimitError("x", response=exceptions.ErrorResponse(429, "x", retry_after_s=asked_s))
    assert decision(error) == Retry(wait_s)


@pytest.mark.parametrize("kind", REJECTED)
def test_a_rejected_request_is_halved_down_to_the_rejected_record(kind):
    error = kind("x")
    assert decision(error, items=2) == decision(error, items=2, attempt=MAX_ATTEMPTS) == Split()
    assert decision(error, items=1) == Reject()


def test_a_rejected_record_is_final_if_the_server_accepted_none_of_many_requests():
    error, many = exceptions.BadRequestError("x"), MAX_REJECTED_AT_FIRST
    assert decision(error, items=1, rejected_at_first=many - 1) == Reject()
    assert decision(error, items=1, rejected_at_first=many) == Abort()
    assert decision(error, items=2, rejected_at_first=many) == Split()
    assert decision(error, items=2, rejected_at_first=many, rejected_single=True) == Abort()
    assert decision(error, items=2, rejected_at_first=many - 1, rejected_single=True) == Split()
    assert decision(exceptions.RequestTooLargeError("x"), items=1, rejected_at_first=many) == Reject()


@pytest.mark.parametrize("kind", FINAL)
def test_any_other_error_ends_the_run(kind):
    assert decision(kind("x")) == Abort()


def test_every_class_of_error_has_a_row():
    def leaves(kind):
        below = kind.__subclasses__()
        return {leaf for one in below for leaf in leaves(one)} if below else {kind}

    from_source_or_run = {
        exceptions.SourceError,
        exceptions.StorageError,
        exceptions.RecordError,
        exceptions.IncompleteUpsertError,
        exceptions.BulkImportError,
        exceptions.ManifestError,
        exceptions.ManifestInUseError,
        exceptions.NotSearchableError,
        exceptions.VerificationError,
    }
    decided = {*TRANSIENT, *FINAL, *REJECTED, *from_source_or_run}
    assert leaves(exceptions.PineconeUpsertError) <= decided
