"""
The distributions: what is in them, and what a package index shows.

The tools are part of the extra ``dist``, which the environment of Airflow 3.1 does not have.
"""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import airflow_pinecone_upsert

# Not `build` alone: `make docs` makes a folder of that name, and Python imports it as an empty package.
pytest.importorskip("build.__main__")

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "airflow_pinecone_upsert"


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Build the sdist, and from it the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(distributions):
    (path,) = distributions.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))


def test_the_wheel_has_the_package_and_nothing_else(wheel):
    parts = {name.partition("/")[0] for name in wheel.namelist()}
    assert parts == {PACKAGE.name, f"{PACKAGE.name}-{airflow_pinecone_upsert.__version__}.dist-info"}
    modules = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.py")}
    assert {name for name in wheel.namelist() if name.startswith(f"{PACKAGE.name}/")} == modules | {
        f"{PACKAGE.name}/py.typed"
    }


def test_the_sdist_has_what_the_tests_and_the_site_need(distributions):
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "README.md",
        "CONTRIBUTING.md",
        "Makefile",
        "constraints.txt",
        "docs/conf.py",
        "tests/test_dist.py",
    } <= names
    assert not {name for name in names if name.startswith((".venv", "build/", "dist/")) or "__pycache__" in name}


def test_the_metadata(metadata):
    from trove_classifiers import classifiers

    assert metadata["Name"] == "airflow-pinecone-upsert"
    assert metadata["Version"] == airflow_pinecone_upsert.__version__
    assert {*metadata.get_all("Classifier")} <= classifiers
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_the_long_description_is_rendered_without_relative_urls(metadata):
    from readme_renderer.markdown import render

    html = render(metadata.get_payload(decode=True).decode())
    assert html.startswith("<h1")
    urls = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert len(urls) >= 5
    assert [url for url in urls if not url.startswith(("https://", "#"))] == []
    (picture,) = re.findall(r"!\[([^\]]+)\]", (ROOT / "README.md").read_text())
    assert picture not in html, "neither the picture nor a caption without one"
    assert not re.findall(r"\]\(|!\[", re.sub(r"<(pre|code)\b.*?</\1>", "", html, flags=re.DOTALL))


@pytest.mark.slow
def test_make_dist():
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, ROOT / "dev" / "dist.py"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2
    assert "No broken requirements found." in done.stdout
    assert f"100 records upserted by airflow-pinecone-upsert {airflow_pinecone_upsert.__version__}." in done.stdout
    assert len(re.findall(r"^[0-9a-f]{64}  dist/airflow_pinecone_upsert-", done.stdout, re.MULTILINE)) == 2
