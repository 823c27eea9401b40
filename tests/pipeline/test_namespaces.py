"""A namespace for each record: from a column, a key or a folder to the namespace of the index, over real HTTP."""

from uuid import UUID

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api.http import ClientSettings
from airflow_pinecone_upsert.api.models import Record
from airflow_pinecone_upsert.client import IndexClient
from airflow_pinecone_upsert.emulator import Fault
from airflow_pinecone_upsert.pipeline.options import UpsertOptions
from airflow_pinecone_upsert.pipeline.position import RowRange, row_ranges
from airflow_pinecone_upsert.pipeline.read.files import find_files_by_namespace
from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource
from airflow_pinecone_upsert.pipeline.track.compact import compact_ranges, expanded_ranges, packed, unpacked
from airflow_pinecone_upsert.pipeline.track.rejects import RejectsFolder
from tests.pipeline.held import Held
from tests.state_store import InMemoryStateStore, checkpoint_of

UPSERT = "/vectors/upsert"


def table_of(tenants, **more):
    count = len(tenants)
    values = pa.array([[1.0, float(row)] for row in range(count)], pa.list_(pa.float32()))
    return pa.table({"id": [f"r{row}" for row in range(count)], "values": values, "tenant": tenants, **more})


def written(index, *names):
    return {name: sorted(index.vectors(name)) for name in names}


TENANTS = {
    "text": (pa.array(["a", "b", None, "a"]), ("a", "b")),
    "dictionary": (pa.array(["a", "b", None, "a"]).dictionary_encode(), ("a", "b")),
    "large text": (pa.array(["a", "b", None, "a"], pa.large_string()), ("a", "b")),
    "view": (pa.array(["a", "b", None, "a"], pa.string_view()), ("a", "b")),
    "integers": (pa.array([7, 8, None, 7], pa.uint16()), ("7", "8")),
    "dictionary of integers": (pa.array([7, 8, None, 7]).dictionary_encode(), ("7", "8")),
}


@pytest.mark.parametrize("kind", TENANTS)
def test_rows_go_to_the_namespace_that_their_column_names(index, run, write, transport, kind):
    column, (first, second) = TENANTS[kind]
    path = write(table_of(column)) if kind != "view" else table_of(column)
    report = run(index, path, namespace="rest", namespace_column="tenant", transport=transport)
    assert written(index, first, second, "rest") == {first: ["r0", "r3"], second: ["r1"], "rest": ["r2"]}
    output = report.as_output()
    assert output["namespaces"] == {first: 2, second: 1, "rest": 1}
    assert (output["namespaceCount"], output["upsertedCount"], output["distinctCount"]) == (3, 4, 4)


def test_a_run_without_the_option_has_no_namespaces_in_its_output(index, run, rows):
    assert not {"namespaces", "namespaceCount"} & set(run(index, rows(2)).as_output())


def test_the_default_namespace_has_two_names(index, run):
    report = run(index, table_of(["", "__default__", None]), namespace="__default__", namespace_column="tenant")
    assert sorted(index.vectors()) == ["r0", "r1", "r2"]
    assert report.as_output()["namespaces"] == {"__default__": 3}
    assert report.counts.requests == 1


def test_the_same_id_in_two_namespaces_is_two_records(index, run):
    table = table_of(["a", "b"]).set_column(0, "id", pa.array(["same", "same"]))
    assert run(index, table, namespace_column="tenant").as_output()["distinctCount"] == 2
    assert {name: list(index.vectors(name)) for name in "ab"} == {"a": ["same"], "b": ["same"]}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("é", "at most 512 ASCII characters"),
        ("x" * 513, "at most 512 ASCII characters"),
        ("a\0", "none of them NUL"),
    ],
)
def test_a_name_that_is_no_namespace_rejects_its_row(index, run, write, value, reason):
    path = write(table_of(["a", value, "a"]))
    with pytest.raises(exceptions.RecordError, match=reason) as caught:
        run(index, path, namespace_column="tenant")
    error = caught.value
    assert (error.origin, error.row, error.record_id, error.field) == (str(path), 1, "r1", "tenant")
    assert repr(value)[:20] in error.value
    assert "Change it at its source" in error.remedy


def test_a_file_of_rejects_is_a_source_with_the_same_namespaces(index, run, tmp_path):
    bad = pa.array([[1.0, 2.0], [1.0], [0.0, 0.0], [2.0, 1.0]], pa.list_(pa.float32()))
    table = table_of(["a", "b", None, "c\N{SNOWMAN}"]).set_column(1, "values", bad)
    folder = RejectsFolder(LocalFileSystem(), str(tmp_path / "rejects"))
    report = run(index, table, namespace="rest", namespace_column="tenant", max_rejects=3, rejects_folder=folder)
    found = pq.read_table(report.rejects_paths[0])
    assert found["namespace"].to_pylist() == ["b", None, "c\N{SNOWMAN}"]
    assert found["record"].null_count == 3
    fixed = found.set_column(found.schema.get_field_index("namespace"), "namespace", pa.array(["b", None, "c"]))
    fixed = fixed.set_column(fixed.schema.get_field_index("values"), "values", pa.array([[1.0, 1.0]] * 3))
    run(index, fixed, namespace="rest", namespace_column="namespace")
    assert written(index, "b", "rest", "c") == {"b": ["r1"], "rest": ["r2"], "c": ["r3"]}


def test_a_record_that_only_the_server_rejects_keeps_its_namespace(index, run, tmp_path):
    index.faults.next(Fault.status(400, "no"), path=UPSERT)
    folder = RejectsFolder(LocalFileSystem(), str(tmp_path / "rejects"))
    report = run(
        index,
        table_of(["a", "b"]),
        namespace_column="tenant",
        max_concurrency=1,
        max_rejects=None,
        rejects_folder=folder,
    )
    assert pq.read_table(report.rejects_paths[0])["namespace"].to_pylist() == ["a"]
    assert report.as_output()["namespaces"] == {"b": 1}


# Records in memory ------------------------------------------------------------------------------


def test_records_in_memory_name_their_namespace_by_the_key(index, run):
    uuid = UUID(int=1)
    records = [
        {"id": row, "values": [1, row], "tenant": name} for row, name in enumerate(["a", 7, np.int64(7), uuid, None])
    ]
    run(index, records, namespace="rest", namespace_column="tenant")
    assert written(index, "a", "7", str(uuid), "rest") == {
        "a": ["0"],
        "7": ["1", "2"],
        str(uuid): ["3"],
        "rest": ["4"],
    }


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"id": "a", "values": [1, 2]}, "names no namespace"),
        (("a", [1, 2]), "names no namespace"),
        (Record(id="a", values=[1, 2]), "names no namespace"),
        ({"id": "a", "values": [1, 2], "tenant": 1.5}, "a string, an integer or a UUID"),
        ({"id": "a", "values": [1, 2], "tenant": True}, "a string, an integer or a UUID"),
        ({"id": "a", "values": [1, 2], "tenant": "\ud800"}, "ASCII"),
    ],
)
def test_a_record_in_memory_must_name_its_namespace(index, run, record, reason):
    with pytest.raises(exceptions.RecordError, match=reason) as caught:
        run(index, [record], namespace_column="tenant")
    assert (caught.value.row, caught.value.record_id, caught.value.field) == (0, "a", "tenant")


def test_a_data_frame(index, run):
    frame = pd.DataFrame({"id": ["x", "y"], "values": [[1.0, 2.0], [2.0, 1.0]], "tenant": ["a", None]})
    run(index, frame, namespace="rest", namespace_column="tenant")
    assert written(index, "a", "rest") == {"a": ["x"], "rest": ["y"]}


def test_integers_that_pandas_made_floats_are_an_error_with_its_remedy(index, run):
    frame = pd.DataFrame({"id": ["x", "y"], "values": [[1.0, 2.0], [2.0, 1.0]], "tenant": [1, None]})
    with pytest.raises(exceptions.SourceError, match=r'namespaces come as .* astype\("Int64"\)'):
        run(index, frame, namespace_column="tenant")


def test_a_missing_column_is_one_error(index, run, write):
    with pytest.raises(exceptions.SourceError, match="Set namespace_column to one of its columns"):
        run(index, write(table_of(["a"])), namespace_column="tenants")


def test_a_record_leaves_room_for_the_name_of_its_own_namespace(index, run):
    """The longest record for a short name does not fit with a long one."""
    text = "x" * 930
    records = [{"id": "r", "values": [1, 2], "metadata": {"t": text}, "tenant": name} for name in ("a", "n" * 100)]
    with pytest.raises(exceptions.RecordError, match="to fit into a request") as caught:
        run(index, records, namespace_column="tenant", max_request_bytes=1_030)
    assert caught.value.row == 1


# Folders ----------------------------------------------------------------------------------------


@pytest.fixture
def documents(tmp_path):
    """Create ``documents`` with a folder for each namespace, one of them the default one."""
    root = tmp_path / "documents"
    for folder, name in [("a", "x"), ("b", "y"), ("b/2024", "z"), ("__default__", "w")]:
        (root / folder).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"id": [name], "values": [[1.0, 2.0]]}), root / folder / f"{name}.parquet")
    return root


def source_of(path, root=None):
    options = UpsertOptions(namespace_from_path=True if root is None else str(root))
    return ParquetSource(find_files_by_namespace(LocalFileSystem(), str(path), root and str(root)), options)


@pytest.mark.parametrize("pattern", ["", "/*/**/*.parquet", "/**/*.parquet"])
def test_the_folder_right_below_the_root_names_the_namespace(index, run, documents, pattern):
    report = run(index, source_of(f"{documents}{pattern}"), namespace_from_path=True)
    assert written(index, "a", "b", "") == {"a": ["x"], "b": ["y", "z"], "": ["w"]}
    assert report.as_output()["namespaces"] == {"b": 2, "__default__": 1, "a": 1}


@pytest.mark.parametrize("path", ["b", "b/y.parquet", "b/*.parquet"])
def test_a_root_that_is_named_allows_paths_below_it(index, run, documents, path):
    run(index, source_of(documents / path, documents), namespace_from_path=str(documents))
    assert "y" in index.vectors("b")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a", r"a/x.parquet is not in a folder below .*documents/a"),
        ("a/*.parquet", r"is not in a folder below"),
        ("a/x.parquet", r"is a file, so no folder below it"),
        ("nothing", r"does not exist"),
    ],
)
def test_a_path_whose_folders_name_no_namespace(documents, path, message):
    with pytest.raises(exceptions.SourceError, match=message):
        source_of(documents / path)


def test_a_folder_whose_name_is_no_namespace(documents):
    (documents / "a").rename(documents / "é")
    with pytest.raises(exceptions.SourceError, match=r"The folder 'é' of .*x.parquet .* Rename it"):
        source_of(documents)


def test_the_same_files_below_another_root_are_another_source(documents):
    assert source_of(documents).identity != source_of(documents / "b" / "*", documents).identity
    below, above = source_of(documents / "**" / "z.parquet"), source_of(documents / "b" / "*" / "z.parquet")
    assert below.files[0].url == above.files[0].url
    assert below.identity != above.identity


def test_records_in_memory_have_no_folder(index, run, rows):
    with pytest.raises(exceptions.SourceError, match="needs paths of files"):
        run(index, rows(1), namespace_from_path=True)


def test_only_one_of_column_and_path():
    with pytest.raises(exceptions.SetupError, match="exclude each other"):
        UpsertOptions.checked(namespace_column="tenant", namespace_from_path=True)


# Resuming ---------------------------------------------------------------------------------------


@pytest.fixture
def resumable(index, run, write):
    """Fail after some records are confirmed; return what runs the next try, and the ids that were confirmed."""
    tenants = [f"n{row % 3}" for row in range(60)]
    path = write(table_of(tenants))
    store = InMemoryStateStore()
    parameters = {"namespace_column": "tenant", "batch_size": 5, "max_concurrency": 2, "state": store}

    def confirmed():
        return {row for name in ("n0", "n1", "n2") for row in index.vectors(name)}

    fault = Fault.status(401, "Invalid API Key")
    index.faults.next(Held(fault, until=lambda: len(confirmed()) >= 15), path=UPSERT)
    with pytest.raises(exceptions.AuthenticationError):
        run(index, path, **parameters)
    return lambda **more: run(index, path, **{**parameters, **more}), confirmed, store


def test_rows_of_many_namespaces_are_resumed(index, upserts, resumable):
    again, confirmed, store = resumable
    before, sent = confirmed(), len(upserts(index))
    assert sum(count for count, _ in checkpoint_of(store)["namespaces"].values()) == len(before)
    report = again()
    resent = {record_id for request in upserts(index)[sent:] for record_id in request.ids}
    assert not resent & before
    assert (report.upserted_count, report.resumed_count) == (60, len(before))
    assert report.as_output()["namespaces"] == {"n0": 20, "n1": 20, "n2": 20}
    assert len(confirmed()) == 60


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_namespace_that_was_emptied_in_between_makes_a_retry_start_at_the_first_row(index, resumable, caplog, number):
    again, confirmed, store = resumable
    name = f"n{number}"
    had_some = name in checkpoint_of(store)["namespaces"]
    with IndexClient(index.url, ClientSettings(api_key=index.api_key)) as client:
        for namespace in client.list_namespaces():
            if namespace.name == name:
                client.delete_namespace(name)
    report = again()
    assert len(confirmed()) == 60
    assert (report.resumed_count == 0) == had_some
    assert ("Starting at the first row" in caplog.text) == had_some


def test_a_checkpoint_is_not_used_with_another_column(index, resumable, caplog):
    again, _, _ = resumable
    assert again(namespace_column=None).resumed_count == 0
    assert "Changed since then: the columns" in caplog.text
    assert len(index.vectors()) == 60


@pytest.mark.parametrize("transport", ["rest", "grpc"])
def test_it_waits_until_each_namespace_is_searchable(pinecone_index_factory, run, transport):
    index = pinecone_index_factory(dimension=2, grpc_port=0, lag_s=0.3)
    run(index, table_of(["a", "b"]), namespace_column="tenant", wait_until_searchable=True, transport=transport)
    polled = {request.namespace for request in index.requests if request.path == "/query"}
    assert polled == {"a", "b"}


# Compact checkpoints ----------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3_000), st.integers(1, 5)), max_size=200))
def test_compact_ranges_are_exact(found):
    rows = {
        name: {row for one, start, size in found if one == name for row in range(start, start + size)} for name in "ab"
    }
    ranges = [one for name in "ab" for one in row_ranges(name, sorted(rows[name]))]
    stored = orjson.loads(orjson.dumps(compact_ranges(ranges)))
    assert list(expanded_ranges(stored)) == ranges


def test_many_short_ranges_take_about_a_bit_for_each_row():
    ranges = [RowRange("s3://bucket/file.parquet", start, start + 1) for start in range(0, 40_000, 2)]
    assert len(orjson.dumps(compact_ranges(ranges))) < 8_000


@pytest.mark.parametrize("count", [0, 5, 5_000])
def test_packed_values(count):
    values = {f"tenant {number}": [number, None] for number in range(count)}
    assert unpacked(orjson.loads(orjson.dumps(packed(values)))) == values


@pytest.mark.parametrize("stored", ["?", "", [["f", 0, "?"]]])
def test_what_is_not_packed_is_an_error(stored):
    with pytest.raises(ValueError, match=r"."):
        list(expanded_ranges(stored)) if isinstance(stored, list) else unpacked(stored)
