"""OpenLineage events: a real run in its own process, and the file that OpenLineage's file transport writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_pinecone_upsert.emulator.server import EmulatedIndex

KEY = "pcsk_only_for_this_test"

DAG = """
from airflow.sdk import DAG, ObjectStoragePath, task
from airflow_pinecone_upsert import PineconeHook, PineconeReindexOperator, PineconeUpsertOperator

FOLDER = {folder!r}

@task(trigger_rule="all_done")
def call_hook():
    import io
    import pyarrow.parquet as pq

    with ObjectStoragePath("file://" + FOLDER + "/good/b.parquet").open("rb") as file:
        table = pq.read_table(io.BytesIO(file.read()))
    with PineconeHook() as hook:
        hook.upsert([("a", [1.0] * 8)], namespace="%" * 512)
        hook.upsert(table, namespace="called", metadata_columns=["year"])
        hook.upsert(table, namespace="called")
        hook.upsert(parquet_paths=FOLDER + "/good/a.parquet", namespace="called")


@task(trigger_rule="all_done")
def fail_in_hook():
    PineconeHook().upsert([("a", [1.0] * 7)], namespace="failed_call")


with DAG("lineage", schedule=None) as dag:
    PineconeUpsertOperator(task_id="files", parquet_paths=FOLDER + "/good", namespace="files")
    PineconeUpsertOperator(task_id="on_s3", parquet_paths="s3://aws_default@embeddings/set/a#1.parquet", namespace="a/b")
    PineconeUpsertOperator(task_id="many", parquet_paths=FOLDER + "/many", namespace="")
    PineconeUpsertOperator(
        task_id="fails", batch_size=10, namespace="fails", parquet_paths=[FOLDER + "/good", FOLDER + "/short.parquet"]
    )
    for task_id in ("reindexed", "unchanged", "dry_run"):
        PineconeReindexOperator(
            task_id=task_id, parquet_paths=FOLDER + "/good/a.parquet", namespace="reindexed",
            manifest_path=FOLDER + "/manifest", dry_run=task_id == "dry_run",
        )
    dag.get_task("reindexed") >> dag.get_task("unchanged") >> dag.get_task("dry_run")
    PineconeUpsertOperator(task_id="finds_nothing", parquet_paths=FOLDER + "/nowhere")
    PineconeUpsertOperator(task_id="records", vectors=[("a", [1.0] * 8)], namespace="records")
    PineconeUpsertOperator(task_id="too_long", vectors=[("a", [1.0] * 8)], namespace="#" * 512)
    PineconeUpsertOperator.partial(task_id="mapped", namespace="mapped").expand(
        parquet_paths=[FOLDER + "/good/a.parquet", FOLDER + "/good/b.parquet"]
    )
    # These run last: Airflow collects the hooks' lineage per process, and `dag.test()` runs all tasks in one process.
    dag.tasks >> call_hook() >> fail_in_hook()
"""

RUN = """
import runpy
from airflow.utils.db import initdb

initdb()
runpy.run_path({path!r})["dag"].test()
"""


def table(count, dimension=8):
    return pa.table(
        {
            "id": [f"r{row}" for row in range(count)],
            "values": [np.ones(dimension, np.float32)] * count,
            "year": [2024] * count,
        }
    )


@pytest.fixture(scope="module")
def index():
    with EmulatedIndex(dimension=8, api_key=KEY) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory, s3):
    folder = tmp_path_factory.mktemp("lineage")
    for name in ("good", "many", "dags"):
        (folder / name).mkdir()
    pq.write_table(table(500), folder / "good" / "a.parquet")
    pq.write_table(table(20), folder / "good" / "b.parquet")
    pq.write_table(table(20, dimension=7), folder / "short.parquet")
    for number in range(101):
        pq.write_table(table(1), folder / "many" / f"{number}.parquet")
    client = boto3.client(
        "s3", endpoint_url=s3, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
    )
    client.create_bucket(Bucket="embeddings")
    client.upload_file(str(folder / "good" / "a.parquet"), "embeddings", "set/a#1.parquet")
    return folder


@pytest.fixture(scope="module")
def events(folder, index, s3):
    """Run the DAG. Return the last event of each task instance, by task."""
    path = folder / "dags" / "lineage.py"
    path.write_text(DAG.format(folder=str(folder)))
    aws = {"conn_type": "aws", "login": "k", "password": "s", "extra": {"endpoint_url": s3, "region_name": "us-east-1"}}
    result = subprocess.run(
        [sys.executable, "-c", RUN.format(path=str(path))],
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")},
            "AIRFLOW_HOME": str(folder / "home"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                {"type": "file", "log_file_path": str(folder / "events"), "append": True}
            ),
            "AIRFLOW_CONN_PINECONE_DEFAULT": index.connection_json(),
            "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(aws),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    emitted = [json.loads(line) for line in (folder / "events").read_text().splitlines()]
    found = {}
    for event in emitted:
        if event["eventType"] in ("COMPLETE", "FAIL") and event["job"]["name"].startswith("lineage."):
            found.setdefault(event["job"]["name"].removeprefix("lineage."), []).append(event)
    return found


def names(datasets):
    return [(dataset["namespace"], dataset["name"]) for dataset in datasets]


def statistics(dataset, kind):
    facet = dataset[f"{kind}Facets"][f"{kind}Statistics"]
    return {key: value for key, value in facet.items() if not key.startswith("_")}


def index_name(index):
    return index.url.replace("http://", "pinecone://")


def test_files_are_inputs_and_the_namespace_is_the_output(events, folder, index):
    (event,) = events["files"]
    assert event["eventType"] == "COMPLETE"
    paths = [f"{folder}/good/{name}.parquet" for name in ("a", "b")]
    assert names(event["inputs"]) == [("file", path) for path in paths]
    for dataset, path in zip(event["inputs"], paths, strict=True):
        assert statistics(dataset, "input") == {"size": Path(path).stat().st_size, "fileCount": 1}
        columns = {field["name"]: field["type"] for field in dataset["facets"]["schema"]["fields"]}
        assert columns == {"id": "string", "values": "list<element: float>", "year": "int64"}
    assert names(event["outputs"]) == [(index_name(index), "files")]
    written = statistics(event["outputs"][0], "output")
    assert written["rowCount"] == 520
    assert written["size"] > 520 * 8


def test_an_object_is_named_by_its_bucket_and_key(events, index):
    (event,) = events["on_s3"]
    assert names(event["inputs"]) == [("s3://embeddings", "set/a#1.parquet")]
    assert len(event["inputs"][0]["facets"]["schema"]["fields"]) == 3
    assert names(event["outputs"]) == [(index_name(index), "a/b")]


def test_more_than_100_files_are_named_by_their_folder(events, folder, index):
    (event,) = events["many"]
    assert names(event["inputs"]) == [("file", f"{folder}/many")]
    size = sum(file.stat().st_size for file in (folder / "many").iterdir())
    assert statistics(event["inputs"][0], "input") == {"size": size, "fileCount": 101}
    assert names(event["outputs"]) == [(index_name(index), "__default__")]


def test_a_failure_reports_what_was_written(events, folder, index):
    (event,) = events["fails"]
    assert event["eventType"] == "FAIL"
    paths = [f"{folder}/good/a.parquet", f"{folder}/good/b.parquet", f"{folder}/short.parquet"]
    assert names(event["inputs"]) == [("file", path) for path in paths]
    assert names(event["outputs"]) == [(index_name(index), "fails")]
    written = statistics(event["outputs"][0], "output")
    assert written["rowCount"] >= len(index.vectors("fails")) == 500  # b.parquet repeats ids of a.parquet
    assert written["size"] > 0


@pytest.mark.parametrize(("task", "count"), [("reindexed", 500), ("unchanged", 0)])
def test_reindexing_reports_what_was_read_and_written(events, folder, index, task, count):
    (event,) = events[task]
    assert names(event["inputs"]) == [("file", f"{folder}/good/a.parquet")]
    assert names(event["outputs"]) == [(index_name(index), "reindexed")]
    assert statistics(event["outputs"][0], "output")["rowCount"] == count


def test_a_dry_run_reports_no_output(events, folder):
    (event,) = events["dry_run"]
    assert names(event["inputs"]) == [("file", f"{folder}/good/a.parquet")]
    assert not event.get("outputs")


def test_a_task_without_files_reports_no_dataset(events):
    (event,) = events["finds_nothing"]
    assert event["eventType"] == "FAIL"
    assert not event.get("inputs")
    assert not event.get("outputs")


def test_records_from_another_task_are_not_a_dataset(events, index):
    (event,) = events["records"]
    assert not event.get("inputs")
    assert names(event["outputs"]) == [(index_name(index), "records")]
    assert statistics(event["outputs"][0], "output")["rowCount"] == 1


def test_a_namespace_that_cannot_be_named_does_not_fail_the_task(events, index):
    (event,) = events["too_long"]
    assert event["eventType"] == "COMPLETE"
    assert not event.get("outputs")
    assert len(index.vectors("#" * 512)) == 1


def test_each_mapped_instance_reports_its_own_file(events, folder):
    found = [
        (names(event["inputs"]), statistics(event["outputs"][0], "output")["rowCount"]) for event in events["mapped"]
    ]
    assert sorted(found) == [
        ([("file", f"{folder}/good/a.parquet")], 500),
        ([("file", f"{folder}/good/b.parquet")], 20),
    ]


def test_a_hook_call_reports_the_namespace_once_with_the_files_and_the_tasks_inputs(events, folder, index):
    (event,) = events["call_hook"]
    assert event["eventType"] == "COMPLETE"
    assert sorted(names(event["inputs"])) == [("file", f"{folder}/good/{name}.parquet") for name in "ab"]
    assert names(event["outputs"]) == [(index_name(index), "called")]
    assert len(index.vectors("%" * 512)) == 1


def test_a_failed_hook_call_reports_the_namespace(events, index):
    (event,) = events["fail_in_hook"]
    assert event["eventType"] == "FAIL"
    assert (index_name(index), "failed_call") in names(event["outputs"])


def test_no_event_contains_the_key(events, folder, index):
    assert index.api_key == KEY
    assert KEY not in (folder / "events").read_text()
