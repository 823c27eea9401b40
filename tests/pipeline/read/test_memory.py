"""Memory is bounded by bytes and not by the number of rows: measured in other processes, over what the imports take."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pinecone_upsert.api.models import Record
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.options import Columns
from airflow_pinecone_upsert.pipeline.read.in_memory import InMemorySource
from airflow_pinecone_upsert.pipeline.read.page_checks import MAX_PAGE_BYTES
from airflow_pinecone_upsert.pipeline.read.weight import MAX_CHUNK_BYTES, BatchSizer, python_bytes, row_bytes

from . import peak_memory

MAX_VALID_MB = 300
MAX_INVALID_MB = 600


def base(count):
    vectors = pa.array(np.random.default_rng(0).random(2 * count, np.float32) + np.float32(1))
    return {"id": [f"r{row}" for row in range(count)], "values": pa.FixedSizeListArray.from_arrays(vectors, 2)}


def peak(index, path, *columns):
    command = [sys.executable, peak_memory.__file__, index.url, index.api_key, str(path), *columns]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@dataclasses.dataclass
class Row:
    """A record with sparse values."""

    id: str
    values: list
    sparse_values: dict


def wide_row(keys):
    return {f"k{number}": number % 10 for number in range(keys)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "metadata"),
    [
        pytest.param(2_500, lambda row: json.dumps({"n": row, "text": "x" * 40_000}), id="40 KB a record"),
        pytest.param(2_500, lambda _: json.dumps(wide_row(2_900)), id="2,900 keys as JSON"),
        pytest.param(2_500, lambda _: wide_row(2_900), id="2,900 keys in a struct"),
    ],
)
def test_large_metadata_take_little_memory(index, write, count, metadata):
    path = write({**base(count), "metadata": [metadata(row) for row in range(count)]}, compression="zstd")
    result = peak(index, path)
    assert (result["upserted"], result["error"]) == (count, "")
    assert result["mb"] <= MAX_VALID_MB


@pytest.mark.slow
def test_hundreds_of_metadata_columns_take_little_memory(index, write):
    count, names = 10_000, [f"c{number}" for number in range(300)]
    path = write({**base(count), **{name: np.arange(count) for name in names}}, compression="zstd")
    result = peak(index, path, *names)
    assert (result["upserted"], result["error"]) == (count, "")
    assert result["mb"] <= MAX_VALID_MB


@pytest.mark.slow
@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({"text": "x" * 40_000}, id="40 KB of text"),
        pytest.param({"texts": [f"{number:08}" for number in range(3_500)]}, id="3,500 texts"),
        pytest.param(wide_row(2_900), id="2,900 keys"),
    ],
)
def test_python_records_with_large_metadata_take_little_memory(index, metadata):
    count = 4_000
    result = peak(index, "generated", str(count), json.dumps(metadata))
    assert (result["upserted"], result["error"]) == (count, "")
    assert result["mb"] <= MAX_VALID_MB / 2


@pytest.mark.slow
@pytest.mark.parametrize("column", ["values", "metadata"])
def test_the_largest_page_takes_little_memory(pinecone_index_factory, write, column):
    components = 2_000 if column == "values" else 2
    row_bytes = 8_040 if column == "values" else 40_004
    count = MAX_PAGE_BYTES // row_bytes
    vectors = pa.array(np.random.default_rng(0).random(components * count, np.float32) + np.float32(1))
    records = {"id": pa.array(range(count)), "values": pa.FixedSizeListArray.from_arrays(vectors, components)}
    if column == "metadata":
        records["metadata"] = [json.dumps({"n": row, "text": "x" * 39_960}) for row in range(count)]
    path = write(records, use_dictionary=False, data_page_size=2**31 - 1, write_batch_size=2**31)
    result = peak(pinecone_index_factory(dimension=components), path)
    assert (result["upserted"], result["error"]) == (count, "")
    assert result["mb"] <= MAX_VALID_MB


@pytest.mark.parametrize("kind", ["encoded in Parquet", "a type of Arrow"])
def test_a_small_dictionary_of_long_texts_takes_little_memory(index, write, kind):
    """A file of 0.2 MB that holds 5 GB of text."""
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(5_000, np.int32)), ["x" * 1_000_000])
    path = write({**base(5_000), "metadata": texts}, compression="zstd", store_schema=kind == "a type of Arrow")
    assert path.stat().st_size < 300_000
    result = peak(index, path)
    assert result["error"].startswith("metadata: not valid JSON")
    assert "row 0 (counted from 0), id 'r0'" in result["error"]
    assert result["mb"] <= MAX_INVALID_MB / 2


def test_long_ids_take_little_memory(index, write):
    count = 3_000
    path = write({**base(count), "id": ["i" * 100_000 + str(row) for row in range(count)]}, compression="zstd")
    result = peak(index, path)
    assert "the id has 100001 characters" in result["error"]
    assert result["mb"] <= MAX_INVALID_MB


TEXTS = pa.array(["", "x" * 1_000, "x" * 2_000_000, "x" * 5_000_000, "x" * 9_000_000])


@given(
    indices=st.lists(st.none() | st.integers(0, len(TEXTS) - 1), max_size=30),
    start=st.integers(0, 5),
)
def test_pieces_are_the_batch_and_fit_or_are_a_single_row(indices, start):
    texts = pa.DictionaryArray.from_arrays(pa.array(indices, pa.int8()), TEXTS).slice(start)
    batch = pa.RecordBatch.from_pydict({"id": pa.array(range(len(texts))), "text": texts})
    pieces = BatchSizer((), 2_000, 2_000).cut(batch)
    assert [row for piece in pieces for row in piece["id"].to_pylist()] == list(range(len(texts)))
    for piece in pieces:
        lengths = [len(text or "") for text in piece["text"].to_pylist()]
        assert sum(lengths) <= MAX_CHUNK_BYTES or len(lengths) == 1


VALUES = st.text(max_size=5)


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int16(), pa.string()),
        pa.list_(pa.string()),
        pa.large_list(pa.string()),
        pa.map_(pa.string(), pa.string()),
        pa.struct({"a": pa.string(), "b": pa.list_(pa.string())}),
        pa.list_(pa.string(), 2),
    ],
    ids=str,
)
@given(data=st.data())
def test_the_weight_of_a_row_is_that_of_its_texts(kind, data):
    values = {
        pa.list_(pa.string()): st.lists(VALUES, max_size=3),
        pa.large_list(pa.string()): st.lists(VALUES, max_size=3),
        pa.map_(pa.string(), pa.string()): st.lists(st.tuples(VALUES, VALUES), max_size=3),
        pa.struct({"a": pa.string(), "b": pa.list_(pa.string())}): st.fixed_dictionaries(
            {"a": VALUES, "b": st.lists(VALUES, max_size=3)}
        ),
        pa.list_(pa.string(), 2): st.lists(VALUES, min_size=2, max_size=2),
    }.get(kind, VALUES)
    rows = data.draw(st.lists(st.none() | values, max_size=8))
    start = data.draw(st.integers(0, 3))
    column = pa.array(rows, kind).slice(start)
    found = np.full(len(column), 1) * row_bytes(column, 0)
    present = [number for number, row in enumerate(rows[start:]) if row is not None]
    assert found[present].tolist() == [text_bytes(rows[start:][number]) for number in present]


def text_bytes(value):
    if isinstance(value, str):
        return len(value.encode())
    return sum(map(text_bytes, value.values() if isinstance(value, dict) else value))


IDS = [f"r{row}" for row in range(1_000)]
TEXT = "x" * 30_000


@pytest.mark.parametrize(
    "records",
    [
        pytest.param(pa.table({**base(1_000), "metadata": [json.dumps({"text": TEXT})] * 1_000}), id="table"),
        pytest.param(
            pd.DataFrame({"id": IDS, "values": [[1.0, 2.0]] * 1_000, "metadata": [{"text": TEXT}] * 1_000}), id="frame"
        ),
        pytest.param([{"id": name, "values": [1, 2], "metadata": {TEXT: 1}} for name in IDS], id="dicts"),
        pytest.param([{"id": name, "values": [1, 2], "metadata": f'{{"a": "{TEXT}"}}'} for name in IDS], id="JSON"),
        pytest.param([(name, [1, 2], {"texts": [TEXT]}) for name in IDS], id="tuples"),
        pytest.param([Record(id=name, values=[1, 2], metadata={"text": TEXT}) for name in IDS], id="models"),
        pytest.param(
            [Row(name, [1, 2], {"indices": [*range(940)], "values": [1.0] * 940}) for name in IDS], id="sparse"
        ),
    ],
)
def test_records_in_memory_are_cut_by_bytes(records):
    source = InMemorySource(records, Columns())
    chunks = list(source.chunks(IndexShape(2)))
    assert [row for chunk in chunks for row in chunk.rows] == list(range(1_000))
    assert max(len(chunk.rows) for chunk in chunks) <= MAX_CHUNK_BYTES // len(TEXT) + 1


NUMBERS = st.integers() | st.floats() | st.booleans()


@given(
    st.recursive(
        st.text(max_size=9) | st.none() | st.lists(NUMBERS),
        lambda one: st.lists(one) | st.dictionaries(st.text(max_size=9), one | NUMBERS),
    )
)
def test_the_weight_of_a_python_value_is_at_least_that_of_its_texts(value):
    assert python_bytes(value, nesting=100) >= text_length(value)


def text_length(value):
    if isinstance(value, dict):
        return sum(map(len, value)) + text_length([*value.values()])
    if isinstance(value, list):
        return sum(map(text_length, value))
    return len(value) if isinstance(value, str) else 0


def test_a_list_that_contains_itself_is_weighed():
    value = []
    value.append({"key": value})
    assert python_bytes(value) < MAX_CHUNK_BYTES
