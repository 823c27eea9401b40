"""The digest of a record: equal for every way in which the same record may come, different for any other record."""

import json

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_pinecone_upsert.pipeline.encode.encoder import encode
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.options import Columns
from airflow_pinecone_upsert.pipeline.read.files import find_parquet_files
from airflow_pinecone_upsert.pipeline.read.in_memory import InMemorySource
from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource
from airflow_pinecone_upsert.reindex.digest import DIGEST_VERSION, digest_ids, digest_records

SHAPE = IndexShape(2)
SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

SPARSE = pa.struct([("indices", pa.list_(pa.int64())), ("values", pa.list_(pa.float32()))])


def read(value, **columns):
    """Return the only chunk of records in memory."""
    (chunk,) = InMemorySource(value, Columns(**columns)).chunks(SHAPE)
    return chunk


def digests_of(chunk):
    """Return the digest, the hash and the size of each record; None where it has no digest."""
    found = digest_records(chunk)
    return [
        (digest.tobytes(), id_hash, size) if is_valid else None
        for id_hash, digest, size, is_valid in zip(*map(list, found), strict=True)
    ]


# The same record, in other forms ----------------------------------------------------------------

KINDS = {
    "s": (st.text(st.characters(exclude_categories=["Cs"]), max_size=3), pa.string()),
    "n": (st.integers(-(2**53), 2**53) | st.integers(-1, 1), pa.int64()),
    "f": (
        st.floats(allow_nan=False, allow_infinity=False).map(lambda x: x + 0.0) | st.sampled_from([0.0, 1.0]),
        pa.float64(),
    ),
    "b": (st.booleans(), pa.bool_()),
    "l": (st.lists(st.sampled_from(["", "a", "ab", "é"]), max_size=3), pa.list_(pa.string())),
}
FLOATS = st.floats(-10, 10, width=32)
VECTORS = st.lists(FLOATS, min_size=2, max_size=2)


@st.composite
def tables_of_records(draw):
    """Draw records whose metadata have one type for each key, and these types."""
    names = {f"{kind}{number}": kind for kind in KINDS for number in range(draw(st.integers(0, 2)))}
    records = [
        {
            "id": record_id,
            "values": draw(VECTORS),
            "sparse_values": draw(
                st.none() | st.builds(lambda values: {"indices": [7, 2**32 - 1], "values": values}, VECTORS)
            ),
            "metadata": {name: draw(st.none() | KINDS[kind][0]) for name, kind in names.items()},
        }
        for record_id in draw(st.lists(st.sampled_from(["a", "b", "42"]), min_size=1, max_size=4))
    ]
    return records, {name: KINDS[kind][1] for name, kind in names.items()}


def reordered_json(metadata):
    """Write metadata with their keys in reverse order, and whole numbers as floats, and the other way round."""
    other = {
        name: float(value)
        if type(value) is int
        else int(value)
        if type(value) is float and value.is_integer() and abs(value) < 2**53 and str(value) != "-0.0"
        else value
        for name, value in reversed(metadata.items())
    }
    return json.dumps(other)


@given(tables_of_records(), st.booleans())
@SETTINGS
def test_every_form_of_a_record_has_the_same_digest(tmp_path, drawn, is_large):
    records, kinds = drawn
    struct = pa.struct(list(kinds.items()))
    fixed = pa.table(
        {
            "id": pa.array([record["id"] for record in records], pa.large_string() if is_large else pa.string()),
            "values": pa.array([record["values"] for record in records], pa.list_(pa.float32(), 2)),
            "sparse_values": pa.array([record["sparse_values"] for record in records], SPARSE),
        }
    )
    metadata = [record["metadata"] for record in records]
    of_structs = fixed.append_column("metadata", pa.array(metadata, struct))
    of_json = fixed.append_column("metadata", pa.array(map(reordered_json, metadata)))
    of_columns = fixed
    for name, kind in kinds.items():
        of_columns = of_columns.append_column(name, pa.array([one[name] for one in metadata], kind))
    frame = pd.DataFrame({"id": [record["id"] for record in records], "metadata": metadata})
    frame["values"] = [np.array(record["values"], np.float64) for record in records]
    frame["sparse_values"] = [record["sparse_values"] for record in records]
    path = tmp_path / "records.parquet"
    pq.write_table(of_structs if kinds else of_json, path)  # Parquet has no struct without a field
    (of_parquet,) = ParquetSource(find_parquet_files(LocalFileSystem(), str(path)), Columns()).chunks(SHAPE)
    padded = pa.concat_tables([of_structs, of_structs]).combine_chunks()
    forms = {
        "Python": read(records),
        "struct": read(of_structs),
        "JSON": read(of_json),
        "columns": read(of_columns, metadata_columns=tuple(kinds)),
        "DataFrame": read(frame),
        "Parquet": of_parquet,
        "a slice": read(padded.slice(len(records), len(records))),
    }
    found = {name: digests_of(chunk) for name, chunk in forms.items()}
    assert all(found["Python"])
    for name, digests in found.items():
        assert digests == found["Python"], name


# Other records ----------------------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, 1.0, -1, 0.1, 2**53, 2**70])
    | st.sampled_from(["", "0", "1", "a", "\1", "1.0"])
    | st.lists(st.sampled_from(["", "a", "\0"]), max_size=2)
)
RECORDS = st.fixed_dictionaries(
    {"id": st.sampled_from(["a", "b"])},
    optional={
        "values": st.lists(st.sampled_from([0.0, -0.0, 1.0, 1e-46]), min_size=2, max_size=2),
        "sparse_values": st.builds(
            lambda indices, value: {"indices": indices, "values": [value] * len(indices)},
            st.sampled_from([[1], [2], [1, 2]]),
            st.sampled_from([1.0, 2.0]),
        ),
        "metadata": st.none() | st.dictionaries(st.sampled_from(["a", "b", "ab", "é"]), SCALARS, max_size=2),
    },
)


def stored(body):
    """Return what the server stores of a record that is sent: numbers as float64, metadata in any order."""
    record = orjson.loads(body)
    metadata = {
        key: ("number", str(float(value))) if type(value) in (int, float) else value
        for key, value in record.get("metadata", {}).items()
    }
    vectors = [json.dumps(record.get(part)) for part in ("values", "sparseValues")]
    return record["id"], vectors, sorted(metadata.items(), key=str)


@given(RECORDS, RECORDS)
@settings(SETTINGS, max_examples=500)
def test_two_records_have_the_same_digest_only_if_they_are_stored_as_the_same(first, second):
    chunk = read([first, second])
    bodies = encode(chunk, IndexShape(), max_bytes=10_000).records.bodies
    if len(bodies) < 2:
        return  # one of them is rejected
    digests = digests_of(chunk)
    assert all(digests)
    assert (digests[0] == digests[1]) == (stored(bodies[0]) == stored(bodies[1]))


@pytest.mark.parametrize(
    ("column", "kind", "invalid"),
    [
        ("values", pa.list_(pa.float32()), [0.0, None]),
        ("values", pa.list_(pa.float16()), [np.float16(0), None]),
        ("values", pa.list_(pa.int64()), [0, None]),
        ("sparse_values", SPARSE, {"indices": [None], "values": [0.0]}),
        ("sparse_values", SPARSE, {"indices": [0], "values": [None]}),
        ("metadata", pa.string(), "["),
        ("metadata", pa.string(), '{"a": null, "b": [1]}'),
        ("metadata", pa.struct([("a", pa.list_(pa.int64()))]), {"a": [1]}),
        ("metadata", pa.struct([("a", pa.int64())]), {"a": 2**53 + 1}),
        ("metadata", pa.struct([("a", pa.float64())]), {"a": float("nan")}),
        ("metadata", pa.struct([("$a", pa.string())]), {"$a": "x"}),
        ("id", pa.string(), None),
        ("id", pa.string(), ""),
    ],
)
def test_a_record_whose_values_cannot_be_read_has_no_digest(column, kind, invalid):
    columns = {"id": pa.array(["a"]), "values": pa.array([[0.0, 1.0]], pa.list_(pa.float32()))}
    chunk = read(pa.table({**columns, column: pa.array([invalid], kind)}))
    assert digests_of(chunk) == [None]
    assert len(encode(chunk, IndexShape(), max_bytes=10_000).errors) == 1


def test_a_violation_of_the_source_leaves_its_record_without_a_digest():
    digests = digests_of(read([{"id": "a", "values": "x"}, {"id": "b", "values": [1, 2]}]))
    assert [digest is not None for digest in digests] == [False, True]


# The form ---------------------------------------------------------------------------------------


def test_the_form_of_a_digest_is_that_of_its_version():
    """A digest that is stored is compared by a later version of this package: another form needs another version."""
    metadata = {"title": "Ä", "year": 2024, "score": 0.5, "is_new": True, "tags": ["a", "bc"]}
    record = {
        "id": "a",
        "values": [1.0, -2.5],
        "sparse_values": {"indices": [1], "values": [0.5]},
        "metadata": metadata,
    }
    found = digest_records(read([record]))
    assert DIGEST_VERSION == 1
    assert found.digests.tobytes().hex() == "a96faf705e04a756c0a4261e9363ac81"
    assert found.id_hashes.tobytes().hex() == "e6c632b61e964e1f"
    assert found.sizes.tolist() == [1 + 2 * 4 + 8 + (5 + 2) + (4 + 8) + (5 + 8) + (6 + 1) + (4 + 4 + 1 + 4 + 2)]


def test_the_first_bytes_of_a_digest_are_those_of_its_id():
    records = [{"id": record_id, "values": [1.0, n]} for n, record_id in enumerate(["a", "b", "a"])]
    found = digest_records(read(records))
    ids = digest_ids(pa.array(["a", "b", "a", None]))
    checks = found.digests.view(np.uint32)[:, 0]
    assert checks.tolist() == ids.checks[:3].tolist()
    assert found.id_hashes.tolist() == ids.hashes[:3].tolist()
    assert checks[0] == checks[2] != checks[1]
    assert ids.lengths.tolist() == [1, 1, 1, 0]
