"""Keys: each means one record, whatever namespace and id are, and the same one wherever it comes from."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_pinecone_upsert.pipeline.encode.encoder import encode
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.options import UpsertOptions
from airflow_pinecone_upsert.pipeline.read.in_memory import InMemorySource
from airflow_pinecone_upsert.reindex.digest import digest_ids, digest_records
from airflow_pinecone_upsert.reindex.keys import NamespacedKeys, Place, keys_of

SHAPE = IndexShape(2)
MANY = UpsertOptions(namespace="unknown", namespace_column="tenant")
TEXT = st.text(st.characters(min_codepoint=1, max_codepoint=127), max_size=4)


def chunk_of(rows):
    records = [{"id": one, "values": [1.0, 2.0], "tenant": tenant} for tenant, one in rows]
    (chunk,) = InMemorySource(records, MANY).chunks(SHAPE)
    return chunk


def test_the_key_of_a_single_namespace_is_the_id():
    keys = keys_of(UpsertOptions(namespace="articles"))
    assert list(keys.of("articles", ["a", "b"])) == ["a", "b"]
    assert (keys.place("a"), keys.label("a")) == (Place("articles", "a"), "a")
    assert keys.prefixes(chunk_of([("acme", "a")])) is None
    assert not keys.name_namespaces


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8))
@settings(deadline=None)
def test_a_key_means_one_record(places):
    keys = keys_of(MANY)
    found = [key for namespace, one in places for key in keys.of(namespace, [one])]
    assert [keys.place(key) for key in found] == places
    column = pa.array(["skipped", *found], pa.large_string()).slice(1)
    assert keys.namespaces(column).to_pylist() == [namespace for namespace, _ in places]
    assert keys.namespaces(column.slice(0, 0)).to_pylist() == []


@given(st.lists(st.tuples(st.sampled_from(["acme", "", "__default__", None, 7, "é"]), st.sampled_from("ab"))))
@settings(deadline=None)
def test_the_key_of_a_record_is_that_of_its_request(rows):
    """The digest is computed before the record is encoded. One that names no valid namespace has no digest."""
    if not rows:
        return
    keys, chunk = keys_of(MANY), chunk_of(rows)
    digests = digest_records(chunk, keys)
    records = encode(chunk, SHAPE, max_bytes=1_000, namespace=MANY.namespace).records
    sent = keys.of_records(records)
    assert digest_ids(pa.array(sent, pa.large_string())).hashes.tolist() == digests.id_hashes[digests.is_valid].tolist()
    assert [keys.of(*one)[0] for one in zip(records.namespaces, ([one] for one in records.ids), strict=True)] == sent
    assert digests.is_valid.tolist() == [tenant != "é" for tenant, _ in rows]
    assert keys.named_in(chunk) == set(records.namespaces)
    nothing = digest_ids(pa.array([None], pa.string())).hashes[0]
    assert (digests.id_hashes[~digests.is_valid] == nothing).all()


def test_the_digest_of_a_record_names_its_namespace_and_its_size_does_not():
    keys = NamespacedKeys("")
    one, other = (digest_records(chunk_of([(tenant, "a")]), keys) for tenant in ("acme", "globex"))
    assert one.digests.tolist() != other.digests.tolist()
    assert one.sizes.tolist() == other.sizes.tolist() == digest_records(chunk_of([("acme", "a")])).sizes.tolist() == [9]


@pytest.mark.parametrize(("namespace", "label"), [("acme", "acme/a"), ("", "__default__/a")])
def test_a_label_names_both(namespace, label):
    keys = NamespacedKeys("n")
    (key,) = keys.of(namespace, ["a"])
    assert keys.label(key) == label
