"""Bulk imports: real Parquet files, every status, and what makes an import fail or lose records."""

from __future__ import annotations

import json

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_pinecone_upsert.emulator.import_files import ImportFailedError, ImportFolder

DURATION_S = 100.0
VERSION = {"X-Pinecone-Api-Version": "2026-07"}


@pytest.fixture
def slow(pinecone_index_factory, connect, clock):
    """Open a client of an index whose imports take a while."""
    return connect(pinecone_index_factory(3, import_duration_s=DURATION_S, clock=clock))


SCHEMA = pa.schema({"id": pa.string(), "values": pa.list_(pa.float32()), "metadata": pa.string()})


def record(record_id, values, metadata=None):
    return {"id": record_id, "values": values, "metadata": None if metadata is None else json.dumps(metadata)}


VALID = [record("a", [1, 0, 0], {"x": 1}), record("b", [0, 1, 0])]


def write(folder, namespace="n", rows=VALID, schema=SCHEMA, name="0.parquet"):
    """Write a file of an import, and return the URI of the import."""
    (folder / namespace).mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / namespace / name)
    return str(folder)


def start(http, uri, mode="abort"):
    response = http.post("/bulk/imports", json={"uri": uri, "errorMode": {"onError": mode}})
    assert response.status_code == 200, response.text
    return response.json()["id"]


def describe(http, import_id):
    return http.get(f"/bulk/imports/{import_id}").json()


def run(http, uri, mode="abort"):
    return describe(http, start(http, uri, mode))


# Success


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_an_import_fills_a_namespace_per_folder(http, index, tmp_path, scheme):
    write(tmp_path, "v1")
    write(tmp_path, "v1", [record("c", [0, 0, 1])], name="1.parquet")
    write(tmp_path, "__default__")
    (tmp_path / "v1" / "notes.txt").write_text("ignored")
    (tmp_path / "empty").mkdir()
    pq.write_table(pa.table({"anything": [1]}), tmp_path / "ignored.parquet")
    done = run(http, scheme + str(tmp_path))
    assert (done["status"], done["recordsImported"], done["percentComplete"]) == ("Completed", 5, 100)
    assert done["uri"] == scheme + str(tmp_path)
    assert done["createdAt"] <= done["finishedAt"]
    assert "error" not in done
    assert list(index.vectors("v1")) == ["a", "b", "c"]
    assert index.vectors("v1")["a"].values.tolist() == [1, 0, 0]
    assert index.vectors("v1")["a"].metadata == {"x": 1}
    assert list(index.vectors()) == ["a", "b"]


def test_an_import_into_a_sparse_index(pinecone_index_factory, connect, tmp_path):
    index = pinecone_index_factory(vector_type="sparse")
    sparse = pa.struct({"indices": pa.list_(pa.uint32()), "values": pa.list_(pa.float32())})
    rows = [{"id": "a", "sparse_values": {"indices": [7, 2], "values": [0.5, 1]}}, {"id": "b", "sparse_values": None}]
    uri = write(tmp_path, rows=rows, schema=pa.schema({"id": pa.string(), "sparse_values": sparse}))
    assert run(connect(index), uri, "continue")["recordsImported"] == 1
    assert index.vectors("n")["a"].sparse_indices.tolist() == [7, 2]


def test_an_import_from_any_storage_of_fsspec(http, index, tmp_path):
    write(tmp_path)
    storage = fsspec.filesystem("memory")
    storage.put(str(tmp_path), "/bucket/import", recursive=True)
    try:
        assert run(http, "memory://bucket/import")["status"] == "Completed"
    finally:
        storage.rm("/bucket", recursive=True)
    assert list(index.vectors("n")) == ["a", "b"]


def test_the_statuses_of_an_import(slow, clock, tmp_path):
    import_id = start(slow, write(tmp_path))
    seen = []
    for now in (0, 9, 45, 80, 99, 100, 1_000):
        clock.now = now
        described = describe(slow, import_id)
        count = slow.post("/describe_index_stats", json={}).json()["totalVectorCount"]
        seen.append((described["status"], round(described["percentComplete"]), described["recordsImported"], count))
        assert ("finishedAt" in described) is (now >= DURATION_S)
    assert seen == [
        ("Pending", 0, 0, 0),
        ("Pending", 0, 0, 0),
        ("InProgress", 50, 0, 0),
        ("InProgress", 100, 0, 0),
        ("InProgress", 100, 0, 0),
        ("Completed", 100, 2, 2),
        ("Completed", 100, 2, 2),
    ]


def test_an_import_ends_without_being_described(slow, clock, tmp_path):
    start(slow, write(tmp_path))
    clock.now = DURATION_S
    assert slow.post("/describe_index_stats", json={}).json()["totalVectorCount"] == 2


def test_a_namespace_that_is_being_imported_is_no_target_of_an_alias(slow, clock, tmp_path):
    start(slow, write(tmp_path))
    body = {"name": "live", "target_namespace": "n"}
    reasons = []
    for now in (0, 50, 100):
        clock.now = now
        response = slow.post("/namespace-aliases", json=body, headers=VERSION).json()
        reasons.append(response["details"][0]["reason"] if "details" in response else response["target_namespace"])
    assert reasons == ["TARGET_NAMESPACE_NOT_FOUND", "TARGET_NAMESPACE_NOT_ACTIVE", "n"]


# Cancel and list


@pytest.mark.parametrize("now", [0, 50])
def test_a_cancelled_import_writes_nothing(slow, clock, tmp_path, now):
    uri = write(tmp_path)
    import_id = start(slow, uri)
    clock.now = now
    assert describe(slow, import_id)["status"] in ("Pending", "InProgress")
    assert slow.delete(f"/bulk/imports/{import_id}").json() == {}
    clock.now = DURATION_S
    assert (describe(slow, import_id)["status"], describe(slow, import_id)["recordsImported"]) == ("Cancelled", 0)
    assert slow.post("/describe_index_stats", json={}).json()["namespaces"] == {}
    start(slow, uri)
    clock.now *= 2
    assert slow.get("/namespaces/n").json()["record_count"] == 2


def test_a_finished_import_cannot_be_cancelled(http, tmp_path):
    done = run(http, write(tmp_path))
    assert http.delete(f"/bulk/imports/{done['id']}").json() == {}
    assert describe(http, done["id"]) == done


def test_imports_are_listed_in_pages(slow):
    assert slow.get("/bulk/imports").json() == {"data": []}
    ids = [start(slow, f"/nowhere/{number}") for number in range(5)]
    listed, token = [], ""
    while True:
        page = slow.get("/bulk/imports", params={"limit": 2, "paginationToken": token}).json()
        listed += page["data"]
        if "pagination" not in page:
            break
        token = page["pagination"]["next"]
    assert [(entry["id"], entry["uri"]) for entry in listed] == [(i, f"/nowhere/{n}") for n, i in enumerate(ids)]
    assert listed[0] == describe(slow, ids[0])


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_unknown_import_is_not_found(http, method):
    response = http.request(method, "/bulk/imports/7")
    assert (response.status_code, response.json()["message"]) == (404, "Import not found")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "uri must be 1 to 1500 characters, but got 0"),
        ({"uri": "x" * 1501}, "uri must be 1 to 1500 characters, but got 1501"),
        ({"uri": "/a\0"}, "uri must not contain null character"),
        (
            {"uri": "/a", "errorMode": {"onError": "ABORT"}},
            "errorMode.onError must be one of abort, continue, but got 'ABORT'",
        ),
        ({"uri": "/a", "error_mode": {"on_error": "retry"}}, "errorMode.onError must be one of abort, continue"),
        ({"uri": "/a", "mode": 1}, "mode: Cannot find field."),
    ],
)
def test_imports_that_do_not_start(http, body, message):
    response = http.post("/bulk/imports", json=body)
    assert response.status_code == 400
    assert message in response.text
    assert http.get("/bulk/imports").json() == {"data": []}


# Failure


def failure(http, uri, mode="continue"):
    """Run an import that fails in either mode, and return its error."""
    done = run(http, uri, mode)
    assert (done["status"], done["recordsImported"]) == ("Failed", 0)
    assert "finishedAt" in done
    return done["error"]


def test_an_existing_namespace_fails_the_import(http, index, upsert, tmp_path):
    upsert(http, {"id": "old", "values": [1, 1, 1]}, namespace="v2")
    write(tmp_path, "v1")
    error = failure(http, write(tmp_path, "v2"))
    assert error == "Namespace 'v2' already exists. Import needs namespaces that do not exist"
    assert (index.vectors("v1"), list(index.vectors("v2"))) == ({}, ["old"])


def test_the_default_namespace_must_be_empty(http, upsert, tmp_path):
    upsert(http, {"id": "old", "values": [1, 1, 1]})
    assert failure(http, write(tmp_path, "__default__")).startswith("Namespace '__default__' already exists.")


def test_a_second_import_of_the_same_files_fails(http, tmp_path):
    uri = write(tmp_path)
    assert run(http, uri)["status"] == "Completed"
    assert failure(http, uri).startswith("Namespace 'n' already exists.")


def test_two_imports_at_once_do_not_fill_one_namespace(slow, clock, tmp_path):
    first, second = start(slow, write(tmp_path)), start(slow, str(tmp_path))
    clock.now = 50
    assert [describe(slow, import_id)["status"] for import_id in (first, second)] == ["InProgress", "Failed"]


def test_the_name_of_an_alias_fails_the_import(http, upsert, tmp_path):
    upsert(http, {"id": "old", "values": [1, 1, 1]}, namespace="v1")
    http.post("/namespace-aliases", json={"name": "live", "target_namespace": "v1"}, headers=VERSION)
    assert "in use by a namespace alias" in failure(http, write(tmp_path, "live"))


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        ({"blob": pa.string()}, "Unsupported column 'blob' in file {}. Supported columns: id, values, sparse_values, "),
        ({"id": None}, "Missing column 'id' in file {}"),
        ({"values": None}, "Missing column 'values' in file {}"),
        ({"id": pa.int64()}, "Column 'id' in file {} has the unsupported type int64"),
        ({"values": pa.list_(pa.int32())}, "Column 'values' in file {} has the unsupported type list<element: int32>"),
        ({"values": pa.string()}, "Column 'values' in file {} has the unsupported type string"),
        ({"metadata": pa.struct({"x": pa.int64()})}, "Column 'metadata' in file {} has the unsupported type struct<x"),
        ({"sparse_values": pa.list_(pa.float32())}, "Column 'sparse_values' in file {} has the unsupported type list<"),
    ],
)
def test_columns_that_do_not_fit_fail_the_import(http, tmp_path, columns, error):
    types = {**dict(zip(SCHEMA.names, SCHEMA.types, strict=True)), **columns}
    schema = pa.schema({name: kind for name, kind in types.items() if kind is not None})
    write(tmp_path, "m")
    uri = write(tmp_path, rows=[], schema=schema)
    assert failure(http, uri).startswith(error.format(tmp_path / "n" / "0.parquet"))


def test_an_invalid_folder_fails_the_import(http, tmp_path):
    assert failure(http, str(tmp_path / "absent")).startswith(f"Cannot read {tmp_path / 'absent'}: ")
    assert failure(http, str(tmp_path)) == f"No Parquet files found in subfolders of {tmp_path}"
    assert failure(http, "carrier-pigeon://x").startswith("Cannot read carrier-pigeon://x: ")


def test_a_file_that_is_not_parquet_fails_the_import(http, tmp_path):
    uri = write(tmp_path, "m")
    (tmp_path / "m" / "1.parquet").write_bytes(b"no parquet")
    assert failure(http, uri).startswith(f"Cannot read {tmp_path / 'm' / '1.parquet'}: ")


def test_a_file_has_at_most_10_gb(http, tmp_path):
    uri = write(tmp_path)
    with (tmp_path / "n" / "1.parquet").open("wb") as file:
        file.truncate(10_000_000_001)  # a sparse file, which takes no space
    assert failure(http, uri) == f"File {tmp_path / 'n' / '1.parquet'} exceeds the limit of 10000000000 bytes"


@pytest.mark.parametrize(
    ("paths", "error"),
    [
        ({f"{number}": ["x"] for number in range(10_001)}, "More than 10000 namespaces in uri"),
        ({"n": ["x"] * 100_001}, "More than 100000 files in uri"),
    ],
)
def test_an_import_has_at_most_10_000_namespaces_and_100_000_files(paths, error):
    with pytest.raises(ImportFailedError, match=error):
        ImportFolder(fsspec.filesystem("file"), paths).check_counts("uri")


INVALID = [
    (record("c", [1, 0]), "Vector dimension 2 does not match the dimension of the index 3"),
    (record("c", None), "Vector dimension 0 does not match the dimension of the index 3"),
    (
        record("c", [0, 0, 0]),
        "Dense vectors must contain at least one non-zero value. Vector ID 'c' contains only zeros",
    ),
    (record("c", [1, float("nan"), 0]), 'values[1]: invalid value "nan" for type TYPE_FLOAT'),
    (record(None, [1, 1, 0]), "Vector ID must not be empty"),
    (record("ä", [1, 1, 0]), "Vector ID must be ASCII, but got 'ä'"),
    (record("c", [1, 1, 0], {"x": [1]}), "Metadata value must be a string, number, boolean or list of strings"),
    ({**record("c", [1, 1, 0]), "metadata": "{"}, 'metadata: invalid value "{" for type TYPE_MESSAGE'),
    (record("c", [1, 0, 0]), "Vector ID 'c' has the same values as another record of its namespace"),
]


@pytest.mark.parametrize(("invalid", "error"), INVALID)
def test_an_invalid_record_fails_an_import_that_aborts(http, tmp_path, invalid, error):
    done = run(http, write(tmp_path, rows=[*VALID, invalid]), "abort")
    assert done["status"] == "Failed"
    assert done["error"].startswith(f"Invalid record: {error}")


@pytest.mark.parametrize("invalid", [invalid for invalid, _ in INVALID])
@pytest.mark.parametrize("mode", [{"errorMode": {"onError": "continue"}}, {}])
def test_an_invalid_record_is_dropped_silently_by_an_import_that_continues(http, index, tmp_path, invalid, mode):
    uri = write(tmp_path, rows=[VALID[0], invalid, VALID[1]])
    done = describe(http, http.post("/bulk/imports", json={"uri": uri, **mode}).json()["id"])
    assert (done["status"], done["recordsImported"]) == ("Completed", 2)
    assert "error" not in done
    assert list(index.vectors("n")) == ["a", "b"]


def test_the_same_values_may_be_in_two_namespaces(http, tmp_path):
    write(tmp_path, "v1")
    assert run(http, write(tmp_path, "v2"))["recordsImported"] == 4


def test_namespaces_that_were_filled_before_a_failure_remain(http, index, tmp_path):
    write(tmp_path, "v1")
    uri = write(tmp_path, "v2", [record("c", [1])])
    done = run(http, uri, "abort")
    assert (done["status"], done["recordsImported"]) == ("Failed", 2)
    assert list(index.vectors("v1")) == ["a", "b"]
    assert failure(http, uri).startswith("Namespace 'v1' already exists.")
