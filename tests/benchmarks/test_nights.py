"""The harness of the nights of reindexing works with little data. It asserts no figure that depends on the machine."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.benchmarks.bench import Bench
from tests.benchmarks.points import nights
from tests.benchmarks.process import IndexService


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with IndexService() as index:
        yield Bench(index, tmp_path_factory.mktemp("bench"), runs=1, quick=True, say=lambda _: None)


def test_a_night_sends_what_changed_and_its_sample_is_verified(bench):
    section = nights.nights(bench, rivals=())
    values = {figure.what: figure.value for figure in section.figures}
    assert values["0 % changed: requests against an upsert"] == 0
    assert 0.008 < values["1 % changed: bytes against an upsert"] <= 0.015
    assert 0.08 < values["10 % changed: bytes against an upsert"] < 0.12
    rows = {name: others for name, *_, others in section.tables[0].rows}
    assert rows == {
        "upsert": "1",  # the statistics
        "this project, first night": "4",  # and 100 records, 40 at a time
        "this project, 0 % changed": "4",
        "this project, 1 % changed": "4",
        "this project, 10 % changed": "6",
    }


def test_an_unchanged_night_is_compared_with_reading(bench):
    section = nights.unchanged(bench)
    assert [row[0] for row in section.tables[0].rows] == ["1536 dimensions", "64 dimensions"]


def test_every_record_of_a_manifest_is_found(bench):
    section = nights.manifest(bench)
    assert [figure.what for figure in section.figures] == [
        "peak of 20,000 records",
        "comparison of a record",
        "loading and compaction",
    ]
    assert all(figure.value > 0 for figure in section.figures)


def test_the_cost_grows_with_the_share_of_changed_records(bench):
    section = nights.cost(bench)
    shares = {figure.what.partition(" %")[0]: figure.value for figure in section.figures}
    assert list(shares) == ["0", "1", "10", "100"]
    assert shares["0"] == 0
    assert shares["1"] == pytest.approx(0.01, rel=0.05)
    assert shares["100"] == pytest.approx(1, rel=0.01)
    labels = set(re.findall(r"<text [^>]*>([^<]*)</text>", section.charts["cost.svg"]))
    assert {"this project", "write units · USD", "0 M · 0 USD", "100 %"} <= labels
