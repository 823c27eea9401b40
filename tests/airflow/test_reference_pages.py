"""The pages in ``docs/reference/``: their tables match the code."""

from __future__ import annotations

import inspect
import json
import re

import pytest

from airflow_pinecone_upsert import (
    PineconeReindexOperator,
    PineconeUpsertOperator,
    ReindexReport,
    UpsertReport,
    plan_tasks,
)
from airflow_pinecone_upsert.api import limits

from .readme import page_text, table

PARAMETERS = page_text("reference/parameters.md")


@pytest.mark.parametrize("operator", [PineconeUpsertOperator, PineconeReindexOperator])
def test_parameters_tables_match_the_operators_signatures(operator):
    parameters = [
        parameter
        for kind in operator.__mro__
        if kind.__module__.startswith("airflow_pinecone_upsert")
        for parameter in inspect.signature(kind.__init__).parameters.values()
    ]
    named = {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}
    upsert, reindex = (
        {name.strip("`"): _value(default) for name, default, _ in table(PARAMETERS, heading)}
        for heading in ("Of an upsert", "Of reindexing")
    )
    if operator is PineconeReindexOperator:
        del upsert["durable"]
    assert named == (upsert if operator is PineconeUpsertOperator else upsert | reindex)


def test_the_table_of_a_plan_matches_its_signature():
    listed = {name.strip("`"): _value(default) for name, default, _ in table(PARAMETERS, "Of a plan")}
    assert listed == {one.name: one.default for one in inspect.signature(plan_tasks).parameters.values()}


def _value(default):
    return inspect.Parameter.empty if default == "required" else json.loads(default.strip("`").replace("None", "null"))


@pytest.mark.parametrize(
    ("report", "start"), [(UpsertReport(), "The task's output is"), (ReindexReport(), "The output also has")]
)
def test_the_output_keys_are_listed(report, start):
    listed = set(re.findall(r"`(\w+)`", PARAMETERS.partition(start)[2].partition("\n\n")[0]))
    upsert_keys = set() if start.startswith("The task") else set(UpsertReport().as_output())
    assert set(report.as_output()) - upsert_keys <= listed


def test_limits_table_matches_the_code():
    rows = table(page_text("reference/limits.md"), "Of Pinecone's API")
    assert [int(value.replace(",", "")) for _, value in rows] == [
        limits.MAX_RECORDS_PER_REQUEST,
        limits.MAX_REQUEST_BYTES,
        limits.MAX_ID_LENGTH,
        limits.MAX_DIMENSION,
        limits.MAX_SPARSE_VALUES,
        limits.MAX_METADATA_BYTES,
        limits.MAX_REQUESTS_PER_SECOND,
        limits.MAX_BYTES_PER_SECOND,
    ]
