"""What to do about a failed attempt: a table, without a clock or a socket. Every request of the package follows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from airflow_pinecone_upsert.api.backoff import Random, backoff_s
from airflow_pinecone_upsert.exceptions import (
    BadRequestError,
    PineconeUpsertError,
    RequestTooLargeError,
    TransientError,
    TransportError,
)

MAX_REJECTED_AT_FIRST: Final = 19
"""
Rejected requests, a single item among them, after which a server that accepted none is not asked about other items.

Enough for the eight requests that are in flight when the first one is rejected, and to halve one of them to its first item
and one more: with 1,000 records in each, 8 + 10 + 1.
"""

# Not tuples: two empty ones of different kinds would be equal.


@dataclass(frozen=True)
class Retry:
    """Send the same bytes again, after a wait."""

    after_s: float


@dataclass(frozen=True)
class Split:
    """Send each half as a request of its own."""


@dataclass(frozen=True)
class Reject:
    """Give up this one item, and continue: the server takes the others."""


@dataclass(frozen=True)
class Abort:
    """Start nothing more; the run has failed."""


Decision = Retry | Split | Reject | Abort


def decide(  # noqa: PLR0913 - what a decision depends on
    error: PineconeUpsertError,
    *,
    attempt: int,
    max_attempts: int,
    items: int,
    random: Random,
    rejected_at_first: int = 0,
    rejected_single: bool = False,
    is_probe: bool = False,
) -> Decision:
    """
    Decide about one failed attempt.

    =============================================  ===========================  ================================
    error                                          while                        decision
    =============================================  ===========================  ================================
    ``TransportError``                             it is larger than every      split
                                                   request that was accepted
    ``TransientError``                             attempts are left            retry, after backoff with jitter
    ``BadRequestError``                            19 requests were rejected,   abort
                                                   a single item among them,
                                                   and none accepted
    ``RequestTooLargeError``, ``BadRequestError``  it has two items or more     split
    ``RequestTooLargeError``, ``BadRequestError``  it has one item              reject
    any other                                      always                       abort
    =============================================  ===========================  ================================

    Halving finds the one item of n that the server rejects in at most 2 ⌈log2(n)⌉ further requests, and gets all of its
    neighbours through. A server that takes nothing would be asked about every item: that ends early. A proxy may close the
    connection of a request that is too large for it, instead of answering: to send the same again would not help.

    :param error: Why it failed.
    :param attempt: Attempts so far, from 1.
    :param max_attempts: The number of attempts after which a transient error is final.
    :param items: Items in the request: records, or ids.
    :param random: A source of floats in [0, 1).
    :param rejected_at_first: Requests that the server rejected, this one included, before it accepted any.
    :param rejected_single: One of the earlier of these had a single item.
    :param is_probe: It is larger than every request that was accepted.
    """
    match error:
        case TransportError() if is_probe and items > 1:
            return Split()
        case TransientError() if attempt < max_attempts:
            return Retry(backoff_s(attempt, retry_after_s(error), random))
        case BadRequestError() if (items == 1 or rejected_single) and rejected_at_first >= MAX_REJECTED_AT_FIRST:
            return Abort()
        case RequestTooLargeError() | BadRequestError():
            return Split() if items > 1 else Reject()
        case _:
            return Abort()


def retry_after_s(error: PineconeUpsertError) -> float | None:
    """Return the wait that the server asked for, if it asked."""
    return error.response.retry_after_s if error.response else None
