"""The name of a worker, which Airflow stores with each try as its host: both workers run on one machine."""

from __future__ import annotations

import os
import socket


def worker_name() -> str:
    """Return the name that the environment gives this process; the host's where it gives none."""
    return os.environ.get("CLUSTER_WORKER", socket.gethostname())
