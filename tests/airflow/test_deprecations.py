"""What Airflow deprecates is an error where we import it, and only there: the filters in pyproject.toml."""

from __future__ import annotations

import runpy

import pytest

from .test_operator import HEAD

DEPRECATED = "from airflow.hooks.base import BaseHook\n"
WARNING = r"airflow\.hooks\.base\.BaseHook"


@pytest.fixture
def module(tmp_path):
    """A module that imports what is deprecated."""
    path = tmp_path / "module.py"
    path.write_text(DEPRECATED)
    return str(path)


@pytest.mark.parametrize("ours", ["airflow_pinecone_upsert", "airflow_pinecone_upsert.pipeline.run", __name__])
def test_a_deprecated_import_of_ours_is_an_error(module, ours):
    with pytest.raises(FutureWarning, match=WARNING):
        runpy.run_path(module, run_name=ours)


def test_a_deprecated_import_of_a_dag_file_is_an_error(run_dag):
    with pytest.raises(FutureWarning, match=WARNING):
        run_dag(f"{DEPRECATED}{HEAD}    PineconeUpsertOperator(task_id='upsert', vectors=[])")


def test_a_deprecated_import_of_others_is_a_warning(module):
    with pytest.warns(FutureWarning, match=WARNING):
        runpy.run_path(module, run_name="airflow.providers.another")
