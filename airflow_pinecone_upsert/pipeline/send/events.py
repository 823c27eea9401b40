"""What the sender reports."""

from __future__ import annotations

from dataclasses import dataclass

from airflow_pinecone_upsert.exceptions import PineconeUpsertError
from airflow_pinecone_upsert.pipeline.send.requests import UpsertRequest


@dataclass(frozen=True)
class Attempt:
    """
    One request that is over.

    :param batch: Its records.
    :param body_bytes: Length of its body.
    :param confirmed: Records that the server confirmed.
    :param repeated: It carried records that an earlier request carried.
    :param error: Why it failed; None where every record was confirmed.
    :param latency_s: From its start to its answer.
    """

    batch: UpsertRequest
    body_bytes: int
    confirmed: int
    repeated: bool
    error: PineconeUpsertError | None
    latency_s: float


@dataclass(frozen=True)
class Rejection:
    """
    One record that the server refuses, while it takes others.

    :param batch: It alone.
    :param error: The server's words.
    """

    batch: UpsertRequest
    error: PineconeUpsertError


@dataclass(frozen=True)
class Failure:
    """
    A batch that will not be sent again, and is not confirmed.

    :param batch: Its records. The server may hold all of them nevertheless.
    :param error: Why the last request for it failed.
    :param confirmed: How many of them the server confirmed; which ones it does not say.
    """

    batch: UpsertRequest
    error: PineconeUpsertError
    confirmed: int = 0

    @property
    def unconfirmed(self) -> int:
        """Records that the server did not confirm."""
        return len(self.batch) - self.confirmed


Event = Attempt | Rejection | Failure
