"""How many distinct ids a run has upserted."""

from hypothesis import given
from hypothesis import strategies as st

from airflow_pinecone_upsert.pipeline.track.distinct_ids import MAX_COUNTED, DistinctIds


@given(requests=st.lists(st.lists(st.text(max_size=2), unique=True)))
def test_ids_are_counted_once(requests):
    ids = DistinctIds()
    for request in requests:
        ids.add(request)
    assert ids.count == len({record_id for request in requests for record_id in request})


def test_there_is_no_count_of_more_than_a_million():
    ids = DistinctIds()
    for first in range(0, MAX_COUNTED, 1_000):
        ids.add([str(number) for number in range(first, first + 1_000)])
    assert ids.count == MAX_COUNTED
    ids.add(["0"])
    assert ids.count is None


def test_a_repeated_id_is_counted_once(index, run):
    report = run(index, [("a", [1.0, 2.0]), ("b", [1.0, 2.0]), ("a", [3.0, 4.0])], batch_size=1)
    assert (report.upserted_count, report.distinct_count, len(index.vectors())) == (3, 2, 2)
