"""
Whatever comes in, a run ends in one of two ways: every record is confirmed or rejected, or an error names the place.

Never another exception, never a number that the server did not say.
"""

import datetime as dt
import logging
from decimal import Decimal
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_pinecone_upsert.api.client import ClientSettings, IndexClient
from airflow_pinecone_upsert.api.models import Record, SparseValues
from airflow_pinecone_upsert.exceptions import InputError, PineconeUpsertError
from airflow_pinecone_upsert.pipeline.options import UpsertOptions
from airflow_pinecone_upsert.pipeline.read.files import find_parquet_files
from airflow_pinecone_upsert.pipeline.read.in_memory import InMemorySource
from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource
from airflow_pinecone_upsert.pipeline.run import upsert
from airflow_pinecone_upsert.pipeline.track.reject_rows import SCHEMA
from airflow_pinecone_upsert.pipeline.track.rejects import RejectsFolder

SETTINGS = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
LIMITED = settings(SETTINGS, max_examples=15)


@pytest.fixture
def account(index, tmp_path, caplog):
    """Upsert, set everything aside that is invalid, and check that the books are right; return report or error."""
    caplog.set_level(logging.CRITICAL)
    namespaces = map("ns-{}".format, count())

    def account(value, *, total=None):
        namespace = next(namespaces)
        options = UpsertOptions.checked(namespace=namespace, max_rejects=None, batch_size=3)
        folder = RejectsFolder(LocalFileSystem(), str(tmp_path / "rejects" / namespace))
        if isinstance(value, Path):
            source = ParquetSource(find_parquet_files(LocalFileSystem(), str(value)), options)
        else:
            source = InMemorySource(value, options)
        try:
            with IndexClient(index.url, ClientSettings(api_key=index.api_key)) as client:
                report = upsert(source, client, options, rejects_folder=folder, random=lambda: 0.0)
        except PineconeUpsertError as exc:
            report = exc
        if isinstance(report, PineconeUpsertError):
            error = report
            assert isinstance(error, InputError)
            assert str(error).isprintable()
            assert len(str(error)) < 4_000
            assert error.report["upsertedCount"] >= len(index.vectors(namespace))
            return error
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

    return account


# Rows of Python ---------------------------------------------------------------------------------


class Hostile:
    """What a user's class may do when somebody looks at it."""

    def __repr__(self):
        raise RuntimeError("no")

    __str__ = __repr__


def itself():
    held = {}
    held["self"] = held
    return held


_ODD = (
                Hostile(), itself(), 10**5_000, -(2**63), 2**64, 1j, b"\xff", object, {1, 2}, range(3), Decimal("NaN"),
        Decimal("1e400"), Decimal("0.1"), dt.date(2024, 1, 1), dt.timedelta(1), dt.time(1), np.datetime64("NaT"),
        np.timedelta64(1, "s"), np.float16(1), np.longdouble(1), np.clongdouble(1), np.bool_(True), np.str_("é"),
        np.array(1), np.array([[1]]), np.array(["a"]), np.array([None]), np.array([], object), np.zeros(2, "i4,f4"),
        np.array(np.datetime64("2024-01-01", "ns")), memoryview(b"ab"), "\ud800", "a\0", float("nan"), float("inf"),
)  # fmt: skip
ODD = st.integers(0, len(_ODD) - 1).map(_ODD.__getitem__)  # hypothesis would write sampled values down
TEXT = st.text(max_size=5) | st.text(st.characters(), max_size=3)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.binary(max_size=3) | ODD
NUMBERS = st.floats(-10, 10) | st.integers(-5, 5)
WILD = st.recursive(SCALARS, lambda some: st.lists(some, max_size=3) | st.dictionaries(TEXT, some, max_size=3))
VECTORS = st.lists(NUMBERS, min_size=2, max_size=2)
SPARSE = st.fixed_dictionaries({"indices": st.lists(st.integers(0, 9), max_size=2), "values": VECTORS})
IDS = st.sampled_from(["a", "b", "c", 1])
METADATA = st.dictionaries(TEXT | st.integers() | st.tuples(st.integers()), SCALARS | st.lists(TEXT), max_size=3)


def mostly(usual):
    return usual | usual | WILD


MAPPINGS = st.fixed_dictionaries(
    {"id": mostly(IDS), "values": mostly(VECTORS)},
    optional={
        "sparse_values": mostly(SPARSE),
        "sparseValues": mostly(SPARSE),
        "metadata": mostly(METADATA),
        "more": WILD,
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
    | st.lists(WILD, max_size=4).map(lambda rest: ["a", *rest])
    | st.dictionaries(TEXT | st.integers(), WILD, max_size=3)
    | RECORDS
)


@given(st.lists(ROWS, max_size=6))
@SETTINGS
def test_every_row_of_python_is_confirmed_or_set_aside(account, rows):
    report = account(rows, total=len(rows))
    assert not isinstance(report, PineconeUpsertError)


@given(WILD | st.lists(ROWS | WILD, max_size=3))
@LIMITED
def test_whatever_an_upstream_task_returns(account, value):
    account(value)


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
FITTING = {
    "id": st.sampled_from([pa.string(), pa.large_string(), pa.int64(), pa.uint8()]),
    "values": LISTS,
    "sparse_values": st.just(pa.struct([("indices", pa.list_(pa.int64())), ("values", pa.list_(pa.float32()))])),
    "metadata": st.builds(lambda kind: pa.struct([("k", kind)]), FLAT)
    | st.builds(lambda kind: pa.map_(pa.string(), kind), FLAT)
    | st.just(pa.string()),
}


def values_of(kind, size):  # noqa: C901 - one answer a type
    """Draw a column by its buffers' meaning, so that every value a type can hold may come."""
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        bounds = (kind.list_size,) * 2 if types.is_fixed_size_list(kind) else (0, 3)
        some = st.integers(*bounds).flatmap(lambda n: values_of(kind.value_type, n)) if kind else None
    elif types.is_struct(kind):
        some = st.tuples(*(values_of(kind.field(n).type, 1) for n in range(kind.num_fields))).map(
            lambda columns: {kind.field(n).name: column[0] for n, column in enumerate(columns)}
        )
    elif types.is_map(kind):
        some = st.lists(
            st.tuples(st.sampled_from(["a", "b", "$c", ""]), values_of(kind.item_type, 1).map(lambda v: v[0])),
            max_size=3,
        )
    elif (
        types.is_dictionary(kind) or types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    ):
        some = st.sampled_from(["", "a", "b", "é", "\0", '{"a": 1}', '{"a": [1]}', "{", "null", "x" * 600])
    elif types.is_binary(kind):
        some = st.binary(max_size=3)
    elif types.is_boolean(kind):
        some = st.booleans()
    elif types.is_null(kind):
        some = st.none()
    elif types.is_decimal(kind):
        some = st.decimals(-900, 900, allow_nan=False, allow_infinity=False, places=max(kind.scale, 0)).filter(
            lambda value: kind.scale >= 0 or value % 100 == 0
        )
    elif types.is_float16(kind):
        some = st.floats(width=16).map(np.float16)
    elif types.is_floating(kind):
        some = st.floats(width=kind.bit_width) | st.sampled_from([0.0, 1.0])
    else:
        width = {**dict.fromkeys((pa.date32(), pa.time64("ns")), 32)}.get(kind, kind.bit_width)
        signed = not types.is_unsigned_integer(kind)
        some = st.integers(-(2 ** (width - 1)) if signed else 0, 2 ** (width - 1) - 1) | st.integers(0, 9)
    return st.lists(st.none() | some | some | some, min_size=size, max_size=size)


def column_of(kind, values):
    """Make a column; where Python has no such date, from the integer that stands for it."""
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
    for name in draw(st.sampled_from([["id", "values"], ["id", "values", "metadata"], [*FITTING], ["id"], ["other"]])):
        kind = draw(FITTING.get(name, FLAT) | FITTING.get(name, FLAT) | KINDS)
        try:
            columns[name] = column_of(kind, draw(values_of(kind, size)))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            columns[name] = pa.nulls(size, kind)  # no way in from Python
    return pa.table(columns)


@given(tables())
@SETTINGS
def test_every_row_of_a_table_is_confirmed_or_set_aside_or_the_error_names_the_column(account, table):
    outcome = account(table, total=len(table))
    if isinstance(outcome, PineconeUpsertError):
        assert "XCom" in str(outcome)
        assert "column" in str(outcome)


@given(tables())
@LIMITED
def test_a_table_comes_out_of_parquet_as_it_comes_out_of_memory(account, tmp_path, table):
    path = tmp_path / "records.parquet"
    try:
        pq.write_table(table, path)
    except (pa.ArrowException, OSError):
        return  # Parquet has no such type
    outcome = account(path, total=len(table))
    if isinstance(outcome, PineconeUpsertError):
        assert str(path) in str(outcome)
