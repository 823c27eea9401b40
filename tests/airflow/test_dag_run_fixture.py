"""The fixture ``pinecone_dag_run``, as the tests of a user use it: in a pytest run of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from airflow_pinecone_upsert.emulator.dag_runs import dag_test_incompatibility

DAG_FILE = """
from pathlib import Path

from airflow.sdk import DAG, task
from airflow_pinecone_upsert import PineconeUpsertOperator
from my_project import TEXT, embed

with DAG("mine", schedule=None, params={"text": "unset"}) as dag:

    @task
    def ids() -> list[str]:
        return (Path(__file__).parent / "ids.txt").read_text().split()

    @task
    def vectors(names, **context) -> list:
        return [(name, embed(name), {"text": context["params"]["text"]}) for name in names]

    PineconeUpsertOperator(task_id="upsert", vectors=vectors(ids()), namespace="n")
"""

TESTS = """
import pytest
from my_dag import dag  # Airflow is imported before the fixture is requested


def test_a_run(pinecone_dag_run, pinecone_index):
    run = pinecone_dag_run("dags/my_dag.py", run_conf={"text": "given"})
    assert run.state == run.task_state("upsert") == "success"
    assert run.output("upsert")["upsertedCount"] == run.output("upsert", "upsertedCount") == 2
    assert pinecone_index.vectors("n")["a"].metadata == {"text": "given"}
    with pytest.raises(LookupError, match="Its tasks: ids, upsert, vectors"):
        run.task_state("other")


def test_what_is_patched_is_patched_in_the_tasks(pinecone_dag_run, pinecone_index, monkeypatch):
    monkeypatch.setattr("my_project.embed", lambda text: [0.5] * 8)
    assert pinecone_dag_run("dags/my_dag.py").state == "success"
    assert list(pinecone_index.vectors("n")["a"].values) == [0.5] * 8


def test_a_failed_run(pinecone_dag_run, monkeypatch):
    monkeypatch.setattr("my_project.embed", lambda text: [0.5] * 7)
    run = pinecone_dag_run("dags/my_dag.py")
    assert (run.state, run.task_state("upsert")) == ("failed", "failed")
    assert run.output("upsert") is None


def test_a_dag_of_the_same_id_in_another_file(pinecone_dag_run, pinecone_index, tmp_path):
    (tmp_path / "other.py").write_text(DAG_OF_ONE_TASK)
    assert pinecone_dag_run(tmp_path / "other.py").state == "success"
    assert set(pinecone_index.vectors("other")) == {"z"}


def test_afterwards_airflow_is_configured_as_before():
    from airflow import settings

    assert settings.SQL_ALCHEMY_CONN.endswith("/home_of_the_user/airflow.db")
    assert str(settings.engine.url) == settings.SQL_ALCHEMY_CONN


DAG_OF_ONE_TASK = '''
from airflow.sdk import dag
from airflow_pinecone_upsert import PineconeUpsertOperator

@dag("mine", schedule=None)
def mine():
    PineconeUpsertOperator(task_id="alone", vectors=[("z", [1.0] * 8)], namespace="other")

mine()
'''
"""

BROKEN = """
def test_a_file_that_does_not_load(pinecone_dag_run):
    pinecone_dag_run("dags/broken.py")


def test_a_file_that_is_not_there(pinecone_dag_run):
    pinecone_dag_run("dags/nowhere.py")


def test_a_file_without_the_dag(pinecone_dag_run):
    pinecone_dag_run("dags/my_dag.py", dag_id="yours")
"""


@pytest.fixture
def pytest_of_a_user(tmp_path):
    """Run the tests of a user's project, whose own Airflow must not be touched. Return pytest's output."""

    def run(tests):
        dags = tmp_path / "dags"
        dags.mkdir()
        (dags / "my_dag.py").write_text(DAG_FILE)
        (dags / "my_project.py").write_text("TEXT = ''\n\ndef embed(text):\n    return [1.0] * 8\n")
        (dags / "ids.txt").write_text("a b")
        (dags / "broken.py").write_text("import airflow.sdk  # for a DAG\nraise RuntimeError('not today')")
        (tmp_path / "test_mine.py").write_text(tests)
        home = tmp_path / "home_of_the_user"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "AIRFLOW"))}
        environment |= {"AIRFLOW_HOME": str(home), "PYTHONPATH": os.pathsep.join([str(dags), *sys.path])}
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--rootdir", tmp_path, tmp_path]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert not (home / "airflow.db").exists()
        return done.stdout

    return run


def test_a_user_tests_their_dags(pytest_of_a_user):
    output = pytest_of_a_user(TESTS)
    assert "5 passed" in output, output


def test_a_dag_that_cannot_run_fails_the_test_with_the_reason(pytest_of_a_user):
    output = pytest_of_a_user(BROKEN)
    assert "3 failed" in output, output
    assert "RuntimeError: not today" in output
    assert "nowhere.py." in output
    assert "or dag_id must name one. Its DAGs: mine." in output


@pytest.mark.parametrize(
    ("airflow", "svcs", "fails"),
    [
        ("3.2.2", "26.2.0", True),
        ("3.2.0", "27.1.0", True),
        ("3.2.2", "26.1.0", False),
        ("3.1.8", "26.2.0", False),
        ("3.3.0", "26.2.0", False),
    ],
)
def test_packages_with_which_no_task_can_run_are_named(airflow, svcs, fails):
    message = dag_test_incompatibility({"apache-airflow-core": airflow, "svcs": svcs}.__getitem__)
    expected = f"dag.test() of Airflow {airflow} does not work with svcs {svcs}. Run: pip install 'svcs<26.2'"
    assert message == (expected if fails else None)
