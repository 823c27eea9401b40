"""Airflow with the Celery executor on this machine: its programs, its workers, and the API that a test uses."""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from .programs import POLL_INTERVAL_S, ClusterError, Program, free_ports, has_ended, kill, run
from .services import start_postgresql, start_redis

ROOT = Path(__file__).parents[2]
LOGS = ROOT / "build" / "cluster-logs"
SLOTS = 4
"""Tasks that a worker runs at the same time."""

HEARTBEAT_TIMEOUT_S = 15
"""After this time without a sign of life, Airflow gives up a task and retries it. The default is 300 s."""

QUEUED_TIMEOUT_S = 150
"""
After this time in Celery's queue, Airflow queues a task again: a killed worker may have reserved it. The token with which a worker
starts a task is valid for as long, so tasks must not wait longer for a slot, or their tries fail with "Invalid auth token".
"""

RUN_WITHIN_S = 400
_FINAL_STATES = {"success", "failed"}


@dataclass(frozen=True)
class Try:
    """
    One try of a mapped task, as Airflow stores it.

    :param worker: Which worker ran it.
    :param started_s: By ``time.monotonic()``.
    :param ended_s: When it ended, or when Airflow noticed that it had; None while it runs.
    """

    worker: str
    map_index: int
    number: int
    state: str
    pid: int
    started_s: float
    ended_s: float | None


@dataclass
class Worker:
    """A Celery worker, and the task processes that it left when it was killed."""

    name: str
    program: Program
    orphans: list[psutil.Process] = field(default_factory=list)


class Cluster:
    """
    PostgreSQL, Redis, Airflow's API server, DAG processor and scheduler, and as many workers as a test asks for.

    :param dags: The files of the DAGs.
    """

    def __init__(self, dags: Sequence[Path]) -> None:
        shutil.rmtree(LOGS, ignore_errors=True)
        LOGS.mkdir(parents=True)
        self.home = Path(tempfile.mkdtemp(prefix="airflow-cluster-"))
        self.home.chmod(0o755)  # PostgreSQL runs as another user
        self.embeddings = self.home / "embeddings"
        self.manifests = self.home / "manifests"
        (self.home / "dags").mkdir()
        for path in dags:
            shutil.copy(path, self.home / "dags")
        self.target_port, *ports = free_ports(4)
        self._programs: list[Program] = []
        self.workers: dict[str, Worker] = {}
        self._killed: list[Worker] = []
        self._environment = self._configuration(*ports)
        self._api = httpx.Client(base_url=f"http://127.0.0.1:{ports[2]}", trust_env=False, timeout=30)
        self._ports = ports

    def start(self) -> None:
        """
        Start everything except the workers.

        :raises ClusterError: A part is not installed or does not start.
        """
        postgresql_port, redis_port, _ = self._ports
        self._programs.append(start_postgresql(self.home, LOGS, postgresql_port))
        self._programs.append(start_redis(self.home, LOGS, redis_port))
        run("db-migrate", self._airflow("db", "migrate"), logs=LOGS, environment=self._environment)
        api = self._start("api-server", "api-server", "--workers", "1")
        self._start("scheduler", "scheduler")
        self._start("dag-processor", "dag-processor")
        api.wait_until_ready(self._is_healthy)
        self._api.headers["Authorization"] = f"Bearer {self._api.get('/auth/token').json()['access_token']}"

    def close(self) -> None:
        """Kill everything, and delete all files but the logs."""
        for worker in [*self.workers.values(), *self._killed]:
            worker.program.kill()
            kill(worker.orphans)
        for program in reversed(self._programs):
            program.kill()
        self._api.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def use_workers(self, *names: str) -> None:
        """Start the workers that do not run, and kill those that run and are not named. They must be idle."""
        for name in set(self.workers) - set(names):
            self.kill_worker(name)
        started = [name for name in names if name not in self.workers]
        for name in started:
            pid_file = self.home / f"{name}.pid"
            pid_file.unlink(missing_ok=True)
            options = ["--concurrency", str(SLOTS), "--pid", str(pid_file), "--skip-serve-logs"]
            command = ["celery", "worker", "-H", f"{name}@local", "--without-gossip", "--without-mingle", *options]
            self.workers[name] = Worker(name, self._start(name, *command, CLUSTER_WORKER=name))
        for name in started:
            log = self.workers[name].program.log
            self.workers[name].program.wait_until_ready(lambda log=log: "@local ready." in log.read_text())

    def kill_worker(self, name: str, *, task_processes: Sequence[int] = ()) -> Worker:
        """
        Kill a worker and its descendants, except these task processes, which become orphans.

        :param task_processes: Process ids of tasks that the worker runs.
        """
        worker = self.workers.pop(name)
        self._killed.append(worker)
        worker.orphans = [process for process in worker.program.family() if process.pid in task_processes]
        worker.program.kill(leave=worker.orphans)
        self._programs.remove(worker.program)
        return worker

    def start_run(self, dag_id: str) -> str:
        """Start a DAG run, and return its id. The DAG processor may need some seconds until it has found the DAG."""
        self.wait_until(lambda: self._api.get(f"/api/v2/dags/{dag_id}").is_success)
        answer = self._api.post(f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None})
        answer.raise_for_status()
        return str(answer.json()["dag_run_id"])

    def run_by_schedule(self, dag_id: str) -> str:
        """
        Start a paused DAG as its user does, and return the id of the run that its schedule then starts at once.

        It is paused again when that run has ended: the next time of its schedule may come in a later test.
        """
        self.wait_until(lambda: self._api.get(f"/api/v2/dags/{dag_id}").is_success)
        self._set_paused(dag_id, is_paused=False)
        self.wait_until(lambda: bool(self._get(f"dags/{dag_id}/dagRuns")["dag_runs"]))
        (run,) = self._get(f"dags/{dag_id}/dagRuns")["dag_runs"]
        self.wait_for_run(dag_id, run["dag_run_id"])
        self._set_paused(dag_id, is_paused=True)
        return str(run["dag_run_id"])

    def _set_paused(self, dag_id: str, *, is_paused: bool) -> None:
        self._api.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": is_paused}).raise_for_status()

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a DAG run."""
        return str(self._get(f"dags/{dag_id}/dagRuns/{run_id}")["state"])

    def wait_for_run(self, dag_id: str, run_id: str) -> str:
        """Wait until a DAG run has ended, and return its state."""
        self.wait_until(lambda: self.run_state(dag_id, run_id) in _FINAL_STATES)
        return self.run_state(dag_id, run_id)

    def running(self, dag_id: str, run_id: str, task_id: str, worker: str) -> list[Try]:
        """Return the tries that a worker runs now."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        found = self._get(path, task_id=task_id, state="running", limit=100)["task_instances"]
        return [one for one in map(_try, found) if one.worker == worker]

    def tries(self, dag_id: str, run_id: str, task_id: str) -> list[Try]:
        """Return all tries of the mapped instances of a task, in the order of their start."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        instances = self._get(path, task_id=task_id, limit=100)["task_instances"]
        found = [
            one
            for number in range(len(instances))
            for one in self._get(f"{path}/{task_id}/{number}/tries")["task_instances"]
        ]
        return sorted((_try(one) for one in found if one["start_date"]), key=lambda one: one.started_s)

    def output(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """Return the output of a task, or of a mapped instance."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return dict(self._get(path, map_index=map_index, deserialize=True)["value"])

    def wait_until(self, condition: Callable[[], bool], *, within_s: float = RUN_WITHIN_S) -> None:
        """
        Wait.

        :raises ClusterError: A program has ended, or the condition is not met in time.
        """
        deadline_s = time.monotonic() + within_s
        while not condition():
            if ended := [program.name for program in self._programs if not program.is_running]:
                raise ClusterError(f"{', '.join(ended)} ended by itself. The logs are in {LOGS}.")
            if time.monotonic() > deadline_s:
                raise ClusterError(f"The condition was not met within {within_s:.0f} s. The logs are in {LOGS}.")
            time.sleep(POLL_INTERVAL_S)

    def wait_for_orphans(self, worker: Worker, within_s: float) -> None:
        """Wait until the orphans of a killed worker have ended by themselves."""
        self.wait_until(lambda: all(map(has_ended, worker.orphans)), within_s=within_s)

    def _get(self, path: str, **parameters: Any) -> dict[str, Any]:
        answer = self._api.get(f"/api/v2/{path}", params=parameters)
        answer.raise_for_status()
        return dict(answer.json())

    def _is_healthy(self) -> bool:
        try:
            health = self._api.get("/api/v2/monitor/health").json()
        except (httpx.TransportError, ValueError):
            return False
        return all(health[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))

    def _start(self, name: str, *arguments: str, **environment: str) -> Program:
        program = Program(name, self._airflow(*arguments), logs=LOGS, environment={**self._environment, **environment})
        self._programs.append(program)
        return program

    @staticmethod
    def _airflow(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "airflow", *arguments]

    def _configuration(self, postgresql_port: int, redis_port: int, api_port: int) -> Mapping[str, str]:
        database = f"postgresql+psycopg2://postgres@127.0.0.1:{postgresql_port}/airflow"
        settings = {
            "CORE__DAGS_FOLDER": self.home / "dags",
            "CORE__LOAD_EXAMPLES": False,
            "CORE__DAGS_ARE_PAUSED_AT_CREATION": False,
            "CORE__EXECUTOR": "CeleryExecutor",
            "CORE__HOSTNAME_CALLABLE": "tests.cluster.worker_name.worker_name",
            "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{api_port}/execution/",
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": True,
            "CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "DATABASE__SQL_ALCHEMY_CONN": database,
            "CELERY__BROKER_URL": f"redis://127.0.0.1:{redis_port}/0",
            "CELERY__RESULT_BACKEND": f"db+{database}",
            "API__HOST": "127.0.0.1",
            "API__PORT": api_port,
            "API__SECRET_KEY": secrets.token_hex(),
            "API_AUTH__JWT_SECRET": secrets.token_hex(),
            "LOGGING__BASE_LOG_FOLDER": LOGS / "tasks",
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": HEARTBEAT_TIMEOUT_S,
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": 2,
            "SCHEDULER__TASK_QUEUED_TIMEOUT": QUEUED_TIMEOUT_S,
            "SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": 5,
            "WORKERS__MIN_HEARTBEAT_INTERVAL": 2,
        }
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
            **{f"AIRFLOW__{name}": str(value) for name, value in settings.items()},
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW_CONN_PINECONE_DEFAULT": (
                '{"conn_type": "pinecone_upsert", "host": "http://127.0.0.1", "password": "local", '
                f'"port": {self.target_port}}}'
            ),
            "AIRFLOW_VAR_EMBEDDINGS": str(self.embeddings),
            "AIRFLOW_VAR_TENANTS": str(self.embeddings),
            "AIRFLOW_VAR_MANIFESTS": str(self.manifests),
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": str(ROOT),
        }


def _try(stored: Mapping[str, Any]) -> Try:
    return Try(
        worker=stored["hostname"],
        map_index=stored["map_index"],
        number=stored["try_number"],
        state=stored["state"],
        pid=stored["pid"],
        started_s=_monotonic_s(stored["start_date"]),
        ended_s=stored["end_date"] and _monotonic_s(stored["end_date"]),
    )


def _monotonic_s(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() - (time.time() - time.monotonic())
