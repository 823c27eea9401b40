"""Sends deletions in parallel, at the rate that Pinecone allows. Everything that deletes records does it here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from airflow_pinecone_upsert.api.backoff import Random
from airflow_pinecone_upsert.api.limits import MAX_DELETE_REQUESTS_PER_SECOND, MAX_DELETED_IDS_PER_SECOND
from airflow_pinecone_upsert.exceptions import PineconeUpsertError
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.send.events import Event, Failure, Rejection
from airflow_pinecone_upsert.pipeline.send.rate_limiter import RateLimiter
from airflow_pinecone_upsert.pipeline.send.requests import Deletion
from airflow_pinecone_upsert.pipeline.send.sender import Sender
from airflow_pinecone_upsert.pipeline.send.transport import Transport

DeletionT = TypeVar("DeletionT", bound=Deletion)


def send_deletions(  # noqa: PLR0913 - the seams of the sender
    requests: Iterator[DeletionT],
    transport: Transport[DeletionT],
    *,
    max_unsettled: int,
    random: Random,
    cancellation: CancellationToken,
    enter: Callable[[Event[DeletionT]], None] = lambda _: None,
    on_turn: Callable[[], None] = lambda: None,
) -> None:
    """
    Send every deletion, and raise why one of them failed once all of those that were started are settled.

    :param requests: Read while they are sent.
    :param transport: Carries the requests, and has the clock.
    :param max_unsettled: See :class:`Sender`.
    :param random: A source of floats in [0, 1).
    :param cancellation: Ends the run early.
    :param enter: Called with each event.
    :param on_turn: Called several times a second.
    :raises PineconeUpsertError: What ended the run, else why the first id was rejected; then all others are deleted.
    """
    failures: list[PineconeUpsertError] = []
    rejections: list[PineconeUpsertError] = []

    def note(event: Event[DeletionT]) -> None:
        enter(event)
        match event:
            case Failure():
                failures.append(event.error)
            case Rejection():
                rejections.append(event.error)

    sender = Sender(
        requests,
        transport,
        rate_limiter=RateLimiter(MAX_DELETE_REQUESTS_PER_SECOND, MAX_DELETED_IDS_PER_SECOND, random),
        max_unsettled=max_unsettled,
        random=random,
        cancellation=cancellation,
        on_turn=on_turn,
    )
    with transport:
        sender.send_all(note)
    for error in (*failures, *rejections):
        raise error
