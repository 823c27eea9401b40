"""Records in memory: every supported form is recognised, and its rows are counted correctly."""

# ruff: noqa: PD011 - the values of a record, not of a DataFrame

import datetime as dt
from collections import OrderedDict
from dataclasses import dataclass, make_dataclass
from decimal import Decimal
from types import MappingProxyType
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import BaseModel

from airflow_pinecone_upsert.api.models import Record, SparseValues
from airflow_pinecone_upsert.exceptions import RecordError, SourceError


def table(*ids):
    return pa.table({"id": list(ids), "values": pa.array([[1.0, 2.0]] * len(ids), pa.list_(pa.float32()))})


VALUES = [0.5, -0.25]
SPARSE = {"indices": [3, 1], "values": [0.5, 0.25]}
META = {"title": "x", "year": 2024}


@dataclass
class DataclassRecord:
    id: str
    values: list[float]
    metadata: dict


class ModelRecord(BaseModel):
    id: str
    values: list[float]
    metadata: dict


class ObjectRecord:
    def __init__(self, record_id, values, metadata):
        self.id, self.values, self.metadata = record_id, values, metadata


class StructRecord(ObjectRecord):
    """The form of the classes of SDK 10, which are msgspec structs and can be iterated."""

    __struct_fields__ = ("id", "values", "metadata")

    def __iter__(self):
        return iter(self.__struct_fields__)


@pytest.mark.parametrize(
    "record",
    [
        {"id": "7", "values": VALUES, "metadata": META},
        {"id": 7, "values": np.array(VALUES), "metadata": META},
        {"id": np.int64(7), "values": np.array(VALUES, np.float16), "metadata": META},
        {"id": "7", "values": tuple(VALUES), "metadata": META},
        {"id": "7", "values": [np.float32(value) for value in VALUES], "metadata": META},
        {"id": "7", "values": pd.Series(VALUES, index=["x", "y"]), "metadata": META},
        ("7", VALUES, META),
        ["7", VALUES, META],
        (7, np.array(VALUES), META),
        Record(id="7", values=VALUES, metadata=META),
        {"id": "7", "values": [VALUES], "metadata": META},
        {"id": "7", "values": np.array([VALUES]), "metadata": META},
        {"id": 7.0, "values": VALUES, "metadata": META},
        {"id": np.float32(7), "values": VALUES, "metadata": META},
        {"id": b"7", "values": VALUES, "metadata": '{"title": "x", "year": 2024}'},
        ("7", VALUES, '{"title": "x", "year": 2024}'),
        (Decimal(7), VALUES, META),
        (b"7", VALUES, META),
        DataclassRecord("7", VALUES, META),
        ModelRecord(id="7", values=VALUES, metadata=META),
        ObjectRecord("7", VALUES, META),
        StructRecord("7", VALUES, META),
    ],
    ids=lambda record: f"{type(record).__name__}",
)
def test_a_record_has_many_forms(index, run, record):
    assert run(index, [record]).upserted_count == 1
    assert index.vectors()["7"].values.tolist() == VALUES
    assert index.vectors()["7"].metadata == META


@pytest.mark.parametrize(
    "record",
    [
        {"id": "a", "values": VALUES, "sparse_values": SPARSE},
        {"id": "a", "values": VALUES, "sparseValues": SPARSE},
        {"id": "a", "values": VALUES, "sparse_values": {key: np.array(value) for key, value in SPARSE.items()}},
        Record(id="a", values=VALUES, sparse_values=SparseValues(**SPARSE)),
    ],
)
def test_sparse_values_have_two_spellings(index, run, record):
    run(index, [record, {"id": "b", "values": VALUES}])
    found = index.vectors()["a"]
    assert (found.sparse_indices.tolist(), found.sparse_values.tolist()) == (SPARSE["indices"], SPARSE["values"])
    assert index.vectors()["b"].sparse_indices is None


def test_python_values_of_metadata(index, run):
    metadata = {
        "none": None,
        "flag": np.bool_(True),
        "number": np.float32(0.5),
        "day": dt.date(2024, 2, 29),
        "time": pd.Timestamp("2024-02-29T12:00:00.000000001Z"),
        "numpy time": np.datetime64("2024-02-29T12:00:00.000000001", "ns"),
        "tags": np.array(["a", "b"]),
        "tuple": ("c",),
        "empty": [],
    }
    run(index, [("a", VALUES, metadata)])
    assert index.vectors()["a"].metadata == {
        "flag": True,
        "number": 0.5,
        "day": "2024-02-29",
        "time": "2024-02-29T12:00:00.000000001+00:00",
        "numpy time": "2024-02-29T12:00:00.000000001",
        "tags": ["a", "b"],
        "tuple": ["c"],
        "empty": [],
    }


def test_a_single_record_is_a_list_of_one(index, run):
    assert run(index, {"id": "a", "values": VALUES}).upserted_count == 1


def test_the_values_of_mapped_tasks_are_one_list(index, run, rows, upserts):
    mixture = [rows(2), [], pa.table(table("t")), (row for row in rows(2, start=2)), [[("deep", VALUES)]]]
    assert run(index, mixture).upserted_count == 6
    assert [request.ids for request in upserts(index)] == [("r0", "r1", "t", "r2", "r3", "deep")]


def test_a_generator_is_read_while_its_records_are_sent(index, run, upserts):
    requests_at_pull = []

    def records():
        for n in range(10_000):
            requests_at_pull.append(len(upserts(index)))
            yield {"id": str(n), "values": VALUES}

    report = run(index, records(), max_concurrency=1)
    assert report.upserted_count == len(index.vectors()) == 10_000
    first_pulled_after_a_request = next(n for n, requests in enumerate(requests_at_pull) if requests)
    assert first_pulled_after_a_request == 2_000  # the first record of the next chunk


def test_rows_are_counted_across_all_parts(index, run, rows):
    parts = [rows(3), table("a", "b"), pd.DataFrame(rows(2, start=10)), [("c", VALUES)], [{"id": "", "values": VALUES}]]
    with pytest.raises(RecordError, match=r" XCom, row 8 "):
        run(index, parts)


def test_rows_are_counted_across_all_chunks_of_a_table(index, run):
    ids = [*map(str, range(4_999)), ""]
    with pytest.raises(RecordError, match=r" XCom, row 4999 "):
        run(index, table(*ids))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "XCom holds None .* Did the task return a value"),
        ([None], "XCom holds None .* Did the task return a value"),
        ("s3://bucket", "XCom holds 's3://bucket' .str. where records are expected: dicts with id and values"),
        (["s3://bucket"], "id 's3://bucket'|row 0"),
        (7, r"XCom holds 7 \(int\)"),
        ([[0.1, 0.2]], r"XCom holds 0.1 \(float\)"),
        (np.ones((2, 2)), r"XCom holds 1.0 \(float64\)"),
        (np.array(1), r"XCom holds \[1\] \(ndarray\)"),
        (b"bytes", r"\(bytes\)"),
        (object(), r"\(object\)"),
        (pa.chunked_array([[1, 2]]), "ChunkedArray cannot be read as a table"),
    ],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,
)
def test_a_value_that_is_not_a_record_is_rejected_with_a_hint(*, index, run, upserts, value, message):
    with pytest.raises((SourceError, RecordError), match=message):
        run(index, value)
    assert not upserts(index)


SimpleMisspelt = make_dataclass("SimpleMisspelt", ["id", "values", "meta"])


@pytest.mark.parametrize(
    ("record", "field", "reason"),
    [
        ({"id": "a", "vector": VALUES}, "vector", "unknown key 'vector'"),
        ({"id": "a", "values": VALUES, "meta": {}}, "meta", "unknown key 'meta'"),
        (SimpleMisspelt("a", VALUES, {}), "meta", "unknown key 'meta'"),
        ({"id": "a", "values": VALUES, "metadata": '{"x": {}}'}, "metadata.x", "a nested object is not allowed"),
        (("a", VALUES, "text"), "metadata", "not valid JSON"),
        ({"id": "a", "values": "0.1 0.2"}, "values", "expected a list of numbers, got str"),
        ({"id": "a", "values": [["x"]]}, "values", "element 0 is 'x' (str), not a number"),
        ({"id": "a", "values": [[1.0], [2.0]]}, "values", "expected a flat list of numbers, got 2 dimensions"),
        (
            {"id": "a", "values": [[[1.0, 2.0], [1.0, 2.0]]]},
            "values",
            "expected a flat list of numbers, got 3 dimensions",
        ),
        ({"id": "a", "values": [[1.0], [1.0, 2.0]]}, "values", "different lengths"),
        ({"id": "a", "values": ["1", "2"]}, "values", "element 0 is '1' (str), not a number"),
        ({"id": "a", "values": [0.5, None]}, "values", "element 1 is None (NoneType), not a number"),
        ({"id": "a", "values": [np.timedelta64(1, "ns")]}, "values", "element 0 is of type timedelta64, not a number"),
        ({"id": "a", "values": [np.timedelta64(1, "us")]}, "values", "element 0 is of type timedelta64, not a number"),
        ({"id": "a", "values": np.array([1], "m8[s]")}, "values", "element 0 is of type timedelta64, not a number"),
        ({"id": "a", "values": np.ma.array(VALUES, mask=[0, 1])}, "values", "an element is masked, not a number"),
        ({"id": "a", "values": {"x": 1}}, "values", "got 0 dimensions"),
        ({"id": "a", "values": VALUES, "metadata": 5}, "metadata", "valid dictionary"),
        ({"id": "a", "values": VALUES, "metadata": {1: "x"}}, "metadata.1", "a key is a string"),
        ({"id": "a", "values": VALUES, "sparse_values": {"indices": [1]}}, "sparse_values.values", "is missing"),
        (
            {"id": "a", "values": VALUES, "sparse_values": {"indices": [1.5], "values": [1]}},
            "sparse_values.indices",
            "element 0 is 1.5, not a whole number",
        ),
        (("a", VALUES, META, "x"), "record", "a tuple of 4"),
    ],
)
def test_the_error_for_a_malformed_record_has_its_id(*, index, run, record, field, reason):
    with pytest.raises(RecordError) as caught:
        run(index, [("good", VALUES), record])
    assert (caught.value.row, caught.value.record_id, caught.value.field) == (1, "a", field)
    assert reason in caught.value.reason


@pytest.mark.parametrize("text", ["[0.5, -0.25]", " [[0.5,-2.5e-1]] "])
def test_vectors_may_be_json_text(index, run, text):
    run(index, [{"id": "7", "values": text}, ("8", VALUES)], values_format="json")
    assert [record.values.tolist() for record in index.vectors().values()] == [VALUES, VALUES]
    with pytest.raises(RecordError, match=r"^values: not a JSON array .*\(found '0.5 1'\)\. .* row 0 .* id '7'"):
        run(index, [("7", "0.5 1")], values_format="json")


@pytest.mark.parametrize("kind", ["Categorical", "Enum"])
@pytest.mark.parametrize("through_parquet", [False, True])
def test_categories_of_polars_are_text(*, index, run, tmp_path, kind, through_parquet):
    polars = pytest.importorskip("polars")
    category = polars.Categorical if kind == "Categorical" else polars.Enum(["b", "a", "x"])
    data = polars.DataFrame(
        {"id": ["a", "b"], "values": [VALUES] * 2, "category": ["x", None]},
        schema={"id": category, "values": polars.Array(polars.Float32, 2), "category": category},
    )
    source = tmp_path / "polars.parquet" if through_parquet else data
    data.write_parquet(tmp_path / "polars.parquet")
    run(index, source, metadata_columns=["category"])
    found = index.vectors()
    assert [found[record_id].metadata for record_id in ("a", "b")] == [{"category": "x"}, None]
    assert found["b"].values.tolist() == VALUES


def test_a_uuid_is_an_id_in_its_canonical_form(index, run):
    ids = [UUID(int=n) for n in range(1, 5)]
    run(index, [{"id": ids[0], "values": VALUES}, (ids[1], VALUES)])
    run(index, frame(n=[1, 2]).assign(id=ids[2:]))
    assert list(index.vectors()) == list(map(str, ids))


def test_the_sdks_classes_are_records(index, run):
    sdk = pytest.importorskip("pinecone")
    sparse = sdk.SparseValues(**SPARSE)
    records = [
        sdk.Vector(id="a", values=VALUES, metadata=META, sparse_values=sparse),
        {"id": "b", "values": VALUES, "sparse_values": sparse},
        sdk.Vector(id="c", values=VALUES),
    ]
    assert run(index, records).upserted_count == 3
    found = index.vectors()
    for record_id in "ab":
        assert found[record_id].sparse_indices.tolist() == SPARSE["indices"]
        assert found[record_id].sparse_values.tolist() == SPARSE["values"]
    assert (found["a"].metadata, found["c"].sparse_indices) == (META, None)


def test_a_vector_of_the_sdk_may_be_sparse_only(sparse_index, run):
    sdk = pytest.importorskip("pinecone")
    assert run(sparse_index, sdk.Vector(id="a", sparse_values=sdk.SparseValues(**SPARSE))).upserted_count == 1


def test_what_the_sdk_fetched_can_be_upserted(index, run):
    sdk = pytest.importorskip("pinecone")
    run(index, [("a", VALUES, META)])
    with sdk.Pinecone(api_key=index.api_key).Index(host=index.url) as client:
        fetched = client.fetch(["a"]).vectors
    run(index, list(fetched.values()), namespace="copy")
    assert index.vectors("copy")["a"].metadata == META


@pytest.mark.parametrize(
    "record_id",
    [
        True,
        1.5,
        2.0**53,
        np.float32(2**24),
        np.longdouble(2**60) + np.longdouble(0.5),
        float("nan"),
        Decimal("1e999999"),
        Decimal("7.00"),
        b"\xff",
        None,
        "\ud800",
        ["a"],
        np.timedelta64(1, "us"),
    ],
    ids=repr,
)
def test_an_invalid_id_is_rejected(index, run, record_id):
    with pytest.raises(RecordError, match=r"^id: .* Give each record an id, .* XCom, row 0 \(counted from 0\)\.$"):
        run(index, [{"id": record_id, "values": VALUES}])


# Tables in memory -------------------------------------------------------------------------------


class Stream:
    """A table of another library, with nothing but Arrow's C stream interface."""

    def __init__(self, table):
        self._table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize(
    "make",
    [
        lambda table: table,
        lambda table: table.to_batches()[0],
        lambda table: table.to_reader(),
        lambda table: [table.slice(0, 1), table.slice(1).to_reader(), table.slice(0, 0)],
        lambda table: pa.concat_tables([table.slice(0, 1), table.slice(1)]),
        Stream,
        lambda table: table.to_pandas(),
    ],
    ids=["Table", "RecordBatch", "RecordBatchReader", "list of them", "chunked Table", "C stream", "DataFrame"],
)
def test_every_type_of_table_is_read(index, run, make):
    assert run(index, make(table("a", "b"))).upserted_count == 2
    assert list(index.vectors()) == ["a", "b"]


def test_chunks_of_a_column_may_have_different_dictionaries(index, run):
    one, two = (pa.table({"id": pa.array([i]).dictionary_encode(), "values": [VALUES]}) for i in "ab")
    run(index, pa.concat_tables([one, two]))
    assert list(index.vectors()) == ["a", "b"]


def test_other_columns_of_a_table_may_have_any_type(index, run):
    run(index, table("a").append_column("other", pa.array([None], pa.list_view(pa.string_view()))))
    assert list(index.vectors()) == ["a"]


# pandas -----------------------------------------------------------------------------------------


def frame(**columns):
    count = len(next(iter(columns.values())))
    return pd.DataFrame({"id": [f"r{n}" for n in range(count)], "values": [np.array(VALUES)] * count, **columns})


def test_metadata_dicts_in_a_data_frame_may_differ_in_type(index, run):
    metadata = [
        {"n": 1},
        {"n": "text", "tags": ["a"]},
        None,
        {"n": True},
        float("nan"),
        pd.NA,
        {},
        '{"n": 2}',
        OrderedDict(n=3),
        MappingProxyType({"n": 4}),
    ]
    run(index, frame(metadata=metadata))
    found = index.vectors()
    assert [found[f"r{n}"].metadata for n in range(len(metadata))] == [
        {"n": 1},
        {"n": "text", "tags": ["a"]},
        None,
        {"n": True},
        None,
        None,
        None,
        {"n": 2},
        {"n": 3},
        {"n": 4},
    ]


@pytest.mark.parametrize(
    ("value", "field"), [({"n": [1]}, "metadata.n"), (5, "metadata"), ("[1]", "metadata"), ([{"n": 1}], "metadata")]
)
def test_metadata_in_a_data_frame_are_checked(*, index, run, value, field):
    with pytest.raises(RecordError) as caught:
        run(index, frame(metadata=[{"n": 1}, value]))
    assert (caught.value.row, caught.value.record_id, caught.value.field) == (1, "r1", field)


def test_nan_in_metadata_columns_of_a_data_frame_is_a_missing_value(index, run):
    found = frame(year=[2024, None], title=["x", float("nan")], day=[pd.Timestamp("2024-02-29"), pd.NaT])
    run(index, found, metadata_columns=["year", "title", "day"])
    assert index.vectors()["r0"].metadata == {"year": 2024, "title": "x", "day": "2024-02-29T00:00:00"}
    assert index.vectors()["r1"].metadata is None


def test_an_element_that_a_mask_hides_is_missing(index, run):
    found = frame(tags=[np.ma.array(["a"], mask=[0]), ["b"]]).assign(
        values=[np.ma.array(VALUES, mask=mask) for mask in ([0, 0], [0, 1])]
    )
    with pytest.raises(RecordError, match=r"^values: a component is null .* row 1 .*id 'r1'"):
        run(index, found, metadata_columns=["tags"])
    assert run(index, found[:1], metadata_columns=["tags"]).upserted_count == 1


def test_ids_may_be_in_the_index_of_a_data_frame(index, run):
    run(index, frame(n=[1, 2]).set_index("id"))
    assert list(index.vectors()) == ["r0", "r1"]


def test_other_columns_of_a_data_frame_may_hold_anything(index, run):
    run(index, frame(other=[object(), 1]))
    assert list(index.vectors()) == ["r0", "r1"]


def test_the_error_for_a_column_of_mixed_types_names_it(index, run):
    with pytest.raises(SourceError, match=r"The DataFrame cannot be read: .*year.* Give each column"):
        run(index, frame(year=[1, "x"]), metadata_columns=["year"])


def test_a_duplicate_column_name_in_a_data_frame_is_rejected(index, run):
    found = frame(n=[1])
    with pytest.raises(SourceError, match="The DataFrame cannot be read: Duplicate column names"):
        run(index, found.set_axis(["id", "values", "id"], axis=1))


def test_the_error_for_a_missing_column_names_the_columns_of_the_data_frame(index, run):
    with pytest.raises(SourceError, match=r"XCom has no column 'id'\. Set id_column to .*: 'values', 'key', 'n'\.$"):
        run(index, frame(n=[1]).rename(columns={"id": "key"})[["key", "values", "n"]])


def test_the_error_for_a_missing_column_of_a_wide_table_is_short(index, run):
    table = pa.table({f"column {number}": [1] for number in range(100_000)})
    with pytest.raises(SourceError, match=r"'column 19' and 99,980 more\.$") as caught:
        run(index, table)
    assert len(str(caught.value)) < 500
