"""The protocol of an observer of a run: metrics, spans and lineage learn of an upsert by it."""

from __future__ import annotations

from typing import Protocol

from airflow_pinecone_upsert.pipeline.report import UpsertReport
from airflow_pinecone_upsert.pipeline.send.events import Attempt
from airflow_pinecone_upsert.pipeline.send.requests import UpsertRequest


class Observer(Protocol):
    """Called by the thread that runs the upsert."""

    def attempted(self, attempt: Attempt[UpsertRequest]) -> None:
        """Take note of an attempt that ended."""
        ...

    def ended(self, report: UpsertReport) -> None:
        """Take note of the end of the run, whether it succeeded or failed. Called once."""
        ...
