"""The command ``python -m airflow_pinecone_upsert.reindex show PATH``."""

import subprocess
import sys

import pytest

from airflow_pinecone_upsert.reindex.__main__ import main
from airflow_pinecone_upsert.reindex.manifest import Manifest, Target

from .world import Run, digest


def write_manifest(folder):
    run = Run(folder, {})
    run.send({"a": digest(1), "b": digest(2)})
    run.confirm()
    run.commit({"newCount": 2, "finishedAt": "2027-01-15T08:00:00Z"})
    return run


def facts(text):
    return dict(line.split(maxsplit=1) for line in text.replace("last run", "last_run").splitlines())


def test_it_shows_what_a_manifest_says(local, capsys):
    write_manifest(local)
    assert main(["show", local.path]) == 0
    shown = facts(capsys.readouterr().out)
    files = shown.pop("files")
    assert shown == {
        "index": "https://articles.example",
        "namespace": "'articles'",
        "records": "2",
        "bytes": "200 (ids, vectors and metadata, by Pinecone's cost rule)",
        "generation": "2",
        "last_run": '{"newCount": 2, "finishedAt": "2027-01-15T08:00:00Z"}',
        "digest": "a_digest/1",
        "options": '{"id_column": "id"}',
    }
    size = sum(local.sizes().values())
    assert files == f"2 in {local.path}, {size:,} bytes"


def test_it_counts_what_a_run_left_that_did_not_succeed(local, capsys):
    run = write_manifest(local)
    run.send({"c": digest(1)})
    run.confirm()
    run.manifest.flush()
    assert main(["show", local.path]) == 0
    assert facts(capsys.readouterr().out)["records"] == "2, and 2 changes since in 2 segments"


def test_it_says_that_records_name_their_namespaces(local, capsys):
    target = Target("https://articles.example", "", {"namespace_column": "tenant"}, "a_digest", 1)
    Manifest.open(local, target, "a1").commit([])
    assert main(["show", local.path]) == 0
    shown = facts(capsys.readouterr().out)["namespace"]
    assert shown == "those that the records name; '__default__' where they name none"


def test_it_changes_nothing(local, capsys):
    write_manifest(local)
    before = local.sizes()
    assert main(["show", local.path]) == 0
    assert local.sizes() == before


def test_it_reads_object_storage_without_airflow(bucket, s3, monkeypatch, capsys):
    write_manifest(bucket)
    for name, value in {"AWS_ENDPOINT_URL": s3, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}.items():
        monkeypatch.setenv(name, value)
    assert main(["show", bucket.url]) == 0
    assert facts(capsys.readouterr().out)["records"] == "2"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{folder}/none", "There is no manifest in {folder}/none that this version can read. Check the path."),
        ("no-such-scheme://x/y", "No file system for no-such-scheme://x/y is installed here"),
    ],
)
def test_a_path_without_a_manifest_is_named(tmp_path, capsys, path, message):
    assert main(["show", path.format(folder=tmp_path)]) == 1
    output = capsys.readouterr()
    assert output.err.startswith(message.format(folder=tmp_path))
    assert output.out == ""


def test_it_runs_as_a_module_and_imports_no_airflow(local):
    write_manifest(local)
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['reindex', 'show', {local.path!r}]\n"
        "try:\n    runpy.run_module('airflow_pinecone_upsert.reindex', run_name='__main__')\n"
        "except SystemExit as exc:\n    assert exc.code == 0\n"
        "assert not {'airflow', 'pandas'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "https://articles.example" in done.stdout


def test_a_command_without_arguments_says_what_is_missing(capsys):
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "COMMAND" in capsys.readouterr().err
