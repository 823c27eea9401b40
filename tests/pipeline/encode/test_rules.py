"""Every rule of Pinecone for records is checked before any record of the chunk is sent."""

# ruff: noqa: PD011 - the values of a record, not of a DataFrame

import pickle
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from airflow_pinecone_upsert.emulator import Fault
from airflow_pinecone_upsert.exceptions import RecordError, SourceError

NAN = float("nan")
INF = float("inf")
GOOD = {"id": "good", "values": [1.0, 2.0]}
BAD_ROW = 1

ID = "An id has 1 to 512 ASCII characters, none of them NUL. Change it at its source."
FIX_VECTOR = "Fix the embedding or drop the record."
FINITE = f"Components are numbers between ±3.4e38. {FIX_VECTOR}"
INDICES = "Indices are distinct whole numbers from 0 to 4,294,967,295."


class Case(NamedTuple):
    """A record that breaks a rule, and what the error says about it."""

    record: dict[str, Any]
    field: str
    reason: str
    remedy: str
    value: str | None


def case(name, field, reason, remedy, value, **record):
    return pytest.param(Case({"id": "bad", "values": [1.0, 2.0], **record}, field, reason, remedy, value), id=name)


def vector(name, reason, remedy, value, values):
    return case(name, "values", reason, remedy, value, values=values)


def sparse(name, field, reason, remedy, value, indices, values):  # noqa: PLR0917
    return case(name, field, reason, remedy, value, sparse_values={"indices": indices, "values": values})


def metadata(name, reason, remedy, value, key="key"):
    return case(name, f"metadata.{key}", reason, remedy, repr(value), metadata={key: value})


RULES = [
    case("empty id", "id", "the id is empty", ID, "''", id=""),
    case("long id", "id", "the id has 513 characters", ID, f"'{'x' * 78}…", id="x" * 513),
    case("id not ASCII", "id", "the id is not ASCII", ID, "'né'", id="né"),
    case("NUL in id", "id", "the id contains a NUL", ID, r"'a\x00'", id="a\0"),
    vector(
        "wrong dimension",
        "the vector must have 2 components",
        "The index has 2 dimensions. Embed with the model that it was made for.",
        "3",
        [1.0, 2.0, 3.0],
    ),
    vector("NaN", "component 1 is not a finite float32", FINITE, "nan", [1.0, NAN]),
    vector("infinite", "component 0 is not a finite float32", FINITE, "-inf", [-INF, 1.0]),
    vector("beyond float32", "component 1 is not a finite float32", FINITE, "1e+39", [1.0, 1e39]),
    vector("no vector", "the vector is missing", FIX_VECTOR, "None", None),
    vector("empty vector", "the vector is empty", FIX_VECTOR, "[]", []),
    *(
        vector(
            name,
            "a dense vector must have at least one component that is not zero (after rounding to float32)",
            FIX_VECTOR,
            value,
            values,
        )
        for name, value, values in [("zeros", "[0.0, -0.0]", [0.0, -0.0]), ("tiny", "[0.0, 0.0]", [1e-46, 0.0])]
    ),
    sparse(
        "sparse lengths differ",
        "sparse_values",
        "indices and values differ in length",
        "Fix the sparse vector or leave it null.",
        "'2 indices, 1 values'",
        [1, 2],
        [0.5],
    ),
    sparse(
        "sparse empty",
        "sparse_values",
        "a sparse vector has at least one entry",
        "Fix the sparse vector or leave it null.",
        "'0 indices, 0 values'",
        [],
        [],
    ),
    sparse(
        "sparse too long",
        "sparse_values",
        "a sparse vector has at most 2,048 entries",
        "Keep the entries of the largest weight.",
        "'2049 indices, 2049 values'",
        list(range(2_049)),
        [0.5] * 2_049,
    ),
    sparse("index twice", "sparse_values.indices", "an index occurs twice", INDICES, "7", [7, 8, 7], [0.1, 0.2, 0.3]),
    sparse("index negative", "sparse_values.indices", "an index is not a uint32", INDICES, "-1", [3, -1], [0.1, 0.2]),
    sparse(
        "index too high", "sparse_values.indices", "an index is not a uint32", INDICES, "4294967296", [2**32], [0.1]
    ),
    sparse(
        "sparse NaN", "sparse_values.values", "component 1 is not a finite float32", FINITE, "nan", [1, 2], [1.0, NAN]
    ),
    case(
        "metadata too long",
        "metadata",
        "the metadata are 40,961 bytes of JSON, the limit is 40,960",
        "Shorten or drop the longest key, 'text'; store long text elsewhere.",
        None,
        metadata={"text": "x" * (40_961 - len('{"text":"","n":1}')), "n": 1},
    ),
    metadata("nested", "a nested object is not allowed", "Flatten it into keys of its own.", {"deep": 1}),
    metadata("NaN in metadata", "a number must be finite", "Leave the key out or set a number.", NAN),
    metadata(
        "inexact integer",
        "Pinecone stores numbers as float64, which cannot hold this integer exactly",
        "Store it as a string.",
        2**53 + 1,
    ),
    case(
        "list of numbers",
        "metadata.key",
        "a list may hold strings only",
        "Turn its elements into strings.",
        "2",
        metadata={"key": [2, 3]},
    ),
    case(
        "dollar",
        "metadata.$key",
        "a key is a string that does not start with '$'",
        "Rename the key.",
        "'$key'",
        metadata={"$key": 1},
    ),
]


def text_with_invalid_utf_8(large):
    """Make a column of "a", 0xff, "b"."""
    kind, width = (pa.LargeStringArray, np.int64) if large else (pa.StringArray, np.int32)
    return kind.from_buffers(3, pa.py_buffer(np.array([0, 1, 2, 3], width)), pa.py_buffer(b"a\xffb"))


def as_map(keys):
    return pa.MapArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), keys, pa.array([1, 2, 3]))


def as_json(text):
    encoded = [b'{"k":"%b"}' % part.as_buffer().to_pybytes() for part in text]
    return pa.array(encoded, pa.binary()).view(pa.string())


SPARK = pa.struct(
    [("type", pa.int8()), ("size", pa.int32()), ("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float64()))]
)
"""How Spark stores its own vectors, ``VectorUDT``."""


def as_table(*records):
    columns = {
        "id": pa.array([record.get("id") for record in records], pa.string()),
        "values": pa.array([record["values"] for record in records], pa.list_(pa.float64())),
    }
    for name in ("sparse_values", "metadata"):
        if any(name in record for record in records):
            columns[name] = pa.array([record.get(name) for record in records])
    return pa.table(columns)


def check(error, case, origin):
    """The error has the position, the rule, the value and the remedy, both in its text and as attributes."""
    known_id = None if case.field == "id" else "bad"
    assert (error.origin, error.row, error.record_id, error.field) == (origin, BAD_ROW, known_id, case.field)
    assert (error.reason, error.remedy, error.value) == (case.reason, case.remedy, case.value)
    id_text = f", id {known_id!r}" if known_id else ""
    found = f" (found {case.value})" if case.value else ""
    assert str(error) == (
        f"{case.field}: {case.reason}{found}. {case.remedy} {origin}, row 1 (counted from 0){id_text}."
    )
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (str(copy), vars(copy)) == (str(error), vars(error))


@pytest.mark.parametrize("case", RULES)
def test_an_invalid_record_in_xcom_is_rejected_before_anything_is_sent(index, run, upserts, case):
    with pytest.raises(RecordError) as caught:
        run(index, [GOOD, case.record])
    check(caught.value, case, "XCom")
    assert not upserts(index)


@pytest.mark.parametrize("case", RULES)
def test_an_invalid_record_in_parquet_is_rejected_before_anything_is_sent(
    *, index, run, upserts, write, transport, case
):
    path = write(as_table(GOOD, case.record))
    with pytest.raises(RecordError) as caught:
        run(index, path, transport=transport)
    check(caught.value, case, str(path))
    assert not upserts(index)


# Rules whose messages differ between XCom and Parquet --------------------------------------------


@pytest.mark.parametrize("record", [{"values": [1.0, 2.0]}, {"id": None, "values": [1.0, 2.0]}])
def test_a_missing_id_is_rejected(index, run, write, record):
    with pytest.raises(
        RecordError, match=r"^id: the id is missing.* Give each record .* XCom, row 1 \(counted from 0\)\.$"
    ):
        run(index, [GOOD, record])
    with pytest.raises(RecordError, match=r"^id: the id is missing \(found None\)\. Give .*records.parquet, row 1 "):
        run(index, write(as_table(GOOD, record)))


def test_a_null_component_is_rejected(index, run, write):
    record = {"id": "bad", "values": [1.0, None]}
    with pytest.raises(RecordError, match=r"^values: a component is null.* id 'bad'"):
        run(index, write(as_table(GOOD, record)))
    with pytest.raises(RecordError, match=r"^values: element 1 is None .*not a number.* id 'bad'"):
        run(index, [GOOD, record])


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()], ids=str)
@pytest.mark.parametrize("broken", [None, NAN, INF])
def test_an_invalid_component_is_found_in_every_float_type(*, index, run, write, kind, broken):
    flat = pa.array([1, 2, 3, broken], pa.float32(), from_pandas=False).cast(kind)
    path = write({"id": ["a", "b"], "values": pa.FixedSizeListArray.from_arrays(flat, 2)})
    with pytest.raises(RecordError) as caught:
        run(index, path)
    assert (caught.value.row, caught.value.record_id, caught.value.field) == (1, "b", "values")


def test_too_many_components_for_any_index_are_rejected(index, run):
    index.faults.next(Fault.status(403), path="/describe_index_stats")  # so that the dimension is unknown
    with pytest.raises(RecordError, match=r"a vector has at most 20,000 components \(found 20001\)"):
        run(index, [{"id": "a", "values": np.ones(20_001)}])


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        ('{"year": ', "metadata", "not valid JSON"),
        ("", "metadata", "not valid JSON"),
        ('{"n": NaN}', "metadata", "not valid JSON"),
        ("[1]", "metadata", "the JSON is not an object"),
        ('"text"', "metadata", "the JSON is not an object"),
        ('{"n": 9007199254740993}', "metadata.n", "cannot hold this integer exactly"),
        ('{"n": 18446744073709551617}', "metadata.n", "cannot hold this integer exactly"),
        ('{"n": -18446744073709551617}', "metadata.n", "cannot hold this integer exactly"),
        ('{"n": [1]}', "metadata.n", "a list may hold strings only"),
        ('{"n": {"deep": 1}}', "metadata.n", "a nested object is not allowed"),
        ('{"$n": 1}', "metadata.$n", "a key is a string that does not start with '$'"),
        (f'{{"n": 1{"0" * 400}}}', "metadata", "not valid JSON"),
        ('{"n": 1e999999}', "metadata", "not valid JSON"),
        ('{"n": 1e-999999}', "metadata.n", "would change this one to 0.0"),
        ('{"n": 1.2345e-320}', "metadata.n", "would change this one to 1.2347e-320"),
        ('{"n": 0.12345678901234567890}', "metadata.n", "would change this one to 0.12345678901234568"),
        ('{"n": 9007199254740993.0}', "metadata.n", "would change this one to 9007199254740992.0"),
        ('{"n": 0.5, "n": 0.5}', "metadata", "the JSON contains a key twice"),
        ('{"n": "a:b", "n" : "c"}', "metadata", "the JSON contains a key twice"),
        (r'{"n": "\u003a", "n" : "c"}', "metadata", "the JSON contains a key twice"),
        (r'{"k\":5,": 1, "k\\": 0.12345678901234567890}', "metadata.k\\", "would change this one"),
    ],
)
def test_invalid_json_text_is_rejected(*, index, run, write, text, field, reason):
    path = write({"id": ["good", "bad"], "values": [[1.0, 2.0]] * 2, "metadata": [None, text]})
    with pytest.raises(RecordError) as caught:
        run(index, path)
    assert (caught.value.row, caught.value.record_id, caught.value.field) == (1, "bad", field)
    assert reason in caught.value.reason


def test_json_text_that_is_nested_too_deep_for_python_is_rejected(index, run, write):
    text = f'{{"f": 1e0, "n": {"[" * 1_010}{"]" * 1_010}}}'  # orjson accepts 1,024 levels
    path = write({"id": ["bad"], "values": [[1.0, 2.0]], "metadata": [text]})
    with pytest.raises(RecordError, match=r"^metadata.* id 'bad'\.$"):
        run(index, path)


@pytest.mark.parametrize(
    "value",
    [
        10**5_000,
        np.datetime64("NaT", "us"),
        np.timedelta64(1, "ns"),
        b"bytes",
        object,
        1j,
        {"a", "set"},
        "a lone surrogate \ud800",
        ["\ud800"],
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_python_value_that_is_not_metadata_is_rejected(index, run, value):
    with pytest.raises(RecordError, match=r"^metadata.* row 0 .*, id 'a'\.$"):
        run(index, [{"id": "a", "values": [1.0, 2.0], "metadata": {"key": value}}])


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (Decimal("sNaN"), "a number must be finite"),
        (Decimal("-Infinity"), "a number must be finite"),
        (Decimal("1e999999"), "would change this one to inf"),
        (Decimal("1e-999999"), "would change this one to 0.0"),
        (Decimal("-1e-400"), "would change this one to -0.0"),
        (Decimal("12345678901234567.89"), "would change this one to 1.2345678901234568e+16"),
        (Decimal(2**53 + 1), "would change this one to 9007199254740992.0"),
        (np.longdouble("0.1"), "would change this one to 0.1"),
        (10**1_000_000, "cannot hold this integer exactly"),
        (pd.Period("2024-01"), "a value of type Period is not allowed"),
        (np.ma.array(["a", "b"], mask=[0, 1]), "an element is masked"),
        (np.ma.masked, "an element is masked"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_value_that_would_be_stored_as_another_is_rejected(*, index, run, number, reason):
    with pytest.raises(RecordError) as caught:
        run(index, [GOOD, {**GOOD, "id": "bad", "metadata": {"key": number}}])
    assert (caught.value.row, caught.value.record_id, caught.value.field) == (1, "bad", "metadata.key")
    assert reason in caught.value.reason


def test_a_decimal_column_of_numbers_that_float64_does_not_hold_is_rejected(index, run, write):
    column = pa.array([Decimal("0.1"), Decimal("12345678901234567.89")], pa.decimal128(30, 2))
    path = write({"id": ["good", "bad"], "values": [[1.0, 2.0]] * 2, "key": column})
    with pytest.raises(RecordError, match=r"^metadata.key: .* \(found 12345678901234567.89\)\. Round it, or"):
        run(index, path, metadata_columns=["key"])


def test_a_duplicate_key_in_a_map_is_rejected(index, run):
    column = pa.array([[("k", "a"), ("k", "b")]], pa.map_(pa.string(), pa.string()))
    with pytest.raises(RecordError, match="metadata: the map contains a key twice"):
        run(index, pa.table({"id": ["a"], "values": [[1.0, 2.0]], "metadata": column}))


def test_metadata_of_exactly_the_limit_are_accepted(index, run, transport):
    text = "é" * ((40_960 - len('{"t":""}')) // 2)  # the limit counts bytes, not characters
    run(index, [{"id": "a", "values": [1.0, 2.0], "metadata": {"t": text}}], transport=transport)
    assert index.vectors()["a"].metadata == {"t": text}
    with pytest.raises(RecordError, match="40,962 bytes"):
        run(index, [{"id": "a", "values": [1.0, 2.0], "metadata": {"t": f"{text}é"}}], transport=transport)


def test_a_record_too_large_for_a_request_is_rejected(index, run, upserts, transport):
    record = {"id": "a", "values": [1.0, 2.0], "metadata": {"text": "x" * 1_000}}
    with pytest.raises(RecordError) as caught:
        run(index, [GOOD, record], max_request_bytes=1_000, namespace="ns", transport=transport)
    assert caught.value.field == "record"
    limit, size = {
        "rest": ("969 bytes of JSON", len(b'{"id":"a","values":[1.0,2.0],"metadata":{"text":""}}') + 1_000),
        # The namespace has 4 bytes; the id 3, the vector 10, the metadata 3 + 3 + 6 + 3 + 3 and the record 3 around the text.
        "grpc": ("996 bytes of protobuf", 1_000 + 34),
    }[transport]
    assert caught.value.reason == f"the record must have at most {limit} to fit into a request"
    assert caught.value.value == str(size)
    assert "Raise max_request_bytes" in caught.value.remedy
    assert not upserts(index)


def test_the_error_says_how_many_more_records_of_the_chunk_are_invalid(index, run):
    with pytest.raises(
        RecordError, match=r" 2 more of the 4 records that were read with it break a rule, too\. .*row 1 "
    ):
        run(index, [GOOD, *({"id": f"bad{n}", "values": [0.0, 0.0]} for n in range(3))])


def test_the_error_names_the_first_broken_rule_of_a_record(index, run):
    with pytest.raises(RecordError, match="id: the id is empty"):
        run(index, [{"id": "", "values": [], "sparse_values": {"indices": [], "values": []}}])


def test_chunks_before_an_invalid_one_are_sent_and_counted(index, run, rows):
    with pytest.raises(RecordError) as caught:
        run(index, [*rows(2_000), {"id": "bad", "values": []}])
    assert caught.value.row == 2_000
    assert run.report.upserted_count == len(index.vectors()) == 2_000


# Dense, sparse and hybrid ------------------------------------------------------------------------


def test_a_sparse_index_rejects_dense_values(sparse_index, run):
    record = {"id": "a", "values": [1.0], "sparse_values": {"indices": [1], "values": [0.5]}}
    with pytest.raises(RecordError, match="values: the index holds sparse vectors only"):
        run(sparse_index, [record])


def test_a_sparse_index_requires_sparse_values(sparse_index, run):
    with pytest.raises(RecordError, match="sparse_values: the index holds sparse vectors, and there is none"):
        run(sparse_index, [{"id": "a"}])


def test_a_dense_index_requires_dense_values(index, run):
    with pytest.raises(RecordError, match="values: the vector is missing"):
        run(index, [{"id": "a", "sparse_values": {"indices": [1], "values": [0.5]}}])


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        (pa.array([1.0, 1.5]), "the id is not a whole number"),
        (pa.array([1.0, float("nan")]), "the id is not a whole number"),
        (pa.array([1.0, float("inf")]), "the id is not a whole number"),
        (pa.array([1.0, 2.0**53]), "last digits may have been rounded"),
        (pa.array([1.0, 2.0**24], pa.float32()), "last digits may have been rounded"),
        (pa.array(np.array([1, 2**11], np.float16)), "last digits may have been rounded"),
        (pa.array([b"1", b"\xff"]), "the id is not UTF-8 text"),
    ],
    ids=str,
)
def test_an_id_that_is_not_exactly_text_or_a_whole_number_is_rejected(*, index, run, write, ids, reason):
    path = write({"id": ids, "values": [[1.0, 2.0]] * 2})
    with pytest.raises(RecordError, match=f"^id: .*{reason} .* row 1 "):
        run(index, path)
    assert run(index, path, max_rejects=None).upserted_count == 1


# Whole columns -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "missing", "parameter"),
    [
        ({}, "id", "id_column"),
        ({"id_column": "key", "values_column": "embedding"}, "embedding", "values_column"),
        ({"id_column": "key", "values_column": "vec", "sparse_values_column": "sp"}, "sp", "sparse_values_column"),
        ({"id_column": "key", "values_column": "vec", "metadata_column": "meta"}, "meta", "metadata_column"),
        ({"id_column": "key", "values_column": "vec", "metadata_columns": ["year"]}, "year", "metadata_columns"),
    ],
)
def test_the_error_for_a_missing_column_names_the_columns_and_the_parameter(
    *, index, run, write, options, missing, parameter
):
    path = write({"key": ["a"], "vec": [[1.0, 2.0]], "other": [1]})
    with pytest.raises(SourceError) as caught:
        run(index, path, **options)
    assert str(caught.value) == (
        f"{path} has no column {missing!r}. Set {parameter} to one of its columns. Its columns: 'key', 'vec', 'other'."
    )


TITLED = {"id": ["a"], "values": [[1.0, 2.0]], "title": ["x"], "Metadata": ["{}"]}


@pytest.mark.parametrize("form", ["file", "files", "Table", "DataFrame"])
@pytest.mark.parametrize(
    ("more", "options", "level", "names"),
    [
        ({}, {}, "WARNING", "no column of metadata, and columns that are not used: 'title', 'Metadata'. Name those"),
        ({"metadata": ["{}"]}, {}, "INFO", ": columns that are not used: 'title', 'Metadata'."),
        ({}, {"metadata_columns": ["title"]}, "INFO", ": columns that are not used: 'Metadata'."),
        ({}, {"metadata_columns": ["title", "Metadata"]}, None, ""),
    ],
    ids=["no metadata", "metadata", "one metadata column", "all used"],
)
def test_columns_that_become_nothing_are_logged_once(*, index, run, write, caplog, form, more, options, level, names):
    caplog.set_level("INFO")
    table = pa.table(TITLED | more)
    if form.startswith("file"):
        [path, *_] = [write(table, f"{form}/{n}.parquet") for n in range(1 if form == "file" else 3)]
        source = path.parent
    else:
        source = [table if form == "Table" else pd.DataFrame(TITLED | more)] * 3
    run(index, source, **options)
    logged = [record for record in caplog.records if "not used" in record.message]
    assert [record.levelname for record in logged] == ([level] if level else [])
    assert all(names in record.message for record in logged)


def test_the_index_that_pandas_writes_is_not_an_unused_column(index, run, tmp_path, caplog):
    caplog.set_level("INFO")
    pd.DataFrame({"id": ["a"], "values": [[1.0, 2.0]]}, index=[7]).to_parquet(tmp_path / "a.parquet")
    run(index, tmp_path / "a.parquet")
    assert "not used" not in caplog.text


def test_a_dense_index_requires_a_column_of_dense_values(index, run, write):
    path = write({"id": ["a"], "sparse_values": [{"indices": [1], "values": [0.5]}]})
    with pytest.raises(SourceError, match=r"no column 'values'.* Set values_column"):
        run(index, path)


def tensor_column():
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.array([[1, 2]], np.float32))


@pytest.mark.parametrize(
    ("part", "column"),
    [
        ("id", pa.array([b"0" * 16], pa.binary(16))),
        ("id", pa.array([Decimal("7.00")])),
        ("id", pa.array([True])),
        ("id", pa.array([0], pa.timestamp("s"))),
        ("id", pa.array([["a"]])),
        ("values", pa.array(["[1, 2]"])),
        ("values", pa.array([1.0])),
        ("values", pa.array([["1", "2"]])),
        ("values", pa.array([[[[1.0, 2.0]]]])),
        ("values", pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((1, 2, 2), np.float32))),
        ("values", pa.array([b"12345678"])),
        ("values", pa.array([[True, False]])),
        ("values", pa.array([[1, 2]], pa.list_(pa.decimal128(5, 2)))),
        ("values", pa.array([[1.0, 2.0]], pa.list_view(pa.float32()))),
        ("sparse_values", pa.array([[1.0]])),
        ("sparse_values", pa.array([{"indices": [1]}])),
        ("sparse_values", pa.array([{"indices": [1.5], "values": [0.5]}])),
        ("metadata", pa.array([1])),
        ("metadata", pa.array([["a"]])),
        ("metadata", pa.array([{"metadata": b"1", "value": b"2"}])),
        ("metadata", pa.array([b"{}"])),
        ("sparse_values", pa.array([[(1, 0.5)]], pa.map_(pa.int32(), pa.float32()))),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_the_error_for_a_column_of_a_wrong_type_names_the_type(*, index, run, upserts, part, column):
    columns = {"id": pa.array(["a"]), "values": pa.array([[1.0, 2.0]]), part: column}
    with pytest.raises(SourceError, match=f"XCom: column '{part}' is of type .* set {part}_column to another column"):
        run(index, pa.table(columns))
    assert not upserts(index)


def test_a_tensor_column_may_hold_vectors(index, run):
    run(index, pa.table({"id": ["a"], "values": tensor_column()}))
    assert index.vectors()["a"].values.tolist() == [1, 2]


PERIOD = pa.Table.from_pandas(pd.DataFrame({"month": pd.period_range("2024-01", periods=1, freq="M")}))
UNKNOWN_PERIOD = pa.field("month", pa.int64(), metadata={b"ARROW:extension:name": b"pandas.period"})


@pytest.mark.parametrize("options", [{"id_column": "month"}, {"metadata_columns": ["month"]}, {}], ids=repr)
@pytest.mark.parametrize(
    ("field", "column"),
    [
        pytest.param(PERIOD.field(0), PERIOD.column(0).combine_chunks(), id="read with pandas"),
        pytest.param(UNKNOWN_PERIOD, pa.array([648]), id="read without pandas"),
    ],
)
def test_a_column_whose_numbers_are_not_its_values_is_rejected(*, index, run, field, column, options):
    struct = pa.StructArray.from_arrays([column], fields=[field])
    table = pa.table({"id": ["a"], "values": [[1.0, 2.0]], "metadata": struct}).append_column(field, column)
    with pytest.raises(SourceError, match=r"month' is of type pandas.period, whose stored numbers are not its values"):
        run(index, table, **options)


@pytest.mark.parametrize(
    ("part", "kind", "hint"),
    [
        ("id", pa.binary(16), "Cast it to text; if it contains UUIDs, to UUID or to their text"),
        ("id", pa.decimal128(9, 2), "Cast it to integers or to text"),
        ("id", pa.date32(), "Cast it to text"),
        ("id", pa.list_(pa.string()), "Name a column of single values"),
        ("values", pa.string(), 'Set values_format="json" if it contains text such as [0.1, 0.2]'),
        ("values", pa.binary(), "Convert the bytes to lists, for example with np.frombuffer"),
        ("values", pa.float32(), "Combine the components into one list in each row"),
        ("values", pa.list_(pa.string()), "Cast its elements to float"),
        ("values", pa.list_(pa.list_(pa.list_(pa.float32()))), "Flatten it to one list of numbers in each row"),
        ("values", pa.fixed_shape_tensor(pa.float32(), [2, 2]), "Flatten it to one list of numbers in each row"),
        ("values", pa.list_view(pa.float32()), "Cast it from a list view to a list"),
        ("sparse_values", pa.map_(pa.int32(), pa.float32()), "Convert it to a struct of the maps' keys as indices"),
        ("sparse_values", pa.struct([("index", pa.list_(pa.int32()))]), "Name its fields indices and values"),
        ("sparse_values", pa.string(), "Convert it to a struct of two lists"),
        ("metadata", pa.struct([("metadata", pa.binary()), ("value", pa.binary())]), "Cast the VARIANT to JSON text"),
        ("metadata", pa.int64(), "Name it in metadata_columns, so that it becomes a key of the metadata"),
        ("metadata", pa.binary(), "Cast it to text"),
    ],
    ids=str,
)
def test_the_error_for_a_type_that_does_not_fit_ends_with_a_hint(*, index, run, part, kind, hint):
    columns = {"id": pa.array(["a"]), "values": pa.array([[1.0, 2.0]]), part: pa.nulls(1, kind)}
    with pytest.raises(SourceError) as caught:
        run(index, pa.table(columns))
    assert hint in str(caught.value)
    assert str(caught.value).endswith(f", or set {part}_column to another column.")


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([[[1.0, 2.0]], [[1.0, 2.0], [3.0, 4.0]]]), "expected one list of numbers, got 2 of them"),
        (pa.array([[[1.0, 2.0]], []]), "expected one list of numbers, got 0 of them"),
        (pa.array([[[1.0, 2.0]], [None]]), "the vector is missing"),
        (pa.array([[[1.0, 2.0]], None]), "the vector is missing"),
        (pa.array([[[1.0, 2.0]], [[1.0]]]), "the vector must have 2 components"),
        (pa.array(["[1, 2]", "[1 2]"]), "not a JSON array (unexpected character"),
        (pa.array(["[1, 2]", '["1", "2"]']), "element 0 is '1' (str), not a number"),
        (pa.array(["[1, 2]", "null"]), "expected a list of numbers, got NoneType"),
        (pa.array(["[1, 2]", "[1, 1e999]"]), "not a JSON array"),
        (pa.array(["[1, 2]", None]), "the vector is missing"),
        (pa.array([b"[1, 2]", b"[\xff]"]).view(pa.string()), "not a JSON array"),
    ],
    ids=str,
)
def test_a_vector_that_has_no_plain_form_takes_its_record_only(*, index, run, write, column, reason):
    path = write({"id": ["good", "bad"], "values": column})
    with pytest.raises(RecordError) as caught:
        run(index, path, values_format="json")
    assert (caught.value.record_id, caught.value.field) == ("bad", "values")
    assert reason in caught.value.reason
    assert run(index, path, values_format="json", max_rejects=None).upserted_count == 1
    assert list(index.vectors()) == ["good"]


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        ({"type": 1, "values": None}, "expected a list of numbers, got NoneType"),
        ({"type": 1, "values": [1.0, None]}, "element 1 is None (NoneType), not a number"),
        ({"type": 0, "size": None, "indices": [0], "values": [1.0]}, "a vector of size None"),
        ({"type": 0, "size": 2**31 - 1, "indices": [0], "values": [1.0]}, "a vector of size 2147483647"),
        ({"type": 0, "size": 2, "indices": [2], "values": [1.0]}, "do not form a vector of size 2"),
        ({"type": 0, "size": 2, "indices": [-1], "values": [1.0]}, "do not form a vector of size 2"),
        ({"type": 0, "size": 2, "indices": [1, 1], "values": [1.0, 2.0]}, "do not form a vector of size 2"),
        ({"type": 0, "size": 2, "indices": [1], "values": [1.0, 2.0]}, "do not form a vector of size 2"),
    ],
    ids=str,
)
def test_an_invalid_vector_of_spark_is_rejected(*, index, run, write, vector, reason):
    column = pa.array([{"type": 1, "values": [1.0, 2.0]}, vector], SPARK)
    with pytest.raises(RecordError) as caught:
        run(index, write({"id": ["good", "bad"], "values": column}))
    assert (caught.value.record_id, caught.value.field) == ("bad", "values")
    assert reason in caught.value.reason


@pytest.mark.parametrize("name", ["sparse_values", "metadata"])
def test_a_column_of_nulls_is_ignored(index, run, write, name):
    run(index, write({"id": ["a"], "values": [[1.0, 2.0]], name: pa.nulls(1)}))
    assert index.vectors()["a"].metadata is None


@pytest.mark.parametrize("name", ["id", "values"])
def test_a_required_column_of_nulls_is_rejected(index, run, write, name):
    with pytest.raises(RecordError, match=f"{name}: the .* is missing"):
        run(index, write({"id": ["a"], "values": [[1.0, 2.0]], name: pa.nulls(1)}))


def test_a_duplicate_column_name_is_rejected(index, run, write):
    table = pa.table([pa.array(["a"]), pa.array([[1.0, 2.0]]), pa.array(["b"])], names=["id", "values", "id"])
    with pytest.raises(SourceError, match=r"records.parquet has 2 columns 'id'\. Rename"):
        run(index, write(table))


def test_a_duplicate_key_in_a_metadata_struct_is_rejected(index, run):
    column = pa.StructArray.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["k", "k"])
    with pytest.raises(SourceError, match=r"column 'metadata' has the field 'k' twice\. Rename"):
        run(index, pa.table({"id": ["a"], "values": [[1.0, 2.0]], "metadata": column}))


# Values that Python cannot read ---------------------------------------------------------------------


def times(kind, bad):
    return pa.array([0, bad, 1], pa.int32() if kind == pa.date32() else pa.int64()).view(kind)


UNREADABLE = {
    "text": text_with_invalid_utf_8(large=False),
    "large text": text_with_invalid_utf_8(large=True),
    "category": pa.DictionaryArray.from_arrays(pa.array([0, 1, 2]), text_with_invalid_utf_8(large=False)),
    **{str(kind): times(kind, 10**12) for kind in (pa.timestamp("s"), pa.timestamp("ms", "UTC"), pa.date64())},
    "date32": times(pa.date32(), 2**31 - 1),
    "negative": times(pa.timestamp("us"), -(2**62)),
}
UNREADABLE["timestamp[ms, tz=UTC]"] = times(pa.timestamp("ms", "UTC"), 10**15)
UNREADABLE["date64[ms]"] = times(pa.date64(), 10**17)


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("options", [{}, {"metadata_columns": ["other", "key"]}], ids=["struct", "columns"])
def test_a_value_that_cannot_be_read_takes_its_record_only(*, index, run, write, kind, options):
    column, other = UNREADABLE[kind], pa.array([1, 2, 3])
    struct = pa.StructArray.from_arrays([other, column], names=["other", "key"])
    table = pa.table(
        {"id": ["a", "bad", "c"], "values": [[1.0, 2.0]] * 3, "key": column, "other": other, "metadata": struct}
    )
    source = table if kind == "category" else write(table)  # Arrow decodes the text of categories as it reads them
    with pytest.raises(
        RecordError, match=r"^metadata\.key: the value cannot be read \(.*Fix it, or .* row 1 .* id 'bad'"
    ):
        run(index, source, **options)
    report = run(index, source, max_rejects=None, **options)
    assert (report.upserted_count, report.rejected_count) == (2, 1)
    assert index.vectors()["c"].metadata["other"] == 3


@pytest.mark.parametrize(
    ("part", "column", "reason"),
    [
        ("id", UNREADABLE["text"], "the id is not UTF-8 text"),
        ("id", UNREADABLE["large text"], "the id is not UTF-8 text"),
        ("metadata", as_map(UNREADABLE["text"]), "the value cannot be read"),
        ("metadata", as_json(UNREADABLE["text"]), "the value cannot be read"),
    ],
    ids=["id", "large id", "map", "JSON"],
)
def test_text_that_is_not_utf_8_takes_its_record_only(*, index, run, write, part, column, reason):
    path = write(pa.table({"id": ["a", "bad", "b"], "values": [[1.0, 2.0]] * 3} | {part: column}))
    with pytest.raises(RecordError, match=f"^{part}: {reason}.*, row 1 "):
        run(index, path)
    assert run(index, path, max_rejects=None).rejected_count == 1
    assert list(index.vectors()) == ["a", "b"]


@pytest.mark.parametrize("bad", [[], [0], [1_999], [7, 8, 1_000, 1_999], range(0, 2_000, 2), range(2_000)], ids=len)
def test_every_value_that_cannot_be_read_is_found(index, run, bad):
    at = np.zeros(2_000, np.int64)
    at[bad] = 10**12
    column = pa.StructArray.from_arrays([pa.array(at).view(pa.timestamp("s"))], names=["at"])
    table = pa.table({"id": pa.array(range(2_000)), "values": [[1.0, 2.0]] * 2_000, "metadata": column})
    report = run(index, table, max_rejects=None)
    assert set(map(int, index.vectors())) == set(range(2_000)) - set(bad)
    assert report.rejected_count == len(bad)


def test_an_unknown_time_zone_is_an_error_of_the_source(index, run):
    column = pa.array([0]).view(pa.timestamp("us", "Mars/Olympus"))
    table = pa.table({"id": ["a"], "values": [[1.0, 2.0]], "at": column})
    with pytest.raises(SourceError, match=r"XCom: the metadata cannot be read: 'Mars/Olympus'\. Convert the column"):
        run(index, table, metadata_columns=["at"], max_rejects=None)
