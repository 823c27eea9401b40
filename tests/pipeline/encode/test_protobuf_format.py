"""Protobuf's own parser reads what is encoded, and so does the reader of this package."""

import math

import numpy as np
import orjson
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from airflow_pinecone_upsert.api import protobuf
from airflow_pinecone_upsert.emulator.messages import MESSAGES, to_json
from airflow_pinecone_upsert.pipeline.encode.json_format import JSON
from airflow_pinecone_upsert.pipeline.encode.protobuf_format import PROTOBUF

FLOAT32 = st.integers(0, 2**32 - 1).map(lambda bits: np.uint32(bits).view(np.float32)).filter(np.isfinite)
VECTORS = st.lists(FLOAT32, min_size=1, max_size=40).map(np.float32)
SPARSE = st.dictionaries(st.integers(0, 2**32 - 1), FLOAT32, min_size=1, max_size=40).map(
    lambda entries: {"indices": np.array(list(entries), np.int64), "values": np.float32(list(entries.values()))}
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53) | st.just(2**60)
METADATA = st.dictionaries(TEXT, TEXT | st.booleans() | NUMBERS | st.lists(TEXT), min_size=1)


def plain(record):
    """Return a record of lists, in which bits decide whether two numbers are equal."""
    found = {**record, "metadata": {key: repr(value) for key, value in record.get("metadata", {}).items()}}
    if "values" in found:
        found["values"] = np.float32(found["values"]).tobytes()
    if "sparseValues" in found:
        sparse = found["sparseValues"]
        found["sparseValues"] = list(sparse["indices"]), np.float32(sparse["values"]).tobytes()
    return found


@given(
    record_id=TEXT.filter(bool),
    values=st.none() | VECTORS,
    sparse=st.none() | SPARSE,
    metadata=st.none() | METADATA,
)
def test_a_record_is_read_as_it_was(record_id, values, sparse, metadata):
    record = {"id": record_id, "values": values, "sparseValues": sparse, "metadata": metadata}
    record = {name: part for name, part in record.items() if part is not None}
    body = PROTOBUF.encode(record_id, values, sparse, metadata)
    message = MESSAGES["UpsertRequest"].FromString(body)
    [vector] = message.vectors
    assert message.ByteSize() == len(body)
    read = {"id": "", **to_json(vector)}
    if metadata is not None:
        read["metadata"] = {key: float_if_number(value) for key, value in read["metadata"].items()}
        wanted = {**record, "metadata": {key: float_if_number(value) for key, value in metadata.items()}}
    else:
        wanted = record
    assert plain(read) == plain(wanted)
    decoded = PROTOBUF.decode(body)
    assert plain({**decoded, "metadata": read.get("metadata", {})}) == plain(wanted)
    assert decoded.get("metadata") == metadata


def float_if_number(value):
    return float(value) if type(value) in (int, float) else value


@given(values=VECTORS, metadata=METADATA)
def test_both_formats_decode_to_the_same_metadata(values, metadata):
    over_grpc = PROTOBUF.decode(PROTOBUF.encode("a", values, None, metadata))["metadata"]
    over_rest = JSON.decode(JSON.encode("a", values, None, metadata))["metadata"]
    assert over_grpc == over_rest
    assert [math.copysign(1, value) for value in over_grpc.values() if value == 0] == [
        math.copysign(1, value) for value in over_rest.values() if value == 0
    ]


@given(metadata=METADATA)
def test_the_json_of_metadata_grows_at_most_by_the_bound(metadata):
    """The size of metadata is looked at only where a record is long enough to break the rule."""
    size = len(orjson.dumps(metadata))
    assert size <= len(PROTOBUF.encode("a", None, None, metadata)) * PROTOBUF.max_json_growth
    assert size <= len(JSON.encode("a", None, None, metadata)) * JSON.max_json_growth


def test_a_record_has_as_many_bytes_as_protobuf_writes():
    metadata = {"title": "Solaris", "year": 1961, "tags": ["novel", "sf"], "score": 0.5, "ok": True}
    values = np.random.default_rng(1).random(1_536, np.float32)
    vector = MESSAGES["Vector"](
        id="a", values=values, metadata=json_format.ParseDict(metadata, MESSAGES["Vector"]().metadata)
    )
    request = MESSAGES["UpsertRequest"](vectors=[vector])
    assert len(PROTOBUF.encode("a", values, None, metadata)) == request.ByteSize()


@pytest.mark.parametrize("text", ["\ud800", "a\udfff"])
def test_text_that_is_not_unicode_is_an_error(text):
    for metadata in ({text: 1}, {text: "a"}, {"a": text}, {"a": [text]}):
        for wire_format in (PROTOBUF, JSON):
            with pytest.raises(UnicodeError, match="surrogates"):
                wire_format.encode("a", None, None, metadata)


@given(st.binary(max_size=30))
def test_any_bytes_are_a_message_or_an_error(content):
    try:
        found = list(protobuf.fields(content))
    except ValueError:
        return
    assert all(number >= 0 for number, _ in found)


@given(st.integers(0, 2**32 - 1) | st.integers(0, 2**14))
def test_a_length_is_read_as_it_was(number):
    encoded = protobuf.varint(number)
    assert protobuf.packed_varints(np.array([number, number])) == encoded * 2
    assert protobuf.read_packed_varints(encoded * 2) == [number, number]
    assert list(protobuf.fields(b"\x08" + encoded)) == [(1, number)]
