"""
The process that supervises a task: the task stops when it is gone.

A task runs in a process of its own. When its supervisor is killed, as with a worker that runs out of memory, the task
goes on, and Airflow starts the next try beside it (apache/airflow#65738). Then a request of the older try could overwrite
what the newer one wrote.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken


def cancellation_token(operation: str = "upsert") -> CancellationToken:
    """Return a token that is also cancelled when the supervisor of this task is gone."""
    return CancellationToken(operation, is_orphaned=_orphan_check())


def _orphan_check() -> Callable[[], bool]:
    if not _is_supervised():
        return lambda: False
    supervisor = os.getppid()
    return lambda: os.getppid() != supervisor


def _is_supervised() -> bool:
    """Return whether this process talks to a supervisor; with ``dag.test()`` or ``execute()`` there is none."""
    runner = sys.modules.get("airflow.sdk.execution_time.task_runner")
    return hasattr(getattr(runner, "SUPERVISOR_COMMS", None), "socket")
