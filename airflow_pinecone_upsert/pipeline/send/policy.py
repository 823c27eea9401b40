"""What to do about a request that failed: a table, without a clock or a socket."""

from __future__ import annotations

from dataclasses import dataclass

from airflow_pinecone_upsert.api.backoff import Random, backoff_s
from airflow_pinecone_upsert.api.limits import MAX_ATTEMPTS
from airflow_pinecone_upsert.exceptions import (
    BadRequestError,
    PineconeUpsertError,
    RequestTooLargeError,
    TransientError,
)

# Not tuples: two empty ones of different kinds would be equal.


@dataclass(frozen=True)
class Retry:
    """Send the same bytes again, after a wait."""

    after_s: float


@dataclass(frozen=True)
class Split:
    """Send either half by itself."""


@dataclass(frozen=True)
class Reject:
    """It is one record, and the server takes any but this one."""


@dataclass(frozen=True)
class Abort:
    """Start nothing more; the run has failed."""


Decision = Retry | Split | Reject | Abort


def decide(error: PineconeUpsertError, *, attempt: int, records: int, random: Random) -> Decision:
    """
    Decide about one failed request.

    ==========================================  ============================  ================================
    error                                       while                         decision
    ==========================================  ============================  ================================
    ``TransientError``                          tries are left                retry, after backoff with jitter
    ``RequestTooLargeError``, ``BadRequestError``  it holds two records or more  split
    ``RequestTooLargeError``, ``BadRequestError``  it holds one record           set aside
    any other                                   always                        abort
    ==========================================  ============================  ================================

    Halving finds the one record of n that the server refuses in at most 2 ⌈log2(n)⌉ further requests, and gets all its
    neighbours through.

    :param error: Why it failed.
    :param attempt: Tries so far, from 1.
    :param records: Records in it.
    :param random: A source of floats in [0, 1).
    """
    match error:
        case TransientError() if attempt < MAX_ATTEMPTS:
            return Retry(backoff_s(attempt, retry_after_s(error), random))
        case RequestTooLargeError() | BadRequestError():
            return Split() if records > 1 else Reject()
        case _:
            return Abort()


def retry_after_s(error: PineconeUpsertError) -> float | None:
    """Return the wait that the server asked for, if it asked."""
    return error.answer.retry_after_s if error.answer else None
