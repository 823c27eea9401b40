"""
The estimates of time and cost, and that the page about them shows what they say.

To write the page's table and chart again: ``RENEW=1 python -m pytest tests/test_capacity.py``.
"""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pinecone_upsert.api import limits
from airflow_pinecone_upsert.capacity import Load, estimate, main, shown_time
from tests.benchmarks import chart

DOCS = Path(__file__).parent.parent / "docs"
MARK = "<!-- computed -->\n"

LOADS = st.builds(
    Load,
    records=st.integers(10_000, 10**9),
    dimension=st.integers(1, 20_000),
    namespaces=st.integers(1, 10_000),
    metadata_bytes=st.integers(0, 40_960),
    changed=st.floats(0.001, 1),
    overwrites=st.booleans(),
    transport=st.sampled_from(["rest", "grpc"]),
)


@given(LOADS)
def test_a_load_takes_no_less_than_each_limit_allows(load):
    found = estimate(load)
    of_one = 1 / load.namespaces
    assert found.seconds >= found.request_bytes * of_one / limits.MAX_BYTES_PER_SECOND * (1 - 1e-9)
    assert found.requests <= found.sent
    assert found.requests * limits.MAX_RECORDS_PER_REQUEST >= found.sent
    assert found.cores <= load.namespaces * (1 + 1e-9)
    assert found.seconds_on(found.cores / 2 or 1) >= found.seconds


def test_the_example_of_the_cost_page_of_pinecone():
    """One million records of 7.14 KB: 7.1 million units into a new namespace, 14.3 million in place."""
    sizes = {"records": 1_000_000, "dimension": 1_536, "metadata_bytes": 7_140 - 4 * 1_536 - 20}
    assert estimate(Load(**sizes)).write_units == 7_140_000
    assert estimate(Load(**sizes, overwrites=True)).usd == pytest.approx(57.12)
    assert estimate(Load(**sizes, overwrites=True, changed=0.02)).usd == pytest.approx(1.14, abs=0.01)


def test_small_requests_cost_at_least_five_units():
    assert estimate(Load(records=1_000, dimension=8, namespaces=1_000)).write_units == 5_000


def test_wide_records_are_limited_by_bytes_and_narrow_ones_by_requests():
    wide = estimate(Load(records=1_000_000, dimension=1_536, metadata_bytes=0))
    assert wide.seconds == pytest.approx(wide.request_bytes / 50e6)
    narrow = estimate(Load(records=10_000_000, dimension=2, metadata_bytes=0, transport="grpc"))
    assert narrow.seconds == pytest.approx(max(10_000_000 / 1_000 / 100, narrow.cores * narrow.seconds))


def test_namespaces_are_loaded_side_by_side():
    one, ten = (estimate(Load(records=10_000_000, dimension=1_536, namespaces=count)) for count in (1, 10))
    assert ten.seconds == pytest.approx(one.seconds / 10)
    assert ten.cores == pytest.approx(10 * one.cores)
    assert ten.seconds_on(one.cores) == pytest.approx(one.seconds)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"records": 0}, "records is 0. Choose 1 to"),
        ({"dimension": 20_001}, "dimension is 20,001. Choose 1 to 20,000."),
        ({"namespaces": 6}, "namespaces is 6. Choose 1 to 5."),
        ({"metadata_bytes": -1}, "metadata_bytes is -1. Choose 0 to 40,960."),
        ({"changed": 0.0}, "changed is 0.0. Choose a share above 0 and up to 1."),
    ],
)
def test_numbers_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        Load(**{"records": 5, "dimension": 8, **changes})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["65.9 minutes", "may be faster", "below 4.00 USD"]),
        (["--transport", "grpc", "--namespaces", "100"], ["with 34 tasks at a time", "not faster"]),
        (["--changed", "0.02"], ["200,000 of 10,000,000", "not possible: the namespaces of an import must be new"]),
        (["--usd-per-million-write-units", "6"], ["below 6.00 USD"]),
        (["--records", "1000000000"], ["one takes at most 1.0 TB"]),
    ],
)
def test_the_command(arguments, expected, capsys):
    assert main(["--records", "10000000", "--dimension", "1536", *arguments]) == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in expected)


def test_the_command_names_an_invalid_argument(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--records", "0", "--dimension", "1536"])
    assert stopped.value.code == 2
    assert "records is 0. Choose 1 to" in capsys.readouterr().err


def test_the_page_shows_what_the_function_says():
    written = {DOCS / "capacity.svg": drawn(), DOCS / "capacity.md": page()}
    if os.environ.get("RENEW"):
        for path, text in written.items():
            path.write_text(text, encoding="utf-8")
    for path, text in written.items():
        assert path.read_text(encoding="utf-8") == text


def page():
    before, _, after = (DOCS / "capacity.md").read_text(encoding="utf-8").partition(MARK)
    return f"{before}{MARK}\n{table()}\n{after[after.index('How Pinecone counts') :]}"


def table():
    of_all = [
        "records",
        "dimensions",
        "1 namespace, REST",
        "gRPC",
        "100 namespaces, REST",
        "cores",
        "write units",
        "USD",
    ]
    rows = [
        [*of_all, "night of 2 % on one core", "USD"],
        ["---:"] * 10,
    ]
    for records in (10_000_000, 100_000_000, 1_000_000_000):
        for dimension in (768, 1_536):
            size = {"records": records, "dimension": dimension}
            one, grpc = estimate(Load(**size)), estimate(Load(**size, transport="grpc"))
            many = estimate(Load(**size, namespaces=100))
            night = estimate(Load(**size, namespaces=100, changed=0.02, overwrites=True))
            rows.append(
                [f"{records // 10**6:,} M", f"{dimension:,}", *(shown_time(e.seconds) for e in (one, grpc, many))]
            )
            rows[-1] += [f"{many.cores:.0f}", f"{one.write_units / 1e6:,.0f} M", f"{one.usd:,.0f}"]
            rows[-1] += [shown_time(night.seconds_on(1)), f"{night.usd:,.0f}"]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def drawn():
    series = {}
    for name, transport, style in (("REST", "rest", "ours"), ("gRPC", "grpc", "other")):
        found = estimate(Load(records=100_000_000, dimension=1_536, namespaces=100, transport=transport))
        series[name] = (style, [(cores, found.seconds_on(cores) / 3_600) for cores in range(1, 41)])
    title = "100 M records of 1,536 dimensions in 100 namespaces: hours by cores"
    return chart.lines(title, "hours", series, "{:.0f} cores".format, "{:.1f}".format)
