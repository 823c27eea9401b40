"""
A real Airflow run on SQLite: one task returns vectors, the next one upserts them. See ``dags/xcom.py``.

Prints what was recorded between render and execute.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import runpy
import sys
import tempfile
from pathlib import Path

_DAGS = Path(__file__).resolve().parents[1] / "dags"


def run(home: Path) -> None:
    """Run the DAG on a new database. Airflow must not have been imported before."""
    os.environ |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(_DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
    }
    from airflow.utils.db import initdb

    initdb()
    state = runpy.run_path(str(_DAGS / "xcom.py"))["dag"].test().state
    if state != "success":
        sys.exit(f"The DAG run ended with state {state}.")


def main() -> None:
    """Run the DAG, and print what was recorded."""
    parser = argparse.ArgumentParser()
    parser.add_argument("operator", choices=["ours", "official"])
    parser.add_argument("url")
    parser.add_argument("--records", type=int, required=True)
    arguments = parser.parse_args()
    kind = {"ours": "pinecone_upsert", "official": "pinecone"}[arguments.operator]
    with tempfile.TemporaryDirectory() as home:
        record = Path(home) / "record.json"
        os.environ |= {
            "AIRFLOW_CONN_PINECONE_DEFAULT": json.dumps({"conn_type": kind, "host": arguments.url, "password": "xcom"}),
            "BENCH_OPERATOR": arguments.operator,
            "BENCH_RECORDS": str(arguments.records),
            "BENCH_RECORD": str(record),
        }
        with contextlib.redirect_stdout(io.StringIO()):
            run(Path(home))
        print(record.read_text())


if __name__ == "__main__":
    main()
