"""The checks around a bulk import: each trap is found in real files, with its remedy, and what the emulator takes passes."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api import limits
from airflow_pinecone_upsert.api.models import BulkImport
from airflow_pinecone_upsert.pipeline.bulk_import.outcome import check_outcome
from airflow_pinecone_upsert.pipeline.bulk_import.preflight import check_uri, plan_import
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.read.files import FileRef, list_parquet_files

DENSE, SPARSE = IndexShape(2), IndexShape(sparse=True)
GOOD = {"id": ["a", "b"], "values": [[1.0, 2.0], [3.0, 4.0]], "metadata": ['{"x": 1}', None]}
SPARSE_VALUES = pa.array(
    [{"indices": [1], "values": [0.5]}] * 2,
    pa.struct({"indices": pa.list_(pa.uint32()), "values": pa.list_(pa.float32())}),
)


@pytest.fixture
def write(tmp_path):
    def write(columns=None, path="n/0.parquet", **more):
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({**(columns or GOOD), **more}), target)

    return write


@pytest.fixture
def plan(tmp_path):
    def plan(shape=DENSE, files=None):
        fs = LocalFileSystem()
        found = list_parquet_files(fs, str(tmp_path)) if files is None else files
        return plan_import("s3://bucket/import", str(tmp_path), found, shape, CancellationToken())

    return plan


@pytest.fixture
def problem(plan):
    def problem(*arguments):
        with pytest.raises(exceptions.SourceError) as caught:
            plan(*arguments)
        return str(caught.value)

    return problem


def test_a_plan_counts_what_would_be_imported(write, plan, tmp_path):
    write()
    write(path="n/1.parquet")
    write(path="__default__/0.parquet")
    (tmp_path / "n" / "_SUCCESS").write_text("")
    found = plan()
    assert (found.namespaces, found.file_count, found.record_count) == (["__default__", "n"], 3, 6)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("values", pa.array([[1, 2], [3, 4]], pa.list_(pa.float64()))),
        ("values", pa.FixedSizeListArray.from_arrays(pa.array([1, 2, 3, 4], pa.float32()), 2)),
        ("values", pa.array([[1, 2], [3, 4]], pa.large_list(pa.float32()))),
        ("id", pa.array(["a", "b"]).dictionary_encode()),
        ("id", pa.array(["a", "b"], pa.large_string())),
        ("metadata", pa.array(["{}", "{}"]).dictionary_encode()),
        ("sparse_values", SPARSE_VALUES),
    ],
)
def test_types_that_are_the_same_in_parquet_pass(write, plan, column, values):
    write(**{column: values})
    assert plan().record_count == 2


def test_a_sparse_index_needs_sparse_values(write, plan, problem):
    write({"id": ["a", "b"], "sparse_values": SPARSE_VALUES})
    assert plan(SPARSE).record_count == 2
    assert "has no column 'values', which this index needs" in problem(DENSE)
    write()
    assert "has no column 'sparse_values'" in problem(SPARSE)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"title": ["x", "y"]},
            "its columns 'title' are not allowed: an import takes id, values, sparse_values, metadata",
        ),
        ({"__index_level_0__": [0, 1]}, "or write it with to_parquet(index=False)"),
        ({"id": [1, 2]}, "its column 'id' is of type int64. Convert it to strings."),
        ({"values": ["[1, 2]", "[3, 4]"]}, "its column 'values' is of type string. Convert it to lists of float32."),
        ({"values": [[1, 2], [3, 4]]}, "Convert it to lists of float32."),
        ({"values": [np.float16([1, 2])] * 2}, "Convert it to lists of float32."),
        (
            {"metadata": [{"x": 1}, {"x": 2}]},
            "its column 'metadata' is of type struct<x: int64>. Convert it to JSON text",
        ),
        ({"sparse_values": ["1:2", "2:3"]}, "Convert it to structs of indices (lists of uint32)"),
        ({"values": [[1.0, 2.0, 3.0]] * 2}, "its vectors have 3 components on average, and the index has 2"),
        ({"values": [[1.0, 2.0], None]}, "its vectors have 1.5 components on average"),
    ],
)
def test_a_column_that_pinecone_would_reject_is_named_with_its_remedy(write, problem, more, said):
    write(**more)
    assert said in problem()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("0.parquet", "0.parquet: it is in no namespace's folder. Move it to <uri>/<namespace>/<file>.parquet"),
        ("n/2026/0.parquet", "2026/0.parquet: it is deeper than in the folder of a namespace"),
        ("n/0.csv", "it has no *.parquet files in folders of namespaces"),
        (f"{'é' * 100}/0.parquet", "has other than 512 ASCII characters at most. Rename the folder"),
    ],
)
def test_a_wrong_layout_is_an_error(write, problem, path, said):
    write(path=path)
    assert said in problem()


def test_a_problem_of_many_files_is_shown_once_and_all_problems_at_once(write, problem):
    for number in range(3):
        write(path=f"n/{number}.parquet", title=["x", "y"])
    write(path="n/3.parquet", id=[1, 2])
    said = problem()
    assert said.count("'title'") == 1
    assert "n/0.parquet and 2 more: its columns 'title'" in said
    assert "n/3.parquet: its column 'id'" in said


def test_a_corrupt_file_is_named(tmp_path, write, problem):
    write()
    (tmp_path / "n" / "1.parquet").write_bytes(b"PAR1 no")
    assert "n/1.parquet: it cannot be read as Parquet" in problem()


def test_the_limits_of_pinecone_are_checked(tmp_path, problem):
    def files(count, size, folders=1):
        return [FileRef(None, f"{tmp_path}/{n % folders}/{n}.parquet", f"{n}.parquet", size) for n in range(count)]

    assert "it has more than 10,000,000,000 bytes. Split it" in problem(
        DENSE, files(1, limits.MAX_IMPORT_FILE_BYTES + 1)
    )
    assert "bytes, and an import takes 1,000,000,000,000. Split it into several" in problem(DENSE, files(101, 10**10))
    assert "100,001 files, and an import takes 100,000" in problem(DENSE, files(100_001, 1))
    assert "10,001 namespaces, and an import takes 10,000" in problem(DENSE, files(10_001, 1, 10_001))
    with pytest.raises(exceptions.SetupError, match="uri has 1,501 characters; Pinecone takes 1,500"):
        check_uri("s" * 1_501)


@pytest.mark.parametrize("name", ["n", "__default__"])
def test_a_namespace_that_exists_is_an_error(write, plan, pinecone_index_factory, open_client, name):
    index = pinecone_index_factory(2)
    with open_client(index.url) as client:
        write(path=f"{name}/0.parquet")
        found = plan()
        found.check_namespaces(client)
        import httpx

        namespace = {} if name == "__default__" else {"namespace": name}
        body = {"vectors": [{"id": "a", "values": [1, 2]}], **namespace}
        httpx.post(f"{index.url}/vectors/upsert", json=body, headers={"Api-Key": index.api_key})
        with pytest.raises(exceptions.SetupError, match=rf"already has the namespaces '{name}' \(1 records\)"):
            found.check_namespaces(client)


COLUMNS = {
    "id": [pa.array(["a", "b"]), pa.array(["a", "b"], pa.large_string()), pa.array([1, 2])],
    "values": [
        pa.array([[1, 2], [3, 4]], pa.list_(pa.float32())),
        pa.array([[1, 2], [3, 4]], pa.large_list(pa.float64())),
        pa.array([[1, 2], [3, 4]], pa.list_(pa.int32())),
        pa.array([[1, 2, 3], [3, 4, 5]], pa.list_(pa.float32())),
    ],
    "sparse_values": [SPARSE_VALUES, pa.array(["x", "y"])],
    "metadata": [pa.array(['{"x": 1}', "{}"]), pa.array([None, None], pa.string()), pa.array([1, 2])],
    "title": [pa.array(["x", "y"])],
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({}, optional={name: st.sampled_from(found) for name, found in COLUMNS.items()}))
def test_the_preflight_and_the_emulator_agree(tmp_path_factory, pinecone_index_factory, open_client, columns):
    if not columns:
        return
    folder = tmp_path_factory.mktemp("import")
    (folder / "n").mkdir()
    pq.write_table(pa.table(columns), folder / "n" / "0.parquet")
    index = pinecone_index_factory(2, metric="dotproduct")
    with open_client(index.url) as client:
        imported = client.describe_import(client.start_import(str(folder)))
    index.close()
    files = list_parquet_files(LocalFileSystem(), str(folder))
    try:
        plan_import(str(folder), str(folder), files, DENSE, CancellationToken())
    except exceptions.SourceError:
        assert imported.status == "Failed"
    else:
        assert imported.status == "Completed", imported.error


# The outcome ------------------------------------------------------------------------------------


def ended(**fields):
    return BulkImport.model_validate(json.loads(json.dumps({"id": "7", "uri": "s3://b/i", **fields})))


@pytest.mark.parametrize(
    ("status", "count", "said"),
    [
        (
            "Failed",
            3,
            "Import 7 of s3://b/i failed after 3 of 10 records: no bucket. If Pinecone may not read the files",
        ),
        ("Cancelled", 3, "was cancelled after 3 of 10 records. Namespaces that it has created remain"),
        (
            "Completed",
            8,
            "ended with 8 records, and 10 were expected. Pinecone drops, without naming them, records whose",
        ),
        ("Completed", 11, "If that is intended, set expected_records=11."),
    ],
)
def test_an_import_that_is_not_complete_is_a_final_error(status, count, said):
    with pytest.raises(exceptions.BulkImportError) as caught:
        check_outcome(ended(status=status, recordsImported=count, error="no bucket"), 10)
    assert said in str(caught.value)
    assert isinstance(caught.value, exceptions.InputError)


def test_a_complete_import_passes():
    check_outcome(ended(status="Completed", recordsImported="10"), 10)
