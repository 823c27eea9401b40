"""The id table, compared with a plain dict; also with hashes so short that most ids collide."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_pinecone_upsert.reindex.digest import RecordDigests, digest_ids
from airflow_pinecone_upsert.reindex.entries import UNKNOWN_DIGEST
from airflow_pinecone_upsert.reindex.id_table import IdTable

IDS = st.integers(0, 400).map("r{}".format)
RECORDS = st.tuples(IDS, st.integers(1, 3), st.sampled_from([True, True, True, False]))
"""An id, the number of its content, and whether it is valid."""


def digests_of(records):
    ids = digest_ids(pa.array([record_id for record_id, *_ in records], pa.string()))
    digests = np.zeros((len(records), 2), np.uint64)
    digests[:, 1] = [content for _, content, *_ in records]
    digests.view(np.uint32)[:, 0] = ids.checks
    is_valid = np.array([valid for *_, valid in records], bool)
    return RecordDigests(ids.hashes, digests, ids.lengths, is_valid)


def batches_of(entries):
    """Make record batches of a manifest; content 0 stands for an unknown digest, None for an id that was removed."""
    for start in range(0, len(entries), 3):
        part = entries[start : start + 3]
        known = digests_of([(record_id, content or 0, True) for record_id, content in part]).digests
        digests = [
            None if content is None else digest.tobytes() if content else UNKNOWN_DIGEST
            for digest, (_, content) in zip(known, part, strict=True)
        ]
        ids = pa.array([record_id for record_id, _ in part], pa.large_string())
        batch = pa.RecordBatch.from_pydict({"id": ids, "digest": pa.array(digests, pa.binary(16))})
        yield batch.slice(0, 1)
        yield batch.slice(1)  # an array may begin anywhere in its buffers


class Model:
    """What the table must say, with the ids."""

    def __init__(self, entries):
        self.manifest = {record_id: content for record_id, content in dict(entries).items() if content is not None}
        self.last = dict(self.manifest)
        self.seen = set()

    def compare(self, chunk):
        kinds = []
        for position, (record_id, _, is_valid) in enumerate(chunk):
            all_equal = all(
                valid and self.last.get(record_id) == other and other
                for other_id, other, valid in chunk
                if other_id == record_id
            )
            is_known = record_id in self.last or any(record_id == other for other, *_ in chunk[:position])
            kinds.append("unchanged" if all_equal and is_valid else "changed" if is_known else "new")
        self.seen |= {record_id for record_id, *_ in chunk}
        return kinds

    def send(self, records):
        self.last |= {record_id: content for record_id, content, _ in records}

    @property
    def vanished(self):
        return set(self.manifest) - self.seen


def entries_in(batches):
    """Return the content of each id, each of which occurs once."""
    rows = [(row["id"], int.from_bytes(row["digest"][8:], "little")) for batch in batches for row in batch.to_pylist()]
    assert len(dict(rows)) == len(rows)
    return dict(rows)


@pytest.mark.parametrize("hash_bits", [1, 8, 64])
@given(
    st.lists(st.tuples(IDS, st.none() | st.integers(0, 3)), max_size=60),
    st.lists(st.tuples(st.lists(RECORDS, min_size=1, max_size=12), st.booleans()), max_size=8),
)
@settings(deadline=None)
def test_the_table_says_what_a_dict_says(hash_bits, entries, chunks):
    table = IdTable(batches_of(entries), hash_bits=hash_bits)
    model = Model(entries)
    assert table.loaded_count == table.unseen_count == len(model.manifest)
    assert entries_in(table.latest(lambda: batches_of(entries))) == model.manifest
    for chunk, is_sent in chunks:
        digests = digests_of(chunk)
        found = table.compare(digests)
        kinds = np.select(found, ["new", "changed", "unchanged"], "none").tolist()
        assert kinds == model.compare(chunk)
        # Records without a digest are not sent, nor are those that the encoder rejects.
        sent = np.flatnonzero(~found.is_unchanged & digests.is_valid) if is_sent else np.empty(0, np.int64)
        table.update(digests.id_hashes[sent], digests.digests[sent])
        model.send([chunk[row] for row in sent])
        assert len(table) == len({record_id for record_id, _ in entries} | set(model.last))
    ids = [*dict(entries), *(record_id for chunk, _ in chunks for record_id, *_ in chunk), "another"]
    is_vanished = table.vanished(pa.array(ids, pa.large_string()))
    assert [record_id for record_id, gone in zip(ids, is_vanished, strict=True) if gone] == [
        record_id for record_id in ids if record_id in model.vanished
    ]
    assert table.unseen_count == len(model.vanished)


@pytest.mark.parametrize("content", [1, 2])
def test_of_an_id_that_occurs_twice_the_last_record_wins(content):
    """Also if the first is equal to the manifest and the second is not, or the reverse."""
    table = IdTable(batches_of([("a", 1)]))
    for other in (content, 3 - content):
        digests = digests_of([("a", other, True)])
        found = table.compare(digests)
        assert found.is_unchanged.tolist() == [other == content == 1]
        sent = ~found.is_unchanged
        table.update(digests.id_hashes[sent], digests.digests[sent])


def test_an_unknown_digest_is_never_unchanged():
    table = IdTable(batches_of([("a", 0)]))
    assert table.compare(digests_of([("a", 1, True)])).is_changed.tolist() == [True]


def test_many_new_ids_are_found_again():
    table = IdTable(batches_of([(f"r{number}", 1) for number in range(1_000)]))
    for start in range(500, 5_000, 300):
        digests = digests_of([(f"r{number}", 1, True) for number in range(start, start + 300)])
        sent = ~table.compare(digests).is_unchanged
        table.update(digests.id_hashes[sent], digests.digests[sent])
    again = digests_of([(f"r{number}", 1, True) for number in range(5_000)])
    assert table.compare(again).is_unchanged.all()
    assert table.unseen_count == 0
