"""The index stores exactly what the source contains, bit for bit, from every Arrow type."""

import datetime as dt
import json
import math
from decimal import Decimal
from itertools import count
from uuid import UUID

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_pinecone_upsert.pipeline.encode.encoder import encode
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.read.chunk import PARTS, Chunk
from tests.pipeline.encode.test_rules import SPARK

OVER_HTTP = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
FLOAT32 = np.finfo(np.float32)
SEED = 20_251_122
NAMESPACES = map("ns-{}".format, count())


def encoded(columns):
    batch = columns if isinstance(columns, pa.RecordBatch) else pa.RecordBatch.from_pydict(columns)
    chunk = Chunk("XCom", range(len(batch)), batch, PARTS)
    return encode(chunk, IndexShape(), max_bytes=2_000_000).records.bodies


@pytest.fixture
def stored(index, run, transport):
    """Upsert columns into a new namespace and return what it stores then, in the order of the rows."""
    namespaces = map("ns-{}".format, count())

    def stored(columns):
        table = columns if isinstance(columns, pa.RecordBatch) else pa.RecordBatch.from_pydict(columns)
        namespace = next(namespaces)
        report = run(index, table, namespace=namespace, transport=transport)
        assert report.upserted_count == table.num_rows
        found = index.vectors(namespace)
        return [found[str(record_id)] for record_id in table.column("id").to_pylist()]

    return stored


# Dense values -----------------------------------------------------------------------------------


def floats(width):
    return st.floats(width=width, allow_nan=False, allow_infinity=False)


NUMBERS = {
    np.float16: floats(16),
    np.float32: floats(32),
    np.float64: st.floats(min_value=float(FLOAT32.min), max_value=float(FLOAT32.max)),
    np.int8: st.integers(-(2**7), 2**7 - 1),
    np.int64: st.integers(-(2**63), 2**63 - 1),
    np.uint64: st.integers(0, 2**64 - 1),
}


def as_list(flat, width):
    return pa.ListArray.from_arrays(pa.array(range(0, len(flat) + 1, width), pa.int32()), flat)


def as_large_list(flat, width):
    return pa.LargeListArray.from_arrays(pa.array(range(0, len(flat) + 1, width), pa.int64()), flat)


LISTS = [as_list, as_large_list, pa.FixedSizeListArray.from_arrays]


@st.composite
def sliced_matrices(draw):
    """Draw rows of two numbers of one type, and the slice of them to upsert."""
    dtype = draw(st.sampled_from(list(NUMBERS)))
    rows = draw(st.lists(st.tuples(NUMBERS[dtype], NUMBERS[dtype]), min_size=1, max_size=12))
    matrix = np.array(rows, dtype)
    # A vector whose components all round to zero is rejected: see test_rules.py.
    matrix[~matrix.astype(np.float32).any(axis=1)] = 1
    start = draw(st.integers(0, len(rows) - 1))
    return matrix, start, draw(st.integers(start + 1, len(rows)))


@OVER_HTTP
@given(sliced=sliced_matrices(), make_list=st.sampled_from(LISTS), through_parquet=st.booleans())
def test_dense_values_are_stored_as_the_nearest_float32(
    *, stored, index, run, write, bits, sliced, make_list, through_parquet
):
    matrix, start, end = sliced
    column = make_list(pa.array(matrix.ravel()), 2)
    batch = pa.RecordBatch.from_pydict({"id": pa.array(range(len(matrix))), "values": column}).slice(start, end - start)
    if through_parquet:
        run(index, write(pa.Table.from_batches([batch])), namespace="parquet")
        found = [index.vectors("parquet")[str(row)] for row in range(start, end)]
    else:
        found = stored(batch)
    assert [bits(one.values) for one in found] == [bits(row) for row in matrix[start:end].astype(np.float32)]


@pytest.mark.parametrize(
    "value",
    [
        FLOAT32.max,
        FLOAT32.tiny,
        FLOAT32.smallest_subnormal,
        np.float32(-0.0),
        np.float32(0.1),
        np.float32(16_777_216),
        np.uint32(0x007FFFFF).view(np.float32),  # the largest denormal
        np.uint32(0x15AE43FD).view(np.float32),  # its shortest form, read as a double, rounds to the next float32
    ],
    ids=str,
)
@pytest.mark.parametrize("sign", [1, -1])
def test_edge_values_are_stored_bit_for_bit(stored, bits, value, sign):
    vector = np.array([value * np.float32(sign), 1], np.float32)
    [found] = stored({"id": ["edge"], "values": [vector]})
    assert bits(found.values) == bits(vector)


def test_float64_is_rounded_once_half_to_even(stored):
    halfway = [1 + 2.0**-24, 1 + 2.0**-24 + 2.0**-50]
    [found] = stored({"id": ["a"], "values": pa.array([halfway], pa.list_(pa.float64()))})
    assert found.values.tolist() == [1.0, 1 + 2.0**-23]


def test_random_float32_survive_a_server_that_parses_doubles():
    patterns = np.random.default_rng(SEED).integers(0, 2**32, 210_000, dtype=np.uint32)
    vectors = patterns.view(np.float32)
    vectors = vectors[np.isfinite(vectors) & (vectors != 0)][:200_000].reshape(200, 1_000)
    columns = {
        "id": pa.array(range(200)),
        "values": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 1_000),
    }
    read = np.array([orjson.loads(body)["values"] for body in encoded(columns)], np.float64)
    assert read.astype(np.float32).view(np.uint32).tolist() == vectors.view(np.uint32).tolist()


def test_components_are_written_in_their_shortest_form():
    [body] = encoded({"id": ["a"], "values": pa.array([[0.1, 1 / 3]], pa.list_(pa.float32()))})
    assert body == b'{"id":"a","values":[0.1,0.33333334]}'


def nested(make_list):
    inner = make_list(pa.array([0.5, -0.25, 1, 2], pa.float32()), 2)
    return as_list(inner, 1)


OTHER_FORMS = {
    **{f"nested {make_list.__name__}": nested(make_list) for make_list in LISTS},
    "fixed nested": pa.FixedSizeListArray.from_arrays(as_large_list(pa.array([0.5, -0.25, 1, 2]), 2), 1),
    "float16": as_list(as_list(pa.array(np.array([0.5, -0.25, 1, 2], np.float16)), 2), 1),
    "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(np.array([[0.5, -0.25], [1, 2]], np.float32)),
    "tensor of one row": pa.FixedShapeTensorArray.from_numpy_ndarray(np.array([[[0.5, -0.25]], [[1, 2]]], np.float32)),
    "VectorUDT": pa.array(
        [
            {"type": 1, "size": None, "indices": None, "values": [0.5, -0.25]},
            {"type": 0, "size": 2, "indices": [1, 0], "values": [2.0, 1.0]},
        ],
        SPARK,
    ),
    "JSON": pa.array(["[0.5, -0.25]", " [[1, 2.0]]"]),
    "large JSON": pa.array(["[0.5,-25e-2]", "[1,2]"], pa.large_string()),
    "category of JSON": pa.array(["[0.5,-25e-2]", "[1,2]"]).dictionary_encode(),
}


@pytest.mark.parametrize("form", OTHER_FORMS)
@pytest.mark.parametrize("through_parquet", [False, True])
def test_vectors_have_many_forms(*, index, run, write, form, through_parquet):
    table = pa.table({"id": ["x", "a", "b"], "values": pa.concat_arrays([OTHER_FORMS[form][:1], OTHER_FORMS[form]])})
    options = {"values_format": "json" if "JSON" in form else "list"}
    run(index, write(table[1:]) if through_parquet else table[1:], **options)
    found = index.vectors()
    assert [found[record_id].values.tolist() for record_id in ("a", "b")] == [[0.5, -0.25], [1, 2]]


# Ids --------------------------------------------------------------------------------------------

INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
def test_integer_ids_are_written_as_digits(stored, kind):
    top = 2 ** (kind.bit_width - (str(kind)[0] == "i")) - 1
    found = stored({"id": pa.array([0, top], kind), "values": [[1.0, 2.0]] * 2})
    assert [one.id for one in found] == ["0", str(top)]


@pytest.mark.parametrize(
    "ids",
    [
        pa.array(["a", "b", "c"], pa.string()),
        pa.array(["a", "b", "c"], pa.large_string()),
        pa.array(["a", "b", "c"], pa.string_view()),
        pa.array(["a", "b", "c"]).dictionary_encode(),
        pa.array([7, 8, 9]).dictionary_encode(),
        pa.array(["x", "a", "b", "c"]).slice(1),
    ],
    ids=lambda ids: str(ids.type),
)
def test_ids_may_have_every_text_type(stored, index, run, write, ids):
    columns = {"id": ids, "values": [[1.0, 2.0]] * 3}
    expected = [str(one) for one in ids.to_pylist()]
    assert [one.id for one in stored(columns)] == expected
    assert run(index, write(columns), namespace="parquet").upserted_count == 3
    assert list(index.vectors("parquet")) == expected


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([7.0, 8.0, None], pa.float64()),
        pa.array([7.0, 8.0, None], pa.float32()),
        pa.array(np.array([7, 8], np.float16)),
        *(pa.array([7, 8, None], kind(9, 0)) for kind in (pa.decimal32, pa.decimal64, pa.decimal128, pa.decimal256)),
        *(
            pa.array([b"7", b"8", None], kind)
            for kind in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(1))
        ),
    ],
    ids=lambda ids: str(ids.type),
)
def test_whole_numbers_and_bytes_are_ids(index, run, write, ids):
    report = run(index, write({"id": ids, "values": [[1.0, 2.0]] * len(ids)}), max_rejects=None)
    assert list(index.vectors()) == ["7", "8"]
    assert report.rejected_count == len(ids) - 2


@OVER_HTTP
@given(numbers=st.lists(st.floats() | st.integers(-(2**60), 2**60).map(float), min_size=1, unique=True))
def test_a_float_id_is_exact_or_rejected(index, run, numbers):
    namespaces = next(NAMESPACES), next(NAMESPACES)
    sources = (
        pa.table({"id": pa.array(numbers), "values": [[1.0, 2.0]] * len(numbers)}),
        [{"id": number, "values": [1.0, 2.0]} for number in numbers],
    )
    for source, namespace in zip(sources, namespaces, strict=True):
        run(index, source, namespace=namespace, max_rejects=None)
        exact = {str(int(number)) for number in numbers if abs(number) < 2**53 and number.is_integer()}
        assert set(index.vectors(namespace)) == exact


def test_uuids_are_written_in_their_canonical_form(index, run, write):
    ids = [UUID(int=n) for n in (0, 2**127 + 5)]
    column = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([one.bytes for one in ids], pa.binary(16)))
    for number, source in enumerate(
        [write({"id": column, "values": [[1.0, 2.0]] * 2}), pa.table({"id": column, "values": [[1.0, 2.0]] * 2})]
    ):
        run(index, source, namespace=str(number))
        assert list(index.vectors(str(number))) == [str(one) for one in ids]


# Sparse values ----------------------------------------------------------------------------------

SPARSE = st.none() | st.dictionaries(st.integers(0, 2**31 - 1) | st.just(2**32 - 1), floats(32), min_size=1, max_size=5)


@OVER_HTTP
@given(
    rows=st.lists(SPARSE, min_size=1, max_size=8),
    indices=st.sampled_from([pa.int64(), pa.uint32(), pa.uint64()]),
    values=st.sampled_from([pa.float32(), pa.float64()]),
    make_list=st.sampled_from([pa.list_, pa.large_list]),
    skipped=st.integers(0, 3),
)
def test_sparse_values_are_stored_bit_for_bit(*, stored, bits, rows, indices, values, make_list, skipped):
    kind = pa.struct([("indices", make_list(indices)), ("values", make_list(values))])
    column = pa.array([row and {"indices": list(row), "values": list(row.values())} for row in rows], kind)
    batch = pa.RecordBatch.from_pydict(
        {"id": pa.array(range(len(rows))), "values": [[1.0, 2.0]] * len(rows), "sparse_values": column}
    ).slice(min(skipped, len(rows) - 1))
    for row, found in zip(rows[-batch.num_rows :], stored(batch), strict=True):
        if row is None:
            assert found.sparse_indices is None
        else:
            assert found.sparse_indices.tolist() == list(row)
            assert bits(found.sparse_values) == bits(list(row.values()))


def test_a_sparse_index_accepts_records_without_dense_values(sparse_index, run, write):
    columns = {"id": ["a"], "sparse_values": [{"indices": [3, 1], "values": [0.5, 0.25]}]}
    run(sparse_index, write(columns))
    assert sparse_index.vectors()["a"].sparse_indices.tolist() == [3, 1]


# Metadata ---------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBER = floats(64) | st.integers(-(2**53), 2**53)
TIMES = st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1))  # noqa: DTZ001 - time zones have another test
STRUCT = pa.struct(
    [
        ("text", pa.string()),
        ("float", pa.float64()),
        ("integer", pa.int64()),
        ("flag", pa.bool_()),
        ("tags", pa.list_(pa.string())),
        ("category", pa.dictionary(pa.int8(), pa.string())),
        ("day", pa.date32()),
        ("time", pa.timestamp("us")),
        ("price", pa.decimal128(9, 2)),
        ("nothing", pa.null()),
    ]
)


def metadata_structs():
    fields = {
        "text": TEXT,
        "float": floats(64),
        "integer": st.integers(-(2**53), 2**53),
        "flag": st.booleans(),
        "tags": st.lists(TEXT, max_size=3),
        "category": st.sampled_from(["a", "b"]),
        "day": st.dates(),
        "time": TIMES,
        "price": st.decimals(-9_999, 9_999, places=2),
        "nothing": st.none(),
    }
    return st.fixed_dictionaries({name: st.none() | value for name, value in fields.items()})


def as_documented(metadata):
    """Return what the docstring of metadata.py promises: no nulls, times as ISO 8601, decimals as numbers."""

    def plain(value):
        if isinstance(value, dt.date):
            return value.isoformat()
        return float(value) if isinstance(value, Decimal) else value

    return {key: plain(value) for key, value in (metadata or {}).items() if value is not None} or None


def with_metadata(column):
    return {"id": pa.array(range(len(column))), "values": [[1.0, 2.0]] * len(column), "metadata": column}


@OVER_HTTP
@given(rows=st.lists(st.none() | metadata_structs(), min_size=1, max_size=6), skipped=st.integers(0, 2))
def test_metadata_structs_are_stored(stored, rows, skipped):
    batch = pa.RecordBatch.from_pydict(with_metadata(pa.array(rows, STRUCT))).slice(min(skipped, len(rows) - 1))
    found = stored(batch)
    assert [one.metadata for one in found] == [as_documented(row) for row in rows[-batch.num_rows :]]


@OVER_HTTP
@given(rows=st.lists(metadata_structs(), min_size=1, max_size=6))
def test_metadata_columns_are_stored_as_one_struct(index, run, write, rows):
    columns = {field.name: pa.array([row[field.name] for row in rows], field.type) for field in STRUCT}
    path = write({"id": pa.array(range(len(rows))), "values": [[1.0, 2.0]] * len(rows), **columns})
    run(index, path, namespace="columns", metadata_columns=list(columns))
    found = index.vectors("columns")
    assert [found[str(n)].metadata for n in range(len(rows))] == [as_documented(row) for row in rows]


@OVER_HTTP
@given(
    rows=st.lists(
        st.dictionaries(
            TEXT.filter(lambda key: not key.startswith("$")),
            st.none() | TEXT | NUMBER | st.booleans() | st.lists(TEXT, max_size=3),
        ),
        min_size=1,
        max_size=6,
    ),
    kind=st.sampled_from([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]),
)
def test_metadata_as_json_text_are_stored(stored, rows, kind):
    found = stored(with_metadata(pa.array([json.dumps(row) for row in rows], kind)))
    assert [one.metadata for one in found] == [as_documented(row) for row in rows]


@OVER_HTTP
@given(
    rows=st.lists(
        st.none() | st.dictionaries(TEXT.filter(lambda key: not key.startswith("$")), st.none() | TEXT, max_size=4),
        min_size=1,
        max_size=6,
    ),
    skipped=st.integers(0, 2),
)
def test_metadata_maps_are_stored(stored, rows, skipped):
    column = pa.array([None if row is None else list(row.items()) for row in rows], pa.map_(pa.string(), pa.string()))
    batch = pa.RecordBatch.from_pydict(with_metadata(column)).slice(min(skipped, len(rows) - 1))
    found = stored(batch)
    assert [one.metadata for one in found] == [as_documented(row) for row in rows[-batch.num_rows :]]


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (0, pa.timestamp("s"), "1970-01-01T00:00:00"),
        (1_500, pa.timestamp("ms"), "1970-01-01T00:00:01.500000"),
        (1, pa.timestamp("us"), "1970-01-01T00:00:00.000001"),
        (1_000, pa.timestamp("ns"), "1970-01-01T00:00:00.000001"),
        (1, pa.timestamp("ns"), "1970-01-01T00:00:00.000000001"),
        (-1, pa.timestamp("ns"), "1969-12-31T23:59:59.999999999"),
        (1, pa.timestamp("ns", "UTC"), "1970-01-01T00:00:00.000000001+00:00"),
        (0, pa.timestamp("us", "Europe/Berlin"), "1970-01-01T01:00:00+01:00"),
        (0, pa.timestamp("s", "+05:30"), "1970-01-01T05:30:00+05:30"),
        (1, pa.date32(), "1970-01-02"),
        (86_400_000, pa.date64(), "1970-01-02"),
        (1, pa.time32("s"), "00:00:01"),
        (1, pa.time64("us"), "00:00:00.000001"),
        (1, pa.time64("ns"), "00:00:00.000000001"),
        (Decimal("0.10"), pa.decimal128(4, 2), 0.1),
        (Decimal("7.00"), pa.decimal128(4, 2), 7),
        (UUID(int=5), pa.uuid(), "00000000-0000-0000-0000-000000000005"),
        (0.5, pa.float16(), 0.5),
        ("x", pa.string_view(), "x"),
        (2**53, pa.int64(), 2**53),
        (2**60, pa.int64(), float(2**60)),
    ],
    ids=str,
)
def test_a_metadata_value_is_stored_as_documented(*, stored, index, run, value, kind, expected):
    storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    raw = value.bytes if isinstance(value, UUID) else np.float16(value) if pa.types.is_float16(kind) else value
    column = pa.array([raw, None], storage)
    column = kind.wrap_array(column) if storage is not kind else column
    as_struct = pa.StructArray.from_arrays([column], names=["key"])
    table = pa.RecordBatch.from_pydict(
        {"id": ["a", "b"], "values": [[1.0, 2.0]] * 2, "key": column, "metadata": as_struct}
    )
    assert [one.metadata for one in stored(table)] == [{"key": expected}, None]
    run(index, table, namespace="plain", metadata_columns=["key"])
    assert index.vectors("plain")["a"].metadata == {"key": expected}


@OVER_HTTP
@given(
    numbers=st.lists(
        floats(64).map(repr)
        | floats(64).map("{:.16e}".format)  # 17 digits, as many languages write a double
        | st.decimals(-1e16, 1e16, places=3).map(str)
        | st.integers(0, 30).map(lambda zeros: f"0.1{'0' * zeros}1"),
        min_size=1,
    ),
    as_text=st.booleans(),
)
def test_a_number_is_stored_with_all_of_its_digits_or_rejected(index, run, numbers, as_text):
    namespace = next(NAMESPACES)
    if as_text:
        texts = [f'{{"url": "https://x", "n": {number}}}' for number in numbers]
        source = pa.table(with_metadata(pa.array(texts)))
    else:
        source = [(n, [1.0, 2.0], {"n": Decimal(number)}) for n, number in enumerate(numbers)]
    report = run(index, source, namespace=namespace, max_rejects=None)
    stored = index.vectors(namespace)
    assert report.rejected_count + len(stored) == len(numbers)
    for n, number in enumerate(numbers):
        nearest = Decimal(repr(float(number)))
        if str(n) in stored:
            assert stored[str(n)].metadata["n"] == float(number)
            assert abs(nearest - Decimal(number)) <= Decimal(math.ulp(float(number)))
        else:
            assert nearest != Decimal(number)


def test_times_in_a_metadata_map_are_iso_8601(stored):
    kind = pa.map_(pa.string(), pa.timestamp("ns"))
    [found] = stored(with_metadata(pa.array([[("at", 1)]], kind)))
    assert found.metadata == {"at": "1970-01-01T00:00:00.000000001"}


def test_the_encoding_of_a_record_does_not_depend_on_other_records():
    columns = with_metadata(
        pa.array([{"at": 0}, {"at": 1}, None, {"at": 1_000}], pa.struct([("at", pa.timestamp("ns"))]))
    )
    together = encoded(columns)
    batch = pa.RecordBatch.from_pydict(columns)
    alone = [encoded(batch.slice(n, 1))[0] for n in range(4)]
    assert together == alone
