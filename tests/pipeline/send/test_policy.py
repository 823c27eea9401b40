"""What is done about each error, row by row of the table in policy.py."""

import pytest

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api.limits import MAX_ATTEMPTS, MAX_RETRY_AFTER_S
from airflow_pinecone_upsert.pipeline.send.policy import Abort, Reject, Retry, Split, decide

TRANSIENT = [exceptions.RateLimitError, exceptions.ServerError, exceptions.TransportError]
REFUSED = [exceptions.RequestTooLargeError, exceptions.BadRequestError]
FINAL = [
    exceptions.AuthenticationError,
    exceptions.NotFoundError,
    exceptions.UnsupportedIndexError,
    exceptions.QuotaExceededError,
    exceptions.UnexpectedResponseError,
    exceptions.PineconeUpsertError,
]


def decision(error, *, attempt=1, records=10):
    return decide(error, attempt=attempt, records=records, random=lambda: 0.5)


@pytest.mark.parametrize("kind", TRANSIENT)
def test_what_may_pass_is_tried_again_until_the_tries_are_used_up(kind):
    assert [decision(kind("x"), attempt=attempt) for attempt in (1, 2, 3)] == [Retry(0.5), Retry(1.0), Retry(2.0)]
    assert isinstance(decision(kind("x"), attempt=MAX_ATTEMPTS - 1), Retry)
    assert decision(kind("x"), attempt=MAX_ATTEMPTS) == Abort()


@pytest.mark.parametrize(("asked_s", "wait_s"), [(None, 0.5), (0.1, 0.5), (7.0, 7.0), (1e9, MAX_RETRY_AFTER_S)])
def test_the_wait_is_no_shorter_than_the_server_asks_within_reason(asked_s, wait_s):
    error = exceptions.RateLimitError("x", answer=exceptions.ErrorResponse(429, "x", retry_after_s=asked_s))
    assert decision(error) == Retry(wait_s)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_the_server_refuses_is_halved_down_to_the_record_that_it_refuses(kind):
    error = kind("x")
    assert decision(error, records=2) == decision(error, records=2, attempt=MAX_ATTEMPTS) == Split()
    assert decision(error, records=1) == Reject()


@pytest.mark.parametrize("kind", FINAL)
def test_everything_else_ends_the_run(kind):
    assert decision(kind("x")) == Abort()


def test_no_class_of_error_is_without_a_row():
    def leaves(kind):
        below = kind.__subclasses__()
        return {leaf for one in below for leaf in leaves(one)} if below else {kind}

    from_source_or_run = {
        exceptions.SourceError,
        exceptions.StorageError,
        exceptions.RecordError,
        exceptions.IncompleteUpsertError,
    }
    decided = {*TRANSIENT, *FINAL, *REFUSED, *from_source_or_run}
    assert leaves(exceptions.PineconeUpsertError) <= decided
