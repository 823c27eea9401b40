"""The writer: every few seconds, and at the end, it writes rejects, the checkpoint and the progress, in this order."""

from __future__ import annotations

import logging
from typing import Final

from airflow_pinecone_upsert.exceptions import SetupError
from airflow_pinecone_upsert.pipeline.track.checkpoint import TaskState
from airflow_pinecone_upsert.pipeline.track.progress import Progress, ProgressMeter, ProgressSample
from airflow_pinecone_upsert.pipeline.track.rejects import Rejects
from airflow_pinecone_upsert.pipeline.track.tracker import RunTracker

log = logging.getLogger(__name__)

SAVE_INTERVAL_S: Final = 5.0
"""How often. At most this much work is repeated after a process was killed."""


class CheckpointWriter:
    """
    Writes what a run would lose if its process were killed.

    Rejects come first: the checkpoint must not pass a rejected record that is in no file yet.

    :param tracker: Knows how far the run has come.
    :param rejects: The rejected records.
    :param task_state: Where to store the checkpoint, and to show the progress; None for nowhere.
    :param started_s: Monotonic seconds.
    """

    def __init__(self, tracker: RunTracker, rejects: Rejects, task_state: TaskState | None, started_s: float) -> None:
        self._tracker = tracker
        self._rejects = rejects
        self._task_state = task_state
        self._meter = ProgressMeter(ProgressSample(started_s, tracker.counts(started_s), tracker.share))
        self._written_s = started_s

    def write_if_due(self, now: float) -> None:
        """
        Write, and log the progress, where the last time was long enough ago.

        :raises SetupError: Rejected records cannot be written.
        """
        if now - self._written_s >= SAVE_INTERVAL_S:
            log.info("%s.", self.write(now))

    def write(self, now: float) -> Progress:
        """
        Write.

        :raises SetupError: Rejected records cannot be written; the checkpoint stays as it was.
        """
        self._written_s = now
        tracker = self._tracker
        progress = self._meter.measure(ProgressSample(now, tracker.counts(now), tracker.share))
        self._rejects.write()
        state = tracker.state(now)
        if self._task_state is not None and state is not None:
            self._task_state.save(state)
            self._task_state.show(progress.as_state())
        return progress

    def write_after_failure(self, now: float) -> None:
        """Write; where that fails, too, log it: it must not hide the first error."""
        try:
            self.write(now)
        except SetupError as exc:
            log.error("%s", exc)  # noqa: TRY400
