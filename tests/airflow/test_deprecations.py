"""Deprecated imports of Airflow are errors in this project's code, and warnings elsewhere: the filters in pyproject.toml."""

from __future__ import annotations

import runpy

import pytest

from .dag_source import DAG_HEAD

DEPRECATED = "from airflow.hooks.base import BaseHook\n"
WARNING = r"airflow\.hooks\.base\.BaseHook"


@pytest.fixture
def module(airflow_db, tmp_path):
    """Write a module with a deprecated import. Airflow itself is imported first, by `airflow_db`."""
    path = tmp_path / "module.py"
    path.write_text(DEPRECATED)
    return str(path)


@pytest.mark.parametrize("name", ["airflow_pinecone_upsert", "airflow_pinecone_upsert.pipeline.run", __name__])
def test_a_deprecated_import_in_this_project_is_an_error(module, name):
    with pytest.raises(FutureWarning, match=WARNING):
        runpy.run_path(module, run_name=name)


def test_a_deprecated_import_in_a_dag_file_is_an_error(run_dag):
    with pytest.raises(FutureWarning, match=WARNING):
        run_dag(f"{DEPRECATED}{DAG_HEAD}    PineconeUpsertOperator(task_id='upsert', vectors=[])")


def test_a_deprecated_import_elsewhere_is_a_warning(module):
    with pytest.warns(FutureWarning, match=WARNING):
        runpy.run_path(module, run_name="airflow.providers.another")
