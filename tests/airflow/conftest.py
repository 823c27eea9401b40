"""A real Airflow: SQLite, the real task runner, the real XCom table. Its home is set before Airflow is imported."""

from __future__ import annotations

import os
import runpy
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from airflow_pinecone_upsert.emulator.server import EmulatedIndex

HOME = Path(tempfile.mkdtemp(prefix="airflow-home-"))
os.environ.update(
    AIRFLOW_HOME=str(HOME),
    AIRFLOW__CORE__DAGS_FOLDER=str(HOME / "dags"),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
)
(HOME / "dags").mkdir()

EXAMPLES = Path(__file__).parents[2] / "example_dags"


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
def run_dag(airflow_db, pinecone_index, monkeypatch, tmp_path):
    """
    Run a DAG, given as a file or as source, against the local index.

    Source is run from a file named after the test, and takes its DAG's id from that name. In Airflow 3.1 `dag.test()`
    stores a DAG only when it first meets the id: of another one by that id, each task that the first lacks fails.
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
def use_index(monkeypatch):
    """Point the default connection to another local index."""

    def use(index: EmulatedIndex) -> EmulatedIndex:
        monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", index.connection_json())
        return index

    return use
