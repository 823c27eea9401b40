"""A wish to stop: told by a signal handler or another thread, noticed where the run waits."""

from __future__ import annotations

from typing import Final

from airflow_pinecone_upsert.exceptions import IncompleteUpsertError

POLL_INTERVAL_S: Final = 0.1
"""The longest wait that does not look whether the run is to stop."""

GRACE_S: Final = 2.0
"""What requests in flight are given once the run is to stop. Airflow kills a task 5 s after it asked it to end."""


class CancellationToken:
    """Asked once, from anywhere."""

    def __init__(self) -> None:
        self.asked = False  # no Event: a signal handler may interrupt the very code that holds its lock

    def ask(self) -> None:
        """Ask the run to stop. Returns at once."""
        self.asked = True

    def check(self) -> None:
        """
        Go on, unless the run is to stop.

        :raises IncompleteUpsertError: It is.
        """
        if self.asked:
            raise IncompleteUpsertError("The upsert was cancelled. Running it again is safe.")
