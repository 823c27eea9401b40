"""What the forge runs: the workflows agree with what the package supports, and a release is checked before it is built."""

from __future__ import annotations

import re
import runpy
import stat
from pathlib import Path

import pytest
import yaml

import airflow_pinecone_upsert

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}
MAKEFILE = (ROOT / "Makefile").read_text()


def steps(workflow):
    return [step for job in WORKFLOWS[workflow]["jobs"].values() for step in job["steps"]]


def pinned_airflow(constraints):
    return re.search(r"^apache-airflow==(3\.\d+)", constraints.read_text(), re.MULTILINE)[1]


def test_the_matrix_has_the_supported_versions():
    matrix = WORKFLOWS["tests"]["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT)
    assert sorted(matrix["airflow"]) == sorted(map(pinned_airflow, ROOT.glob("constraints*.txt")))
    assert {one["airflow"] for one in matrix["include"]} == {*matrix["airflow"]}


def test_each_older_airflow_has_its_constraints():
    older = re.search(r"^OLDER_AIRFLOW = (.+)$", MAKEFILE, re.MULTILINE)[1].split()
    files = sorted(ROOT.glob("constraints-airflow-*.txt"))
    assert [path.name for path in files] == [f"constraints-airflow-{version}.txt" for version in older]
    assert [*map(pinned_airflow, files)] == older


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_what_a_workflow_runs_exists(workflow):
    targets = [one["target"] for one in WORKFLOWS["tests"]["jobs"]["test"]["strategy"]["matrix"]["include"]]
    for command in [step.get("run", "") for step in steps(workflow)]:
        for target in re.findall(r"^make ([\w.-]+)$", command, re.MULTILINE):
            assert f"\n{target}: " in MAKEFILE
        for file in re.findall(r"(?:python|bash) ([\w./]+)", command):
            assert (ROOT / file).is_file()
    assert all(f"\n{target}: " in MAKEFILE for target in targets)


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_a_workflow_may_only_read_unless_a_job_says_otherwise(workflow):
    assert WORKFLOWS[workflow]["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] for job in WORKFLOWS[workflow]["jobs"].values())
    checkouts = [step for step in steps(workflow) if step.get("uses", "").startswith("actions/checkout@")]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_only_the_job_that_publishes_can_publish():
    jobs = WORKFLOWS["release"]["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert [name for name, job in jobs.items() if job.get("environment")] == ["publish"]
    assert "secrets." not in (ROOT / ".github" / "workflows" / "release.yml").read_text()
    assert WORKFLOWS["release"][True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads the key `on` as true


def test_the_script_of_continuous_integration_can_be_run():
    assert (ROOT / ".ci" / "run").stat().st_mode & stat.S_IXUSR


notes = runpy.run_path(str(ROOT / "dev" / "release_notes.py"))["notes"]


@pytest.fixture
def repository(tmp_path):
    """Create what a release reads: a version and a changelog."""

    def create(changelog, version="0.2.0"):
        (tmp_path / "airflow_pinecone_upsert").mkdir()
        (tmp_path / "airflow_pinecone_upsert" / "__init__.py").write_text(f'"""…"""\n\n__version__ = "{version}"\n')
        (tmp_path / "CHANGELOG.md").write_text(changelog)
        return tmp_path

    return create


def test_the_notes_of_a_release_are_its_section(repository):
    root = repository(
        "# Changelog\n\n## Unreleased\n\n## 0.2.0 (2026-12-01)\n\n- New.\n\n## 0.1.0 (2026-11-01)\n\n- Old.\n"
    )
    assert notes("v0.2.0", root) == "- New."


@pytest.mark.parametrize(
    ("tag", "changelog", "expected"),
    [
        ("v0.3.0", "## 0.2.0 (2026-12-01)\n\n- New.\n", "the tag must be 'v0.2.0'"),
        ("0.2.0", "## 0.2.0 (2026-12-01)\n\n- New.\n", "the tag must be 'v0.2.0'"),
        ("v0.2.0", "## Unreleased\n\n- New.\n", "no section '## 0.2.0"),
        ("v0.2.0", "## 0.2.0 (2026-12-01)\n\n## 0.1.0 (2026-11-01)\n\n- Old.\n", "or it is empty"),
        ("v0.2.0", "## Unreleased\n\n- Later.\n\n## 0.2.0 (2026-12-01)\n\n- New.\n", "entries under Unreleased"),
    ],
)
def test_a_release_that_is_not_ready_is_an_error(repository, tag, changelog, expected):
    with pytest.raises(SystemExit, match=re.escape(expected)):
        notes(tag, repository(changelog))


def test_the_version_that_a_release_reads_is_the_packages():
    with pytest.raises(SystemExit, match=re.escape(f"the tag must be 'v{airflow_pinecone_upsert.__version__}'")):
        notes("v0.0.0")
