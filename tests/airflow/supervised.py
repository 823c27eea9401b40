"""Tries of a task in separate processes, under Airflow's supervisor. A test can signal, kill and repeat them."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from .airflow_home import HOME

TIMEOUT_S = 90

_DAG_HEAD = """
import os
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG
from airflow_pinecone_upsert import PineconeUpsertOperator

os.environ["AIRFLOW_CONN_PINECONE_DEFAULT"] = {connection!r}

with DAG(Path(__file__).stem, schedule=None, default_args={{"retries": 99, "retry_delay": timedelta(0)}}) as dag:
"""


def write_dag(task: str, connection: dict[str, Any], preamble: str = "") -> Path:
    """
    Write a DAG file with one task, and return its path.

    :param task: The source of the task.
    :param connection: The connection ``pinecone_default``.
    :param preamble: Source that runs when the file is loaded, before the DAG.
    """
    head = _DAG_HEAD.format(connection=json.dumps(connection))
    path = HOME / "dags" / f"dag_{uuid.uuid4().hex[:12]}.py"
    path.write_text(textwrap.dedent(preamble) + head + textwrap.indent(textwrap.dedent(task), "    "))
    return path


class Worker:
    """
    A process that runs one try after another.

    :param environment: Environment variables that are added to those of the tests.
    """

    def __init__(self, **environment: str) -> None:
        self.log_folder = HOME / "logs"
        self._output = (HOME / "worker.log").open("a")
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            env={**os.environ, **environment},
            text=True,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read_output, daemon=True).start()
        self.wait_for("READY")

    def _read_output(self) -> None:
        for line in self._process.stdout:
            self._output.write(line)
            self._output.flush()
            self._lines.put(line.strip())

    def wait_for(self, word: str) -> None:
        while self._lines.get(timeout=TIMEOUT_S) != word:
            pass

    def start(self, dag_file: str, log_file: str, task_instance: str) -> None:
        self._process.stdin.write(f"{dag_file}\t{log_file}\t{task_instance}\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """Kill the process, as a system does that runs out of memory. A try that it supervises becomes an orphan."""
        self._process.kill()
        self._process.wait(TIMEOUT_S)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(TIMEOUT_S)
        self._output.close()


def running_worker(**environment: str) -> Iterator[Worker]:
    """Yield a worker, for a fixture. See :class:`Worker`."""
    pytest.importorskip("airflow.models.task_state_store", reason="the task state store needs Airflow 3.3")
    worker = Worker(**environment)
    yield worker
    worker.close()


class TaskProcesses:
    """
    One DAG run with one task, and the processes of its tries, one after another.

    :param worker: Runs the tries.
    :param dag_file: A file with the DAG of the same name.
    """

    def __init__(self, worker: Worker, dag_file: Path) -> None:
        from airflow import settings
        from airflow.dag_processing.bundles.manager import DagBundlesManager
        from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
        from airflow.models.dagbag import DBDagBag
        from airflow.sdk import timezone
        from airflow.utils.state import DagRunState
        from airflow.utils.types import DagRunTriggeredByType, DagRunType

        self.pid = 0
        self._worker = worker
        self.dag_file = dag_file
        self._session = settings.Session()
        manager = DagBundlesManager()
        manager.sync_bundles_to_db(session=self._session)
        self._session.commit()
        bag = BundleDagBag(dag_folder=dag_file, bundle_path=dag_file.parent, bundle_name="dags-folder")
        assert not bag.import_errors
        sync_bag_to_db(bag, "dags-folder", None)
        dag = DBDagBag().get_latest_version_of_dag(dag_file.stem, session=self._session)
        self._run = dag.create_dagrun(
            run_id="run",
            logical_date=None,
            run_after=timezone.utcnow(),
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.RUNNING,
            session=self._session,
        )
        self._session.commit()

    @property
    def _task_instance(self) -> Any:
        self._session.expire_all()
        (instance,) = self._run.get_task_instances(session=self._session)
        return instance

    @property
    def state(self) -> str:
        """The task's state, as the web UI shows it."""
        state = str(self._task_instance.state)
        self._session.commit()
        return state

    def start(self) -> None:
        """Start the next try, as the scheduler and the executor do, and return when its process runs."""
        from airflow.sdk.api.datamodels._generated import TaskInstance

        self._session.expire_all()
        schedulable, _ = self._run.update_state(session=self._session)
        self._run.schedule_tis(schedulable, session=self._session)
        self._session.commit()
        instance = self._task_instance
        assert str(instance.state) == "scheduled"
        instance.set_state("queued", session=self._session)
        names = ("id", "task_id", "dag_id", "run_id", "try_number", "map_index", "dag_version_id")
        message = TaskInstance(**{name: getattr(instance, name) for name in names})
        self._session.commit()
        self.log_file = self._worker.log_folder / f"{self.dag_file.stem}-{message.try_number}.log"
        self._worker.start(self.dag_file.name, str(self.log_file), message.model_dump_json())
        wait_until(lambda: self.state == "running")
        self.pid = self._task_instance.pid
        self._session.commit()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    @property
    def has_exited(self) -> bool:
        """Whether the process has ended, even if the supervisor has not noticed it yet."""
        try:
            return psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def wait(self) -> str:
        """Wait until the process has exited, and return the state of the task after this try."""
        self._worker.wait_for("DONE")
        assert self.has_exited
        if self.state == "running":
            self._fail()
        return self.state

    def _fail(self) -> None:
        """Do what the scheduler does when a process has exited without reporting how it ended."""
        instance = self._task_instance
        instance.task = self._run.dag.get_task(instance.task_id)
        instance.handle_failure("The process has exited.", session=self._session)
        self._session.commit()

    def try_once(self) -> str:
        self.start()
        return self.wait()

    def mark(self, state: str) -> None:
        """Do what *Mark as* in the web UI does."""
        self._task_instance.set_state(state, session=self._session)
        self._session.commit()

    def clear(self) -> None:
        """Do what *Clear* in the web UI does."""
        from airflow.models.taskinstance import clear_task_instances
        from airflow.utils.state import DagRunState

        clear_task_instances([self._task_instance], self._session, dag_run_state=DagRunState.RUNNING)
        self._session.commit()
        self._session.refresh(self._run)

    @property
    def log(self) -> str:
        """The messages in the log of the last try."""
        return "\n".join(json.loads(line).get("event", "") for line in self.log_file.read_text().splitlines())

    @property
    def store(self) -> dict[str, Any]:
        """What the task state store contains."""
        from airflow.models.task_state_store import TaskStateStoreModel
        from sqlalchemy import select

        self._session.expire_all()
        found = self._session.scalars(select(TaskStateStoreModel).where(TaskStateStoreModel.dag_id == self._run.dag_id))
        values = {row.key: json.loads(row.value) for row in found}
        self._session.commit()
        return values

    def output(self) -> dict[str, Any]:
        """Return the task's output."""
        instance = self._task_instance
        value = instance.xcom_pull(task_ids=instance.task_id, session=self._session)
        self._session.commit()
        return value

    def close(self) -> None:
        self._session.close()
        self.dag_file.unlink()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"The condition was not met within {TIMEOUT_S} s."
        time.sleep(0.02)
