"""A real triggerer, in a process that a test can kill and start again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from .airflow_home import HOME
from .supervised import TIMEOUT_S

LOG = HOME / "triggerer.log"


class Triggerer:
    """
    ``airflow triggerer``, with its own process and the one in which the triggers run.

    :param environment: Environment variables that are added to those of the tests.
    """

    def __init__(self, **environment: str) -> None:
        quick = {
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
            # After so many seconds, another triggerer takes over the triggers of one that was killed.
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "3",
        }
        with LOG.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "airflow", "triggerer", "--skip-serve-logs"],
                stdout=log,
                stderr=log,
                env={**os.environ, **quick, **environment},
            )

    def kill(self) -> None:
        """Kill both processes, as a system does that runs out of memory."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Stop it as a deployment does."""
        if self._process.poll() is None:
            self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        children = psutil.Process(self._process.pid).children(recursive=True)
        self._process.send_signal(number)
        self._process.wait(TIMEOUT_S)
        for child in children:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue


@contextmanager
def running_triggerer(**environment: str) -> Iterator[Triggerer]:
    """Run a triggerer. See :class:`Triggerer`."""
    triggerer = Triggerer(**environment)
    try:
        yield triggerer
    finally:
        triggerer.close()
