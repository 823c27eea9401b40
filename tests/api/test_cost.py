"""Write units by Pinecone's rule, with the figures of its documentation."""

import pytest

from airflow_pinecone_upsert.api.cost import rewrite_units, write_units


@pytest.mark.parametrize(
    ("record_bytes", "units"),
    [
        ((0,), 5),
        ((1, 1), 5),
        ((5_000,), 5),
        ((5_001,), 6),
        ((100 * 7_140, 0), 714),
        ((100 * 7_140, 100 * 7_140), 1_428),
    ],
)
def test_a_request_costs_its_kilobytes_and_those_that_it_overwrites_but_at_least_five_units(record_bytes, units):
    assert write_units(*record_bytes) == units


def test_a_million_records_of_7_kilobytes_rewritten_in_place_cost_14_million_units():
    assert rewrite_units(1_000_000 * 7_140) == 14_280_000
