"""
Airflow's home in these tests: a temporary folder.

Invariant: this module is imported before Airflow is, because Airflow reads its environment variables on import.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

HOME = Path(tempfile.mkdtemp(prefix="airflow-home-"))
os.environ.update(
    AIRFLOW_HOME=str(HOME),
    AIRFLOW__CORE__DAGS_FOLDER=str(HOME / "dags"),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
)
(HOME / "dags").mkdir()
