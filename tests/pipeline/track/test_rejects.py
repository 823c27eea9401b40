"""Rejected records: how many, what the file contains, and what a fixed file brings back."""

import datetime as dt
import json
import math
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.api.models import Record, SparseValues
from airflow_pinecone_upsert.emulator import Fault
from airflow_pinecone_upsert.pipeline.encode.encoder import encode
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.options import Columns
from airflow_pinecone_upsert.pipeline.read.in_memory import InMemorySource
from airflow_pinecone_upsert.pipeline.track.reject_rows import SCHEMA
from airflow_pinecone_upsert.pipeline.track.rejects import Rejects, RejectsFolder
from tests.pipeline.encode.test_rules import BAD_ROW, GOOD, RULES, as_table

LOCAL = LocalFileSystem()
ZERO = [0.0, 0.0]


@pytest.fixture
def folder(tmp_path):
    return RejectsFolder(LOCAL, str(tmp_path / "rejects"))


@pytest.fixture
def upsert_all(index, run):
    """Upsert a path or a value, and reject what is invalid."""

    def upsert_all(source, folder=None, *, index=index, max_rejects=None, **options):
        return run(index, source, rejects_folder=folder, max_rejects=max_rejects, **options)

    return upsert_all


def lines(report):
    """Return the rows of the files of a report."""
    return pa.concat_tables([pq.read_table(path) for path in report.rejects_paths]).to_pylist()


def files(path):
    return sorted(found.name for found in Path(path).rglob("*") if found.is_file())


def zeros(*ids):
    return [{"id": record_id, "values": ZERO} for record_id in ids]


# How many ---------------------------------------------------------------------------------------


def test_by_default_an_invalid_record_fails_before_its_chunk_is_sent(index, upsert_all, upserts):
    with pytest.raises(
        exceptions.RecordError, match=r"^values: .* \(found \[0.0, 0.0\]\)\. Fix .* XCom, row 1 .*, id 'bad'\."
    ):
        upsert_all([GOOD, *zeros("bad")], max_rejects=0)
    assert not upserts(index)


def test_the_chunks_before_an_invalid_record_are_counted(index, run, upsert_all, rows):
    with pytest.raises(exceptions.RecordError, match="row 4500"):
        upsert_all([*rows(4_500), *zeros("bad")], max_rejects=0)
    assert run.report.upserted_count == len(index.vectors())
    assert "r4499" not in index.vectors()


@pytest.mark.parametrize("limit", [2, 3, None])
def test_invalid_records_within_the_limit_are_rejected_and_their_neighbours_upserted(*, index, upsert_all, rows, limit):
    report = upsert_all([*rows(2), *zeros("a"), *rows(2, start=2), *zeros("b")], max_rejects=limit)
    assert (report.upserted_count, report.rejected_count, report.rejects_paths) == (4, 2, ())
    assert set(index.vectors()) == {"r0", "r1", "r2", "r3"}


def test_one_more_than_the_limit_fails_and_the_message_counts(run, upsert_all, rows, folder, caplog):
    records = [*rows(2), *zeros("a", "b"), *rows(2_000, start=2), *zeros("c", "d")]
    with pytest.raises(exceptions.RecordError) as caught:
        upsert_all(records, folder, max_rejects=2)
    message = str(caught.value)
    assert message.startswith("values: a dense vector must have")
    assert message.endswith(
        "Fix the embedding or drop the record. 2 records are rejected, as many as max_rejects allows. "
        "1 more of the 6 records that were read with it break a rule, too. XCom, row 2004 (counted from 0), id 'c'."
    )
    report = run.report
    assert report.rejected_count == 4
    assert [line["id"] for line in lines(report)] == ["a", "b", "c", "d"]  # also where the task fails
    assert f"Invalid records: 4, written to {report.rejects_paths[0]}." in caplog.text


def test_the_log_says_where_the_rejected_records_are(upsert_all, folder, caplog):
    [path] = upsert_all([GOOD, *zeros("bad")], folder).rejects_paths
    assert f"Not every record was upserted. Invalid records: 1, written to {path}." in caplog.text
    caplog.clear()
    upsert_all([GOOD, *zeros("bad")])
    assert "Invalid records: 1, written nowhere." in caplog.text


def test_only_the_first_ten_are_logged(upsert_all, caplog):
    upsert_all(zeros(*map(str, range(30))))
    assert caplog.text.count("Not upserted: values: ") == 10


# What the file contains ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["XCom", "Parquet"])
def test_the_file_contains_place_reason_and_data_of_each_broken_rule(*, index, upsert_all, write, folder, way):
    cases = [case for (case,) in (parameters.values for parameters in RULES)]  # noqa: PD011 - pytest's
    tables = [as_table({**GOOD, "sparse_values": None, "metadata": None}, case.record) for case in cases]
    paths = [write(table, f"records/{number:03}.parquet") for number, table in enumerate(tables)]
    good = [{"id": f"good-{number}", "values": [1.0, 2.0]} for number in range(len(cases))]
    rows = [row for case, row in zip(cases, good, strict=True) for row in (row, case.record)]
    report = upsert_all(paths[0].parent if way == "Parquet" else rows, folder)
    assert (report.upserted_count, report.rejected_count) == (len(cases), len(cases))
    assert set(index.vectors()) == ({"good"} if way == "Parquet" else {row["id"] for row in good})
    [path] = report.rejects_paths
    assert pq.read_schema(path).equals(SCHEMA)
    for number, (case, line) in enumerate(zip(cases, lines(report), strict=True)):
        place = (str(paths[number]), BAD_ROW) if way == "Parquet" else ("XCom", 2 * number + 1)
        assert (line["file"], line["row"]) == place
        assert (line["field"], line["reason"]) == (case.field, case.reason)
        assert line["detail"] == (f"Found {case.value}. " if case.value else "") + case.remedy
        assert line["record"] is None
        found = {**line, "metadata": json.loads(line["metadata"] or "null")}
        for part in ("id", "values", "sparse_values", "metadata"):
            assert same(found[part], case.record.get(part))


def same(found, expected):
    """Compare where NaN is like NaN."""
    return repr(found) == repr(expected) or found == expected


def test_a_record_that_fits_no_column_is_kept_as_a_whole(upsert_all, folder):
    records = [
        ("tuple", [1.0, 2.0], {"a": 1}, "more"),
        {"id": "key", "values": [1.0, 2.0], "vector": [1]},
        {"id": "text", "values": ["1", 2]},
        {"id": "fraction", "values": [1.0, 2.0], "sparse_values": {"indices": [1.5], "values": [1.0]}},
        {"id": None, "values": [True, 2.0]},
        {"id": "n\ud800", "values": [1.0, 2.0]},
        {"id": "large", "values": [2**60 + 1, 10**400]},
        {"id": "deep", "values": [[[1.0]]]},
    ]
    found = lines(upsert_all(records, folder))
    assert [json.loads(line["record"]) for line in found] == [
        {"id": "tuple", "values": [1.0, 2.0], "metadata": {"a": 1}, "more": ["more"]},
        *records[1:],
    ]
    assert [line["id"] for line in found] == ["tuple", "key", "text", "fraction", None, None, "large", "deep"]
    assert [line["values"] for line in found] == [[1.0, 2.0]] * 2 + [None, [1.0, 2.0], None, [1.0, 2.0], None, None]
    assert found[3]["sparse_values"] is None  # and not the index 1


@pytest.mark.parametrize(
    ("metadata", "kept"),
    [
        ({(1, 2): "x"}, {"(1, 2)": "x"}),
        ({"n": 10**5_000}, {"n": hex(10**5_000)}),
        ({"\ud800": "x"}, {"\ud800": "x"}),
        ({"$a": Decimal("1.5"), "b": dt.date(2024, 1, 1), "c": None}, {"$a": 1.5, "b": "2024-01-01"}),
        ({"a": {"b": [Decimal("0.1"), {1}, b"x"]}}, {"a": {"b": ["0.1", [1], "b'x'"]}}),
        ({1: "x", "1": "y"}, [["1", "x"], ["1", "y"]]),
        ({"a": np.array([1, 2]), "b": np.float32(0.5)}, {"a": [1, 2], "b": 0.5}),
        ({"a": object}, {"a": repr(object)}),
    ],
    ids=range(8),
)
@pytest.mark.parametrize("form", [list, pd.DataFrame])
def test_invalid_metadata_are_kept_as_legibly_as_json_can(*, upsert_all, folder, metadata, kept, form):
    record = {"id": "a", "values": [1.0, 2.0], "metadata": metadata}
    [line] = lines(upsert_all(form([record]), folder))
    assert json.loads(line["metadata"]) == kept


def test_values_that_cannot_be_read_are_kept_in_a_readable_form(upsert_all, folder):
    text = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"a\xff"))
    at = pa.array([10**12]).view(pa.timestamp("s"))
    struct = pa.StructArray.from_arrays([text, at, pa.array([7])], names=["text", "at", "n"])
    table = pa.table({"id": text, "values": [[1.0, 2.0]], "metadata": struct})
    [line] = lines(upsert_all(table, folder))
    assert json.loads(line["metadata"]) == {"text": r"a\xff", "at": "unreadable: 1000000000000", "n": 7}
    assert (line["id"], line["values"], json.loads(line["record"])["id"]) == (None, [1.0, 2.0], r"b'a\xff'")


def test_a_map_with_a_repeated_key_loses_nothing(upsert_all, folder):
    column = pa.array([[("k", "a"), ("k", "b")]], pa.map_(pa.string(), pa.string()))
    [line] = lines(upsert_all(pa.table({"id": ["a"], "values": [[1.0, 2.0]], "metadata": column}), folder))
    assert json.loads(line["metadata"]) == [["k", "a"], ["k", "b"]]


# What a fixed file brings back -----------------------------------------------------------------

SEED = 20_261_122
NAN = float("nan")


def vectors(kind, count=4):
    """Make vectors of any float type, each with a NaN, and the same vectors without it."""
    drawn = np.random.default_rng(SEED).normal(size=(count, 2)).astype(kind)
    broken = drawn.copy()
    broken[:, 0] = NAN
    return broken, drawn


SPARSE = pa.struct([("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float32()))])
AT = dt.datetime(2024, 2, 3, 4, 5, 6, 789, dt.timezone.utc)
METADATA = {
    "struct": pa.array(
        [{"d": Decimal("1.50"), "t": 1_700_000_000_123_456_789, "n": n, "l": ["é"], "f": 0.1} for n in (1, None, 3, 4)],
        pa.struct(
            [
                ("d", pa.decimal128(5, 2)),
                ("t", pa.timestamp("ns", "UTC")),
                ("n", pa.uint64()),
                ("l", pa.list_(pa.string())),
                ("f", pa.float32()),
            ]
        ),
    ),
    "map": pa.array([[("a", 1), ("b", None)], [], None, [("c", 2**60)]], pa.map_(pa.string(), pa.int64())),
    "JSON": pa.array(['{"a": 0.1, "b": [ "x" ]}', None, "{}", '{"n": 1e3}']),
}


@pytest.mark.parametrize(
    ("metadata", "kind", "listed"),
    [
        ("struct", np.float32, "list"),
        ("map", np.float16, "fixed"),
        ("JSON", np.float64, "large_list"),
        ("map", np.float64, "fixed"),
        ("struct", np.float16, "large_list"),
    ],
)
@pytest.mark.parametrize("way", ["Parquet", "table"])
def test_a_fixed_file_brings_back_every_bit(  # noqa: PLR0917
    index, upsert_all, write, folder, bits, metadata, kind, listed, way
):
    broken, drawn = vectors(kind)
    shape = {"list": pa.list_, "large_list": pa.large_list, "fixed": lambda kind: pa.list_(kind, 2)}[listed]

    def table(numbers):
        flat = pa.array(numbers.ravel(), pa.from_numpy_dtype(kind))
        columns = pa.FixedSizeListArray.from_arrays(flat, 2).cast(shape(flat.type))
        sparse = pa.array([{"indices": [2**31 - 1, 3], "values": [0.1, 0.2]}, None] * 2, SPARSE)
        return pa.table({"key": [1, 2, 3, 4], "v": columns, "sparse_values": sparse, "m": METADATA[metadata]})

    names = {"id_column": "key", "values_column": "v", "metadata_column": "m"}
    source = write(table(broken)) if way == "Parquet" else table(broken)
    report = upsert_all(source, folder, **names)
    assert report.rejected_count == 4
    rejected = pq.read_table(report.rejects_paths[0])
    fixed = rejected.set_column(
        rejected.schema.get_field_index("values"), "values", pa.array(drawn.astype(np.float64).tolist())
    )
    assert upsert_all(write(fixed, "fixed.parquet"), namespace="fixed").upserted_count == 4
    upsert_all(table(drawn), namespace="direct", **names)
    assert_same_records(index, bits)


def assert_same_records(index, bits):
    fixed, direct = index.vectors("fixed"), index.vectors("direct")
    assert list(fixed) == list(direct)
    for record_id, found in fixed.items():
        expected = direct[record_id]
        assert bits(found.values) == bits(expected.values)
        assert found.metadata == expected.metadata
        if expected.sparse_values is not None:
            assert found.sparse_indices.tolist() == expected.sparse_indices.tolist()
            assert bits(found.sparse_values) == bits(expected.sparse_values)


METADATA_OF_PYTHON = {"d": Decimal("1.50"), "t": AT, "n": None, "big": 2**64, "l": ("x", "y"), "f": np.float32(0.1)}


def python_records(values):
    sparse = {"indices": np.array([7, 3]), "values": np.array([0.1, 0.2], np.float32)}
    return [
        {"id": 1, "values": values, "sparseValues": sparse, "metadata": METADATA_OF_PYTHON},
        {"id": "2", "values": tuple(values.tolist()), "sparse_values": SparseValues(**sparse)},
        (3, values, METADATA_OF_PYTHON),
        ["4", values.tolist()],
        Record(id="5", values=values, sparse_values=SparseValues(**sparse), metadata=METADATA_OF_PYTHON),
        {"id": b"6", "values": values.astype(np.float16)},
    ]


@pytest.mark.parametrize("frame", [False, True])
def test_a_fixed_file_brings_back_every_form_of_a_record(*, index, upsert_all, write, folder, bits, frame):
    def records(values):
        rows = python_records(np.array(values, np.float32))
        if not frame:
            return rows
        return pd.DataFrame([{"id": "a", "values": values, "metadata": METADATA_OF_PYTHON}])

    report = upsert_all(records([NAN, 0.1]), folder)
    found = pq.read_table(report.rejects_paths[0])
    assert found["record"].null_count == len(found) == report.rejected_count
    values = [
        [0.5 if value is None or math.isnan(value) else value for value in vector]
        for vector in found["values"].to_pylist()
    ]
    fixed = found.set_column(found.schema.get_field_index("values"), "values", pa.array(values))
    upsert_all(write(fixed, "fixed.parquet"), namespace="fixed")
    upsert_all(records([0.5, 0.1]), namespace="direct")
    assert len(index.vectors("fixed")) == len(found)
    assert_same_records(index, bits)


# How it is written ------------------------------------------------------------------------------


def test_a_name_that_ends_in_parquet_is_a_file_and_others_are_folders(upsert_all, tmp_path):
    for name in ("bad.parquet", "deep/bad", "bad.d/"):
        upsert_all(zeros("a"), RejectsFolder(LOCAL, str(tmp_path / name)))
    (tmp_path / "folder.parquet").mkdir()
    upsert_all(zeros("a"), RejectsFolder(LOCAL, str(tmp_path / "folder.parquet")))
    assert (tmp_path / "bad.parquet").is_file()
    for name in ("deep/bad", "bad.d", "folder.parquet"):
        [found] = (tmp_path / name).iterdir()
        assert found.name.startswith("rejects-")
        assert found.name.endswith(".parquet")


def test_no_file_is_overwritten(upsert_all, tmp_path):
    folder = RejectsFolder(LOCAL, str(tmp_path / "bad.parquet"))
    for record_id in "abc":
        upsert_all(zeros(record_id), folder)
    found = [pq.read_table(path)["id"].to_pylist() for path in tmp_path.iterdir()]
    assert sorted(found) == [["a"], ["b"], ["c"]]
    assert pq.read_table(tmp_path / "bad.parquet")["id"].to_pylist() == ["a"]


class Unseen(LocalFileSystem):
    """Another task's file appears right after the check."""

    cachable = False

    def exists(self, path, **_):
        Path(path).write_text("another task's")
        return False


def test_no_file_that_another_task_writes_at_the_same_moment_is_overwritten(upsert_all, tmp_path):
    path = tmp_path / "bad.parquet"
    report = upsert_all(zeros("a"), RejectsFolder(Unseen(), str(path)))
    assert path.read_text() == "another task's"
    assert lines(report)[0]["id"] == "a"
    assert len(files(tmp_path)) == 2


def test_a_folder_of_rejects_is_a_source(index, upsert_all, folder, tmp_path):
    upsert_all(zeros("a", "b"), folder)
    upsert_all(zeros("c"), folder)
    report = upsert_all(tmp_path / "rejects")
    assert (report.upserted_count, report.rejected_count) == (0, 3)


def test_an_object_store_gets_a_whole_file(upsert_all):
    fs = MemoryFileSystem()
    report = upsert_all(zeros("a"), RejectsFolder(fs, "/bucket/rejects"))
    [path] = report.rejects_paths
    assert path.startswith("memory://")
    with fs.open(path, "rb") as handle:
        assert pq.read_table(handle)["id"].to_pylist() == ["a"]


KILLED = """
import os, resource, signal, sys
from pathlib import Path
from fsspec.implementations.local import LocalFileSystem
from airflow_pinecone_upsert.exceptions import SetupError
from airflow_pinecone_upsert.pipeline.track.rejects import Rejects, RejectsFolder, _Files

def write(folder, moment):
    seen = []
    def kill_at(event, details):
        if event in ("open", "os.link", "os.rename", "os.remove", "os.mkdir") and str(details[0]).startswith(folder):
            seen.append(event)
            if len(seen) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(kill_at)
    written = _Files(RejectsFolder(LocalFileSystem(), folder + "/bad.parquet"))
    for number in range(2):  # a new file, and the same one grown
        written.add([{"row": number, "detail": "x" * 100_000}])
        written.write()

for moment in range(14):
    folder = f"{sys.argv[1]}/{moment}"
    if not (child := os.fork()):
        write(folder, moment)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    write(f"{sys.argv[1]}/full", 0)
except SetupError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Write rejects in processes that are killed at every step of it, and on a disk that is full."""
    folder = tmp_path_factory.mktemp("killed")
    output = subprocess.run([sys.executable, "-c", KILLED, folder], check=True, capture_output=True, text=True).stdout
    return folder, output.splitlines()


def test_a_process_killed_while_writing_leaves_no_partial_file(killed):
    folder, output = killed
    assert output.count("-9") >= 7
    assert output.count("0") >= 2  # moment 0 kills nothing, and the last ones are not reached
    for path in folder.rglob("*.parquet"):
        assert pq.read_table(path)["row"].to_pylist() in ([0], [0, 1])


def test_a_full_disk_leaves_nothing_and_is_reported(killed):
    folder, output = killed
    assert "Rejected records cannot be written to" in output[-1]
    assert "File too large" in output[-1]
    assert not files(folder / "full")


@pytest.mark.parametrize("records", [zeros("bad"), [GOOD, *zeros("bad")]])
def test_a_path_that_cannot_be_written_fails_and_says_so(upsert_all, tmp_path, records):
    (tmp_path / "file").touch()
    with pytest.raises(
        exceptions.SetupError, match=r"Rejected records cannot be written to .*file/rejects: .*Fix rejects_path"
    ):
        upsert_all(records, RejectsFolder(LOCAL, str(tmp_path / "file/rejects")))
    assert files(tmp_path) == ["file"]


class OutOfOrder(fsspec.AbstractFileSystem):
    """A storage that raises an unusual error."""

    protocol = "outoforder"

    def info(self, *_, **__):
        raise LookupError("no credentials")

    exists = isdir = pipe_file = info


def test_any_error_of_a_storage_is_reported(upsert_all):
    with pytest.raises(
        exceptions.SetupError,
        match="Rejected records cannot be written to outoforder://bucket: LookupError: no credentials",
    ):
        upsert_all(zeros("bad"), RejectsFolder(OutOfOrder(), "bucket"))


def test_a_path_that_cannot_be_written_hides_no_earlier_error(index, upsert_all, rows, tmp_path, caplog):
    (tmp_path / "file").touch()
    index.faults.next(Fault.body(401, b"Invalid API Key"), path="/vectors/upsert")
    with pytest.raises(exceptions.AuthenticationError, match="Invalid API Key"):
        upsert_all([*rows(1), *zeros("bad")], RejectsFolder(LOCAL, str(tmp_path / "file/rejects")))
    assert "cannot be written" in caplog.text
    caplog.clear()
    with pytest.raises(exceptions.RecordError, match="id 'bad'"):
        upsert_all([*rows(1), *zeros("bad")], RejectsFolder(LOCAL, str(tmp_path / "file/rejects")), max_rejects=0)
    assert "cannot be written" in caplog.text


def test_a_record_in_any_file_of_an_earlier_try_is_not_written_again(folder):
    """The first file may have grown after the last checkpoint that counts its records, and then another try wrote one."""
    shape = IndexShape(2)
    (chunk,) = InMemorySource(zeros(*"abc"), Columns()).chunks(shape)
    errors = encode(chunk, shape, max_bytes=1_000).errors
    paths = []
    for rows in ([0], [1], [0, 1, 2]):
        rejects = Rejects(None, folder, len(paths), paths)
        rejects.take_rows(chunk, [errors[row] for row in rows])
        rejects.write()
        paths = list(rejects.paths)
    assert [pq.read_table(path)["row"].to_pylist() for path in paths] == [[0], [1], [2]]


# What the server rejects ------------------------------------------------------------------------


@pytest.fixture
def cosine_index(pinecone_index_factory):
    """An index that takes no sparse vectors, whose statistics do not report its metric: only the server knows."""
    index = pinecone_index_factory(dimension=2, metric="cosine", grpc_port=0)
    stats = b'{"namespaces": {}, "dimension": 2, "totalVectorCount": 0}'
    index.faults.next(Fault.body(200, stats, "application/json"), path="/describe_index_stats")
    return index


@pytest.mark.parametrize("bad", [{0}, {137}, {999}, {3, 4}, {0, 500, 999}])
def test_the_records_that_the_server_rejects_are_found_by_halving(
    *, cosine_index, upsert_all, upserts, folder, transport, bad
):
    index = cosine_index
    sparse = {"sparse_values": {"indices": [1], "values": [0.5]}}
    records = [{"id": f"r{n}", "values": [1.0, n], "metadata": {"n": n}, **(sparse if n in bad else {})} for n in range(1_000)]  # fmt: skip
    report = upsert_all(records, folder, index=index, transport=transport)
    assert (report.upserted_count, report.rejected_count) == (1_000 - len(bad), len(bad))
    assert set(index.vectors()) == {f"r{n}" for n in range(1_000) if n not in bad}
    assert len(upserts(index)) <= 1 + len(bad) * 2 * math.ceil(math.log2(1_000))
    for line, n in zip(sorted(lines(report), key=lambda line: line["row"]), sorted(bad), strict=True):
        assert (line["file"], line["row"], line["id"], line["field"]) == ("XCom", n, f"r{n}", "record")
        assert "400 “Index configuration does not support sparse values" in line["reason"]
        assert (line["values"], line["sparse_values"], line["metadata"]) == ([1.0, n], sparse["sparse_values"], f'{{"n": {n}}}')  # fmt: skip


def test_the_record_that_the_server_rejects_is_named_where_none_is_allowed(
    cosine_index, run, upsert_all, upserts, folder
):
    index = cosine_index
    records = [{"id": f"r{n}", "values": [1.0, n]} for n in range(64)]
    records[41]["sparse_values"] = {"indices": [1], "values": [0.5]}
    with pytest.raises(exceptions.RecordError) as caught:
        upsert_all(records, folder, index=index, max_rejects=0)
    assert str(caught.value).startswith(
        "record: the server rejects this record, even on its own: "
        "400 “Index configuration does not support sparse values"
    )
    assert str(caught.value).endswith(" XCom, row 41 (counted from 0), id 'r41'.")
    assert caught.value.response.status == 400
    assert run.report.upserted_count == len(index.vectors()) < 64
    assert len(upserts(index)) <= 1 + 2 * 6
    assert [line["id"] for line in lines(run.report)] == ["r41"]


# How much memory it takes -----------------------------------------------------------------------


def test_files_are_finished_once_they_are_large(tmp_path):
    count, dimension = 2_500, 1_000
    rejects = Rejects(None, RejectsFolder(LOCAL, str(tmp_path)))
    ids = pa.array(range(count))
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(count * dimension, np.float32)), dimension)
    shape = IndexShape(dimension + 1)
    held = 0
    for chunk in InMemorySource(pa.table({"id": ids, "values": values}), Columns()).chunks(shape):
        rejects.take_rows(chunk, encode(chunk, shape, max_bytes=10**6).errors)
        held = max(held, rejects._files._size)
    rejects.write()
    assert held < 16_000_000
    assert len(rejects.paths) == 2
    assert [row for path in rejects.paths for row in pq.read_table(path)["row"].to_pylist()] == list(range(count))
