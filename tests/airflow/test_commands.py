"""`make airflow`: the web UI of a real scheduler, with the example DAGs, the local index and a ready connection."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from .conftest import EXAMPLES

WITHIN_S = 120


@pytest.fixture
def airflow_ui():
    """Start it on a free port; yield its URL and what it printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
    process = subprocess.Popen(
        [sys.executable, EXAMPLES / "airflow_ui.py"],
        env={**environment, "PORT": port},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = []
    for line in process.stdout:
        said.append(line)
        if "Ctrl-C" in line:
            break
    yield f"http://127.0.0.1:{port}", "".join(said)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    process.stdout.close()


def finished(client, dag_id, run_id=None):
    """Wait until a run of a DAG is over, the first one if none is named; return its path and what Airflow says of it."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        runs = client.get(f"/api/v2/dags/{dag_id}/dagRuns").json()["dag_runs"]
        for run in runs:
            if run["dag_run_id"] == (run_id or run["dag_run_id"]) and run["state"] not in ("queued", "running"):
                return f"/api/v2/dags/{dag_id}/dagRuns/{run['dag_run_id']}", run
        assert time.monotonic() < deadline, runs
        time.sleep(0.5)


@pytest.mark.slow
def test_a_run_that_is_triggered_there_succeeds_and_starts_the_dag_that_waits_for_it(airflow_ui):
    url, said = airflow_ui
    assert f"Airflow      {url}" in said
    assert re.search(r"Local index  http://127\.0\.0\.1:\d+", said)
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        client.headers["Authorization"] = f"Bearer {client.get('/auth/token').json()['access_token']}"
        connections = client.get("/api/v2/connections").json()["connections"]
        assert [one["connection_id"] for one in connections] == ["pinecone_default"]
        assert connections[0]["password"] == "***"
        assert client.get("/api/v2/importErrors").json()["total_entries"] == 0
        run = client.post("/api/v2/dags/upsert_parquet/dagRuns", json={"logical_date": None}).json()
        path, run = finished(client, "upsert_parquet", run["dag_run_id"])
        assert run["state"] == "success"
        count = int(client.get(f"{path}/taskInstances/upsert/xcomEntries/upsertedCount").json()["value"])
        assert count >= 1_400
        path, run = finished(client, "react_to_upsert")
        assert (run["state"], run["run_type"]) == ("success", "asset_triggered")
        announced = client.get(f"{path}/taskInstances/announce/xcomEntries/return_value").json()["value"]
        assert f"upsert_parquet: {count} records in " in str(announced)
