"""Plans of mapped tasks, from real files, and the sums of their outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_pinecone_upsert import IncompleteUpsertError, PineconeHook, SetupError, SourceError, plan_tasks, summarize
from airflow_pinecone_upsert.storage import parquet_files


@pytest.fixture
def write(tmp_path):
    def write(*names, rows=2):
        for name in names:
            path = tmp_path / "source" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(
                pa.table({"id": [f"{name}{row}" for row in range(rows)], "values": [[1.0, 2.0]] * rows}), path
            )
        return str(tmp_path / "source")

    return write


def files_of(plan):
    return sorted(file.path for entry in plan for file in parquet_files(entry["parquet_paths"]))


def test_namespaces_are_packed_together(write):
    root = write("a/0.parquet", "b/0.parquet", "c/0.parquet", "__default__/0.parquet", "__default__/1.parquet")
    (plan,) = plan_tasks(root)
    assert plan == {
        "parquet_paths": [f"{root}/{name}" for name in ("__default__", "a", "b", "c")],
        "namespace_from_path": root,
        "params": {"name": "__default__ … c (4 namespaces)", "records": 10},
    }


def test_a_large_namespace_is_split_by_files(write):
    root = write("a/0.parquet", "a/1.parquet", "b/0.parquet")
    plan = plan_tasks(root, target_bytes=1)
    assert sorted(entry["namespace"] for entry in plan) == ["a", "a", "b"]
    assert all("namespace_from_path" not in entry for entry in plan)
    assert files_of(plan) == files_of([{"parquet_paths": f"{root}/*/*.parquet"}])
    assert [entry["params"] for entry in plan if entry["namespace"] == "b"] == [{"name": "b", "records": 2}]


def test_no_data_is_read(write):
    root = write("a/0.parquet", "a/1.parquet")
    path = Path(root, "a", "0.parquet")
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    path.write_bytes(content[:4] + bytes(footer - 4) + content[footer:])
    with pytest.raises(OSError, match="deserialize"):
        pq.read_table(path)
    assert [entry["params"]["records"] for entry in plan_tasks(root)] == [4]


def test_deeper_folders_are_named_one_by_one(write):
    root = write("a/x/0.parquet", "a/x/1.parquet", "a/y.parquet/0.parquet")
    (entry,) = plan_tasks(root)
    assert entry["namespace"] == "a"
    assert entry["parquet_paths"] == [f"{root}/a/x", f"{root}/a/y.parquet"]
    assert len(files_of([entry])) == 3


def test_files_are_divided_by_bytes(write):
    root = write(*(f"{n}.parquet" for n in range(6)))
    plan = plan_tasks(root, by="bytes", max_tasks=3, target_bytes=1)
    assert [len(entry["parquet_paths"]) for entry in plan] == [2, 2, 2]
    assert files_of(plan) == files_of([{"parquet_paths": root}])
    assert sum(entry["params"]["records"] for entry in plan) == 12


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("", ["/0.parquet"]),
        ("/*.parquet", ["/0.parquet"]),
        ("/**/*.parquet", ["/0.parquet", "/a/0.parquet"]),
        ("/0.par*", ["/0.parquet"]),
        ("/0.parquet", ["/0.parquet"]),
    ],
)
def test_a_folder_is_named_only_if_all_its_files_are_meant(write, pattern, paths):
    root = write("0.parquet", "a/0.parquet")
    (entry,) = plan_tasks(root + pattern, by="bytes")
    assert files_of([entry]) == [root + path for path in paths]
    named = entry["parquet_paths"]
    is_folder = not (named if isinstance(named, str) else named[0]).endswith(".parquet")
    assert is_folder == (pattern in {"", "/*.parquet", "/**/*.parquet"})


def test_a_namespace_keeps_its_manifest_while_others_come_and_go(write, tmp_path):
    manifests = tmp_path / "manifests"
    root = write("b/0.parquet")
    (only,) = plan_tasks(root, manifests_path=str(manifests))
    assert only == {
        "namespace": "b",
        "parquet_paths": f"{root}/b",
        "manifest_path": f"{manifests}/b",
        "params": {"name": "b", "records": 2},
    }
    write("a/0.parquet", "c/0.parquet")
    plan = plan_tasks(root, manifests_path=str(manifests))
    assert [entry["namespace"] for entry in plan] == ["a", "b", "c"]
    assert plan[1] == only


def test_a_namespace_without_files_but_with_a_manifest_stays_in_the_plan(write, tmp_path, caplog):
    root = write("a/0.parquet")
    for name, file in (("gone", "gen-000001.json"), ("a", "gen-000001.json")):
        (tmp_path / "manifests" / name).mkdir(parents=True)
        (tmp_path / "manifests" / name / file).write_text("{}")
    (tmp_path / "manifests" / "deleted").mkdir()
    plan = plan_tasks(root, manifests_path=str(tmp_path / "manifests"))
    assert [(entry["namespace"], entry["params"]["records"]) for entry in plan] == [("a", 2), ("gone", 0)]
    assert "gone have a manifest" in caplog.text
    with pytest.raises(SourceError, match="does not exist"):
        parquet_files(plan[1]["parquet_paths"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_tasks": 0}, SetupError, "1 or more"),
        ({"by": "rows"}, SetupError, "'rows'"),
        ({"by": "bytes", "manifests_path": "/m"}, SetupError, "by='namespace'"),
        ({"manifests_path": "{root}/m"}, SetupError, "inside of parquet_paths"),
        ({"manifests_path": "/m", "max_tasks": 1}, SetupError, "each of 2 namespaces"),
        ({"parquet_paths": ["{root}", "{root}/a"]}, SetupError, "one folder"),
        ({"parquet_paths": "{root}/a"}, SourceError, "not in a folder below .*/a, which"),
        ({"parquet_paths": "{root}/none"}, SourceError, "no \\*.parquet file"),
    ],
)
def test_a_plan_that_cannot_be_made(write, options, error, message):
    root = write("a/0.parquet", "b/0.parquet")
    options = json.loads(json.dumps({"parquet_paths": "{root}", **options}).replace("{root}", root))
    with pytest.raises(error, match=message):
        plan_tasks(options.pop("parquet_paths"), **options)


def test_a_folder_that_airflow_would_render_is_rejected(write):
    with pytest.raises(SourceError, match="Airflow would render"):
        plan_tasks(write("{{ conn.secret }}/0.parquet"))


def test_the_name_of_a_connection_is_kept(write):
    root = write("a/0.parquet")
    (entry,) = plan_tasks(f"file://my_conn@{root}", target_bytes=1)
    assert entry["parquet_paths"] == f"file://my_conn@{root}/a"


PLAN = [{"namespace": name, "params": {"name": name, "records": 10}} for name in "ab"]
UPSERTED = {"upsertedCount": 9, "rejectedCount": 1, "resumedCount": 4, "rejectsPaths": ["r"]}
REINDEXED = {
    "upsertedCount": 3,
    "newCount": 1,
    "changedCount": 2,
    "unchangedCount": 7,
    "rejectedCount": 0,
    "deletedCount": 5,
}
PREVIEWED = {**REINDEXED, "upsertedCount": 0}


def reports(**counts):
    return [{"namespace": name, "durationSeconds": 1.5, "lsn": 7, **counts} for name in "ab"]


@pytest.mark.parametrize("counts", [UPSERTED, REINDEXED, PREVIEWED])
def test_counts_are_added_up(counts):
    total = summarize(reports(**counts), plan=PLAN)
    assert total.pop("rejectsPaths") == 2 * counts.get("rejectsPaths", [])
    assert total.pop("taskCount") == 2
    assert total.pop("durationSeconds") == 3.0
    assert total == {key: 2 * value for key, value in counts.items() if key != "rejectsPaths"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (reports(**UPSERTED)[1:], "2 tasks, and 1 of them have an output: missing are a"),
        ([reports(**UPSERTED)[0], None], "missing are b"),
        ([], "missing are a, b"),
        (None, "missing are a, b"),
        (reports(**{**UPSERTED, "upsertedCount": 8}), "a has 10 rows, and its task reports 9; b has 10 rows"),
        (reports(**{**REINDEXED, "unchangedCount": 8}), "a has 10 rows, and its task reports 11"),
    ],
)
def test_a_task_or_a_record_that_is_missing_is_named(given, message):
    with pytest.raises(IncompleteUpsertError, match=message):
        summarize(given, plan=PLAN)


def test_the_sum_of_real_upserts_and_a_file_that_changes_in_mid_run(write, tmp_path, pinecone_index, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_PINECONE_DEFAULT", pinecone_index.connection_json())
    root = write("0.parquet", "1.parquet")
    values = [[1.0] * pinecone_index.dimension] * 4
    for name in "01":  # an id twice, and a record without one
        pq.write_table(pa.table({"id": ["a", "a", None, name], "values": values}), f"{root}/{name}.parquet")
    plan = plan_tasks(root, by="bytes", target_bytes=1)

    def outputs():
        for entry in plan:
            yield PineconeHook().upsert(parquet_paths=entry["parquet_paths"], max_rejects=None).as_output()

    total = summarize(outputs(), plan=plan)
    assert (total["upsertedCount"], total["rejectedCount"], total["taskCount"]) == (6, 2, 2)
    pq.write_table(pa.table({"id": ["b"], "values": values[:1]}), f"{root}/1.parquet")
    with pytest.raises(IncompleteUpsertError, match=r"1\.parquet has 4 rows, and its task reports 1"):
        summarize(outputs(), plan=plan)


def test_there_is_no_sum_without_a_plan():
    with pytest.raises(IncompleteUpsertError, match="There is no plan"):
        summarize([], plan=[])
