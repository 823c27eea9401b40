"""
For every input, an upsert ends in one of two ways: every record is confirmed or rejected, or an error names the position.

It never raises another exception, and never reports a number that the server did not confirm.
"""

import datetime as dt
import logging
from decimal import Decimal
from itertools import count
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_pinecone_upsert.api.models import Record, SparseValues
from airflow_pinecone_upsert.exceptions import InputError, PineconeUpsertError
from airflow_pinecone_upsert.pipeline.track.reject_rows import SCHEMA
from airflow_pinecone_upsert.pipeline.track.rejects import RejectsFolder
from tests.pipeline.encode.test_rules import SPARK

SETTINGS = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
LIMITED = settings(SETTINGS, max_examples=15)


@pytest.fixture
def run_and_check(index, run, transport, tmp_path, caplog):
    """Upsert, reject every invalid record, and check that the counts add up; return the report or the error."""
    caplog.set_level(logging.CRITICAL)
    namespaces = map("ns-{}".format, count())

    def run_and_check(value, *, total=None):
        namespace = next(namespaces)
        folder = RejectsFolder(LocalFileSystem(), str(tmp_path / "rejects" / namespace))
        parameters = {
            "namespace": namespace,
            "max_rejects": None,
            "batch_size": 3,
            "values_format": "json",
            "transport": transport,
        }
        try:
            report = run(index, value, rejects_folder=folder, **parameters)
        except PineconeUpsertError as exc:
            report = exc
        if isinstance(report, PineconeUpsertError):
            assert isinstance(report, InputError)
            assert str(report).isprintable()
            assert len(str(report)) < 4_000
            assert run.report.upserted_count >= len(index.vectors(namespace))
            return report
        lines = pa.concat_tables([pq.read_table(path) for path in report.rejects_paths] or [SCHEMA.empty_table()])
        assert report.rejected_count == len(lines)
        assert lines["row"].to_pylist() == sorted(set(lines["row"].to_pylist()))
        assert all(lines["reason"].to_pylist())
        assert all(lines["field"].to_pylist())
        stored = index.vectors(namespace)
        assert report.upserted_count >= len(stored)
        if total is not None:
            assert report.upserted_count + report.rejected_count == total
        return report

    return run_and_check


# Python records ---------------------------------------------------------------------------------


class Hostile:
    """A user's class that cannot be shown."""

    def __repr__(self):
        raise RuntimeError("no")

    __str__ = __repr__


def self_referencing():
    value = {}
    value["self"] = value
    return value


_UNUSUAL = (
        Hostile(), self_referencing(), 10**5_000, -(2**63), 2**64, 1j, b"\xff", object, {1, 2}, range(3),
        Decimal("NaN"), Decimal("sNaN"), Decimal("1e400"), Decimal("1e999999"), UUID(int=1), np.ma.masked,
        np.ma.array([1.0, 2.0], mask=[0, 1]), Decimal("0.1"), dt.date(2024, 1, 1), dt.timedelta(1), dt.time(1), np.datetime64("NaT", "us"),
        np.timedelta64(1, "s"), np.float16(1), np.longdouble(1), np.clongdouble(1), np.bool_(True), np.str_("é"),
        np.array(1), np.array([[1]]), np.array(["a"]), np.array([None]), np.array([], object), np.zeros(2, "i4,f4"),
        np.array(np.datetime64("2024-01-01", "ns")), memoryview(b"ab"), "\ud800", "a\0", float("nan"), float("inf"),
)  # fmt: skip
UNUSUAL = st.integers(0, len(_UNUSUAL) - 1).map(_UNUSUAL.__getitem__)  # hypothesis would print sampled values
TEXT = st.text(max_size=5) | st.text(st.characters(), max_size=3)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.binary(max_size=3) | UNUSUAL
NUMBERS = st.floats(-10, 10) | st.integers(-5, 5)
ANYTHING = st.recursive(SCALARS, lambda value: st.lists(value, max_size=3) | st.dictionaries(TEXT, value, max_size=3))
VECTORS = st.lists(NUMBERS, min_size=2, max_size=2)
SPARSE = st.fixed_dictionaries({"indices": st.lists(st.integers(0, 9), max_size=2), "values": VECTORS})
IDS = st.sampled_from(["a", "b", "c", 1])
METADATA = st.dictionaries(TEXT | st.integers() | st.tuples(st.integers()), SCALARS | st.lists(TEXT), max_size=3)


def mostly(valid):
    return valid | valid | ANYTHING


MAPPINGS = st.fixed_dictionaries(
    {"id": mostly(IDS), "values": mostly(VECTORS)},
    optional={
        "sparse_values": mostly(SPARSE),
        "sparseValues": mostly(SPARSE),
        "metadata": mostly(METADATA),
        "more": ANYTHING,
    },
)
RECORDS = st.builds(
    Record,
    id=TEXT.filter(lambda text: max(text, default="") < "\ud800"),
    values=VECTORS,
    sparse_values=st.none() | st.builds(SparseValues, indices=st.just([1, 2]), values=VECTORS),
    metadata=st.none() | st.dictionaries(TEXT.filter(lambda text: max(text, default="") < "\ud800"), SCALARS),
)
ROWS = (
    MAPPINGS
    | st.tuples(IDS, mostly(VECTORS))
    | st.tuples(mostly(IDS.filter(bool)), VECTORS, mostly(METADATA)).filter(lambda row: isinstance(row[0], (str, int)))
    | st.lists(ANYTHING, max_size=4).map(lambda rest: ["a", *rest])
    | st.dictionaries(TEXT | st.integers(), ANYTHING, max_size=3)
    | RECORDS
)


@given(st.lists(ROWS, max_size=6))
@SETTINGS
def test_every_python_record_is_confirmed_or_rejected(run_and_check, rows):
    report = run_and_check(rows, total=len(rows))
    assert not isinstance(report, PineconeUpsertError)


@given(ANYTHING | st.lists(ROWS | ANYTHING, max_size=3))
@LIMITED
def test_any_value_of_an_upstream_task_ends_in_a_report_or_an_error(run_and_check, value):
    run_and_check(value)


# Tables -----------------------------------------------------------------------------------------

FLAT = st.sampled_from(
    [
        pa.int8(), pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.bool_(), pa.string(),
        pa.large_string(), pa.string_view(), pa.binary(), pa.decimal128(5, 2), pa.decimal256(40, -2), pa.date32(),
        pa.timestamp("ns", "UTC"), pa.timestamp("s"), pa.time64("ns"), pa.duration("us"), pa.null(),
        pa.dictionary(pa.int8(), pa.string()),
    ]
)  # fmt: skip


def nested(kinds):
    return (
        st.builds(pa.list_, kinds)
        | st.builds(pa.large_list, kinds)
        | st.builds(pa.list_, kinds, st.integers(0, 3))
        | st.builds(lambda kinds: pa.struct([(f"k{n}", kind) for n, kind in enumerate(kinds)]), st.lists(kinds, max_size=3))
        | st.builds(lambda kind: pa.map_(pa.string(), kind), kinds)
    )  # fmt: skip


KINDS = st.recursive(FLAT, nested, max_leaves=3)
LISTS = st.sampled_from([pa.float16(), pa.float32(), pa.float64(), pa.int32(), pa.uint64()]).flatmap(
    lambda kind: st.sampled_from([pa.list_(kind), pa.large_list(kind), pa.list_(kind, 2)])
)
VALID_TYPES = {
    "id": st.sampled_from(
        [pa.string(), pa.large_string(), pa.int64(), pa.uint8(), pa.float32(), pa.decimal128(5, 0), pa.binary()]
    ),
    "values": LISTS | LISTS | LISTS.map(pa.list_) | st.sampled_from([pa.string(), SPARK]),
    "sparse_values": st.just(pa.struct([("indices", pa.list_(pa.int64())), ("values", pa.list_(pa.float32()))])),
    "metadata": st.builds(lambda kind: pa.struct([("k", kind)]), FLAT)
    | st.builds(lambda kind: pa.map_(pa.string(), kind), FLAT)
    | st.just(pa.string()),
}


def values_of(kind, size):  # noqa: C901 - one case per type
    """Draw the values of a column. Temporal types are drawn as integers, so that every value may occur."""
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        bounds = (kind.list_size,) * 2 if types.is_fixed_size_list(kind) else (0, 3)
        value = st.integers(*bounds).flatmap(lambda n: values_of(kind.value_type, n))
    elif types.is_struct(kind):
        value = st.tuples(*(values_of(kind.field(n).type, 1) for n in range(kind.num_fields))).map(
            lambda columns: {kind.field(n).name: column[0] for n, column in enumerate(columns)}
        )
    elif types.is_map(kind):
        value = st.lists(
            st.tuples(st.sampled_from(["a", "b", "$c", ""]), values_of(kind.item_type, 1).map(lambda v: v[0])),
            max_size=3,
        )
    elif (
        types.is_dictionary(kind) or types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    ):
        value = st.sampled_from(["", "a", "b", "é", "\0", '{"a": 1}', '{"a": [1]}', "{", "null", "x" * 600, "[1, 2]"])
    elif types.is_binary(kind):
        value = st.binary(max_size=3)
    elif types.is_boolean(kind):
        value = st.booleans()
    elif types.is_null(kind):
        value = st.none()
    elif types.is_decimal(kind):
        value = st.decimals(-900, 900, allow_nan=False, allow_infinity=False, places=max(kind.scale, 0)).filter(
            lambda number: kind.scale >= 0 or number % 100 == 0
        )
    elif types.is_float16(kind):
        value = st.floats(width=16).map(np.float16)
    elif types.is_floating(kind):
        value = st.floats(width=kind.bit_width) | st.sampled_from([0.0, 1.0])
    else:
        width = 32 if kind in {pa.date32(), pa.time64("ns")} else kind.bit_width
        signed = not types.is_unsigned_integer(kind)
        value = st.integers(-(2 ** (width - 1)) if signed else 0, 2 ** (width - 1) - 1) | st.integers(0, 9)
    return st.lists(st.none() | value | value | value, min_size=size, max_size=size)


def column_of(kind, values):
    """Make a column; dates and times from integers, because Python does not have all of them."""
    if pa.types.is_temporal(kind):
        width = pa.int32() if kind == pa.date32() else pa.int64()
        return pa.array([abs(v) if v is not None and kind == pa.time64("ns") else v for v in values], width).cast(kind)
    if pa.types.is_dictionary(kind):
        return pa.array(values, pa.string()).dictionary_encode().cast(kind)
    return pa.array(values, kind)


@st.composite
def tables(draw):
    size = draw(st.integers(0, 4))
    columns = {}
    for name in draw(
        st.sampled_from([["id", "values"], ["id", "values", "metadata"], [*VALID_TYPES], ["id"], ["other"]])
    ):
        kind = draw(VALID_TYPES.get(name, FLAT) | VALID_TYPES.get(name, FLAT) | KINDS)
        try:
            columns[name] = column_of(kind, draw(values_of(kind, size)))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            columns[name] = pa.nulls(size, kind)  # Arrow does not convert such values from Python
    return pa.table(columns)


@given(tables())
@SETTINGS
def test_every_row_of_a_table_is_confirmed_or_rejected_or_the_error_names_the_column(run_and_check, table):
    outcome = run_and_check(table, total=len(table))
    if isinstance(outcome, PineconeUpsertError):
        assert "XCom" in str(outcome)
        assert "column" in str(outcome)


@given(tables())
@LIMITED
def test_every_row_of_a_parquet_file_is_confirmed_or_rejected_or_the_error_names_it(run_and_check, tmp_path, table):
    path = tmp_path / "records.parquet"
    try:
        pq.write_table(table, path)
    except (pa.ArrowException, OSError):
        return  # Parquet has no such type
    outcome = run_and_check(path, total=len(table))
    if isinstance(outcome, PineconeUpsertError):
        assert str(path) in str(outcome)
