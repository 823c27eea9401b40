"""What the sender reports: each attempt, each rejected record, each request that was given up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from airflow_pinecone_upsert.exceptions import PineconeUpsertError, RateLimitError
from airflow_pinecone_upsert.pipeline.counts import Counts
from airflow_pinecone_upsert.pipeline.send.requests import Request

RequestT = TypeVar("RequestT", bound=Request)
RequestT_co = TypeVar("RequestT_co", bound=Request, covariant=True)


@dataclass(frozen=True)
class Attempt(Generic[RequestT_co]):
    """
    One attempt at a request that ended.

    :param request: The request.
    :param body_bytes: Length of its body.
    :param confirmed: Its items where the server confirmed all of them, else 0.
    :param is_repeat: An earlier attempt carried the same items.
    :param error: Why it failed; None where every item was confirmed.
    :param latency_s: From its start to its response.
    :param response: The server's; None where it failed.
    """

    request: RequestT_co
    body_bytes: int
    confirmed: int
    is_repeat: bool
    error: PineconeUpsertError | None
    latency_s: float
    response: Any = None

    @property
    def counts(self) -> Counts:
        """What this attempt adds to the counters of a run of upserts."""
        return Counts(
            upserted=self.confirmed,
            requests=1,
            request_bytes=self.body_bytes,
            retries=int(self.is_repeat),
            throttled=int(isinstance(self.error, RateLimitError)),
        )


@dataclass(frozen=True)
class Rejection(Generic[RequestT_co]):
    """
    One item that the server rejects, while it takes others.

    :param request: A request of this item alone.
    :param error: The server's words.
    """

    request: RequestT_co
    error: PineconeUpsertError


@dataclass(frozen=True)
class Failure(Generic[RequestT_co]):
    """
    A request that is given up, and whose items are not all confirmed.

    :param request: The request. The server may have applied all of it nevertheless.
    :param error: Why the last attempt at it failed.
    :param confirmed: How many items the last response confirmed; which ones it does not say.
    """

    request: RequestT_co
    error: PineconeUpsertError
    confirmed: int = 0

    @property
    def unconfirmed(self) -> int:
        """Items that the server did not confirm."""
        return len(self.request) - self.confirmed


Event = Attempt[RequestT] | Rejection[RequestT] | Failure[RequestT]
