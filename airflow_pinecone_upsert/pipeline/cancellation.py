"""Cancellation: requested by a signal handler or another thread, noticed wherever the run waits."""

from __future__ import annotations

from collections.abc import Callable
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
    :param is_orphaned: Whether the process that supervises this one is gone. Then no one can cancel, so that counts as
        cancelled.
    """

    def __init__(self, operation: str = "upsert", *, is_orphaned: Callable[[], bool] = lambda: False) -> None:
        self._operation = operation
        self._is_orphaned = is_orphaned
        # Not an Event: a signal handler may interrupt the very code that holds its lock.
        self._was_cancelled = False

    @property
    def is_cancelled(self) -> bool:
        """Whether the run must end."""
        return self._was_cancelled or self._is_orphaned()

    def cancel(self) -> None:
        """Request the end of the run. Returns at once."""
        self._was_cancelled = True

    def raise_if_cancelled(self) -> None:
        """
        Return, unless the run was cancelled.

        :raises IncompleteUpsertError: It was.
        """
        if not self.is_cancelled:
            return
        why = (
            "" if self._was_cancelled else ": the process that supervises this task is gone, and a retry may be running"
        )
        raise IncompleteUpsertError(f"The {self._operation} was cancelled{why}. Running it again is safe.")
