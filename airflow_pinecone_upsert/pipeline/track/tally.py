"""The report while it grows."""

from __future__ import annotations

from dataclasses import dataclass, field

from airflow_pinecone_upsert.exceptions import RateLimitError
from airflow_pinecone_upsert.pipeline.send.events import Attempt, Event, Failure


@dataclass
class Tally:
    """The report while it grows, and what failed for good."""

    upserted_count: int = 0
    request_count: int = 0
    request_bytes: int = 0
    retry_count: int = 0
    throttled_count: int = 0
    failures: list[Failure] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Count what the sender reports."""
        match event:
            case Attempt():
                self.upserted_count += event.confirmed
                self.request_count += 1
                self.request_bytes += event.body_bytes
                self.retry_count += event.repeated
                self.throttled_count += isinstance(event.error, RateLimitError)
            case Failure():
                self.failures.append(event)
