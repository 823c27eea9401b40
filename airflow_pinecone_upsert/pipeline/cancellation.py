"""Cancellation: requested by a signal handler or another thread, noticed wherever the run waits."""

from __future__ import annotations

from typing import Final

from airflow_pinecone_upsert.exceptions import IncompleteUpsertError

POLL_INTERVAL_S: Final = 0.1
"""The longest wait that does not check for cancellation."""

GRACE_S: Final = 2.0
"""How long requests in flight may still take after a cancellation. Airflow kills a task 5 s after SIGTERM."""


class CancellationToken:
    """
    Cancelled once, from anywhere; checked by the thread that works.

    :param operation: What is cancelled, for the message.
    """

    def __init__(self, operation: str = "upsert") -> None:
        self._operation = operation
        # Not an Event: a signal handler may interrupt the very code that holds its lock.
        self.is_cancelled = False

    def cancel(self) -> None:
        """Request the end of the run. Returns at once."""
        self.is_cancelled = True

    def raise_if_cancelled(self) -> None:
        """
        Return, unless the run was cancelled.

        :raises IncompleteUpsertError: It was.
        """
        if self.is_cancelled:
            raise IncompleteUpsertError(f"The {self._operation} was cancelled. Running it again is safe.")
