"""Fixtures that need a real Airflow: SQLite, its task runner, its XCom table, and its supervisor for task processes."""

from __future__ import annotations

import json
import runpy
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .airflow_home import HOME
from .supervised import TaskProcesses, Worker, running_worker, write_dag

if TYPE_CHECKING:
    from airflow_pinecone_upsert.emulator import EmulatedIndex


@dataclass
class Run:
    """A finished DAG run."""

    run: Any

    @property
    def state(self) -> str:
        return str(self.run.state)

    def task_state(self, task_id: str, map_index: int = -1) -> str:
        return str(self.run.get_task_instance(task_id, map_index=map_index).state)

    def output(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        instance = self.run.get_task_instance(task_id, map_index=map_index)
        return instance.xcom_pull(task_ids=task_id, key=key, map_indexes=map_index)

    def rendered(self, task_id: str, map_index: int = -1) -> dict[str, Any]:
        from airflow.models.renderedtifields import RenderedTaskInstanceFields
        from airflow.utils.session import create_session
        from sqlalchemy import select

        with create_session() as session:
            found = session.scalars(
                select(RenderedTaskInstanceFields).where(
                    RenderedTaskInstanceFields.run_id == self.run.run_id,
                    RenderedTaskInstanceFields.task_id == task_id,
                    RenderedTaskInstanceFields.map_index == map_index,
                )
            ).one()
            return dict(found.rendered_fields)


@pytest.fixture(scope="session")
def airflow_db() -> None:
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture
def run_dag(airflow_db, pinecone_index, monkeypatch, tmp_path) -> Iterator[Callable[..., Run]]:
    """
    Run a DAG, given as a file or as source, against the emulator.

    Source is run from a file that is named after the test, and the DAG takes its id from that name. The id must be
    unique: `dag.test()` of Airflow 3.1 stores a DAG only if its id is new. In a second DAG with the same id, all tasks fail
    that the first one does not have.
    """
    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", pinecone_index.connection_json())
    files = []

    def run(source: Path | str, **test: Any) -> Run:
        if isinstance(source, Path):
            name, text = source.name, source.read_text()
        else:
            name, text = f"{tmp_path.name}.py", textwrap.dedent(source)
        path = HOME / "dags" / name
        path.write_text(text)
        files.append(path)
        return Run(runpy.run_path(str(path))["dag"].test(**test))

    yield run
    for path in files:  # Airflow 3.3 parses the whole folder in each run
        path.unlink(missing_ok=True)


@pytest.fixture
def my_project(monkeypatch) -> None:
    """Create the module of the user that the snippets import: it embeds a text in 8 dimensions."""
    (HOME / "my_project.py").write_text("def embed(text):\n    return [float(len(text)), *[1.0] * 7]\n")
    monkeypatch.syspath_prepend(str(HOME))


@pytest.fixture
def use_index(monkeypatch) -> Callable[[EmulatedIndex], EmulatedIndex]:
    """Point the default connection to another index of the emulator."""

    def use(index: EmulatedIndex) -> EmulatedIndex:
        monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", index.connection_json())
        return index

    return use


@pytest.fixture(scope="session")
def worker(airflow_db) -> Iterator[Worker]:
    """Start one worker for all tests: a task process starts in a second, a worker takes many."""
    yield from running_worker()


@pytest.fixture
def task_processes(worker, pinecone_index) -> Iterator[Callable[..., TaskProcesses]]:
    """Create DAG runs of one task each, whose tries run in processes: ``task_processes("PineconeUpsertOperator(…)")``."""
    runs = []

    def create(
        task: str, *, index: EmulatedIndex | None = None, preamble: str = "", **connection_extra: Any
    ) -> TaskProcesses:
        connection = json.loads((index or pinecone_index).connection_json()) | {"extra": connection_extra}
        runs.append(TaskProcesses(worker, write_dag(task, connection, preamble)))
        return runs[-1]

    yield create
    for run in runs:
        run.close()
