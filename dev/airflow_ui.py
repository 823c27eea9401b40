"""
Airflow's web UI with the example DAGs, an emulated index and a connection to it: `make airflow`.

`make airflow PORT=8090` uses another port than 8080. All files are in a temporary folder, which is deleted after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from demo import DIMENSION, airflow_environment, embed_documentation, say, step

from airflow_pinecone_upsert.emulator.server import EmulatedIndex

PORT = int(os.environ.get("PORT", "8080"))
URL = f"http://127.0.0.1:{PORT}"
START_WITHIN_S = 300
EXPECTED_DAGS = {"upsert_parquet", "react_to_upsert"}


def ui_environment(home: Path, embeddings: Path) -> dict[str, str]:
    """Return the environment of the web UI: that of a DAG run, its port, and access without a password."""
    return airflow_environment(home, embeddings) | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # standalone starts `airflow` by name
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(PORT),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{URL}/execution/",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
    }


def command(*arguments: str) -> list[str]:
    """Return the command line of an `airflow` command."""
    return [sys.executable, "-m", "airflow", *arguments]


def run(*arguments: str) -> None:
    """Run an `airflow` command."""
    subprocess.run(command(*arguments), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def is_up() -> bool:
    """Return whether the scheduler is healthy and the DAGs are listed. They are parsed some time after it is healthy."""
    with httpx.Client(base_url=URL, trust_env=False) as api:
        if api.get("/api/v2/monitor/health").json()["scheduler"]["status"] != "healthy":
            return False
        api.headers["Authorization"] = f"Bearer {api.get('/auth/token').json()['access_token']}"
        return {dag["dag_id"] for dag in api.get("/api/v2/dags").json()["dags"]} >= EXPECTED_DAGS


def wait_until_up(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until Airflow is up."""
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if is_up():
                return
        except (httpx.TransportError, ValueError, KeyError):
            pass
        time.sleep(1)
    raise SystemExit(f"FAILED: Airflow did not start on {URL}.\n{log.read_text()[-3_000:]}")


def check_port() -> None:
    """Exit if another program uses the port: Airflow would find out after a minute, and the message would be in its log."""
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PORT))
        except OSError as exc:
            raise SystemExit(
                f"FAILED: port {PORT} is not available: {os.strerror(exc.errno)}. Choose another: make airflow PORT={PORT + 10}"
            ) from None


def main(home: Path) -> None:
    """Set up Airflow, start it, print the URLs, and wait."""
    embeddings = home / "embeddings"
    step("Embedding the paragraphs of Python's documentation")
    embed_documentation(embeddings)
    for file in embeddings.iterdir():
        tenant = home / "tenants" / file.stem
        tenant.mkdir(parents=True)
        (tenant / file.name).hardlink_to(file)
    with EmulatedIndex(dimension=DIMENSION) as index:
        os.environ.update(ui_environment(home, embeddings) | {"PINECONE_INDEX_HOST": index.url})
        step("Setting up Airflow's database and the connection pinecone_default")
        run("db", "migrate")
        run("connections", "add", "pinecone_default", "--conn-json", index.connection_json())
        step("Starting Airflow")
        log = home / "airflow.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command("standalone"), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            wait_until_up(process, log)
            say(f"Airflow      {URL}  (trigger the DAG upsert_parquet; react_to_upsert follows)")
            say(f"Connection   {URL}/connections  (pinecone_default)")
            say(f"Emulator     {index.url}")
            say(f"Log          {log}")
            say("Press Ctrl-C to stop.")
            process.wait()
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=30)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in background jobs
    check_port()
    with tempfile.TemporaryDirectory(prefix="airflow-pinecone-upsert-") as folder:
        try:
            main(Path(folder))
        except KeyboardInterrupt:
            print("\nStopped.")
