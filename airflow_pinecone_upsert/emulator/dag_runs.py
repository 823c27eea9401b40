"""
Runs of DAG files in a database of their own, for the fixture ``pinecone_dag_run``.

Invariants:

* The database that the user's Airflow is configured for is neither read nor written.
* Afterwards, Airflow is configured as before.
* Airflow is imported when the first DAG runs, so that the rest of the emulator works without it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from packaging.version import Version

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.sdk import DAG

_DATABASE: Final = "airflow.db"
_BUNDLE: Final = "dags-folder"
_AIRFLOW_OF_SHORT_LIFESPANS: Final = (3, 2)
_SVCS_THAT_CLEANS_UP: Final = (26, 2)


class FinishedDagRun:
    """
    A DAG run that has ended, whether it succeeded or failed.

    :param run: Airflow's object, for what this class does not offer.
    """

    def __init__(self, run: DagRun) -> None:
        self.run = run

    @property
    def state(self) -> str:
        """``success`` or ``failed``."""
        return str(self.run.state)

    def task_state(self, task_id: str, map_index: int = -1) -> str:
        """Return the state of a task: ``success``, ``failed``, ``upstream_failed`` and so on."""
        return str(self._task_instance(task_id, map_index).state)

    def output(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """Return what a task returned, or another XCom that it pushed; None if there is none."""
        instance = self._task_instance(task_id, map_index)
        return instance.xcom_pull(task_ids=task_id, key=key, map_indexes=map_index)

    def _task_instance(self, task_id: str, map_index: int) -> Any:
        instance = self.run.get_task_instance(task_id, map_index=map_index)
        if instance is None:
            ids = ", ".join(sorted({one.task_id for one in self.run.get_task_instances()}))
            raise LookupError(f"The run has no task {task_id!r} with map index {map_index}. Its tasks: {ids}.")
        return instance


def create_database(folder: Path) -> Path:
    """
    Create a database of Airflow's, which takes some seconds.

    :param folder: Where to create it. If Airflow has no home yet, it becomes its home.
    :return: The file. Copies of it are databases, too.
    """
    __tracebackhide__ = True
    if incompatibility := dag_test_incompatibility():
        pytest.fail(incompatibility, pytrace=False)
    if "airflow" not in sys.modules:
        os.environ.setdefault("AIRFLOW_HOME", str(folder))
    with _configured(folder):
        from airflow.utils.db import initdb

        initdb()
    return folder / _DATABASE


def dag_test_incompatibility(version: Callable[[str], str] = version) -> str | None:
    """
    Return which of the installed packages make every task of ``dag.test()`` fail, and the remedy.

    In Airflow 3.2, the lifespan of the API that a task talks to ends before the task's first request. Since 26.2, svcs then
    removes its registry from the API, whose answer is "'State' object has no attribute 'svcs_registry'". No setting of
    Airflow's prevents this. Airflow 3.3 keeps the lifespan: https://github.com/apache/airflow/pull/68865.

    :param version: Returns the version of a distribution.
    :return: A message, or None if nothing is known to fail.
    """
    airflow, svcs = version("apache-airflow-core"), version("svcs")
    if Version(airflow).release[:2] != _AIRFLOW_OF_SHORT_LIFESPANS or Version(svcs).release < _SVCS_THAT_CLEANS_UP:
        return None
    return f"dag.test() of Airflow {airflow} does not work with svcs {svcs}. Run: pip install 'svcs<26.2'"


class DagRunner:
    """
    Runs DAG files.

    :param folder: Airflow's folder.
    :param monkeypatch: Undoes changes of the import path.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder / "dags"
        self._monkeypatch = monkeypatch

    def __call__(self, dag_file: str | os.PathLike[str], *, dag_id: str | None = None, **test: Any) -> FinishedDagRun:
        """
        Run a DAG with ``dag.test()``: in this process, so that what a test has patched is patched in the tasks, too.

        :param dag_file: The file that defines it. It can import modules and read files next to it.
        :param dag_id: Which DAG of the file; needed if there are several.
        :param test: Parameters of ``dag.test()``, such as ``run_conf``.
        :return: The run. A task that failed does not raise: check ``state``.
        """
        __tracebackhide__ = True
        dag = self._load(Path(dag_file).resolve(), dag_id)
        return FinishedDagRun(dag.test(**test))

    def _load(self, path: Path, dag_id: str | None) -> DAG:
        __tracebackhide__ = True
        if not path.is_file():
            pytest.fail(f"There is no DAG file {path}.", pytrace=False)
        self._monkeypatch.syspath_prepend(str(path.parent))
        _link_folder(self._folder, path)
        bag = _dag_bag(self._folder / path.name, self._folder)
        if bag.import_errors:
            pytest.fail("\n".join(bag.import_errors.values()), pytrace=False)
        dags: dict[str, DAG] = bag.dags
        chosen = [dag for key, dag in dags.items() if dag_id in (None, key)]
        if len(chosen) != 1:
            found = ", ".join(sorted(dags)) or "none"
            pytest.fail(
                f"{path} must define exactly one DAG, or dag_id must name one. Its DAGs: {found}.", pytrace=False
            )
        return chosen[0]


@contextmanager
def running_in(folder: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagRunner]:
    """
    Configure Airflow for a copy of a database, and yield what runs DAGs.

    :param folder: An empty folder for Airflow's files.
    :param database: See :func:`create_database`.
    """
    shutil.copy(database, folder / _DATABASE)
    with _configured(folder):
        yield DagRunner(folder, monkeypatch)


@contextmanager
def _configured(folder: Path) -> Iterator[None]:
    """Let Airflow, which may be imported already, use the database and the DAGs in a folder."""
    dags = folder / "dags"
    dags.mkdir()
    bundle = {
        "name": _BUNDLE,
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(dags)},
    }
    patch = pytest.MonkeyPatch()
    patch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(dags))
    patch.setenv("AIRFLOW__CORE__DAG_IGNORE_FILE_SYNTAX", "glob")
    patch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    patch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps([bundle]))
    patch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{folder / _DATABASE}")
    try:
        _reconfigure()
        yield
    finally:
        patch.undo()
        _reconfigure()


def _reconfigure() -> None:
    """Let Airflow read its environment variables again, as it does when it is imported."""
    from airflow import settings

    settings.dispose_orm()
    settings.configure_vars()  # type: ignore[no-untyped-call]
    settings.configure_orm()  # type: ignore[no-untyped-call]


def _link_folder(folder: Path, dag_file: Path) -> None:
    """Link a DAG file and everything next to it, of which Airflow must parse that file only."""
    shutil.rmtree(folder)
    folder.mkdir()
    for path in dag_file.parent.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / ".airflowignore").unlink(missing_ok=True)
    (folder / ".airflowignore").write_text(f"*\n!{dag_file.name}\n")


def _dag_bag(dag_file: Path, folder: Path) -> Any:
    try:
        bags = import_module("airflow.dag_processing.dagbag")
    except ImportError:  # Airflow before 3.2
        bags = import_module("airflow.models.dagbag")
    return bags.BundleDagBag(dag_folder=dag_file, bundle_path=folder)
