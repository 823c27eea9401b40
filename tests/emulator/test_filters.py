"""Metadata filters: the documented expressions, and a property test against a reference interpreter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pinecone_upsert.emulator.filters import compile_filter
from airflow_pinecone_upsert.emulator.rules import ApiError

MOVIE = {"genre": "drama", "year": 2020, "rating": 7.5, "seen": True, "tags": ["slow", "long"]}


@pytest.mark.parametrize(
    ("expression", "matches"),
    [
        ({}, True),
        ({"genre": "drama"}, True),
        ({"genre": "comedy"}, False),
        ({"genre": {"$eq": "drama"}, "year": 2020}, True),
        ({"genre": {"$eq": "drama"}, "year": 2021}, False),
        ({"year": {"$gt": 2019, "$lt": 2021}}, True),
        ({"year": {"$gte": 2020, "$lt": 2020}}, False),
        ({"rating": {"$lte": 7.5}}, True),
        ({"genre": {"$gt": 1}}, False),
        ({"seen": True}, True),
        ({"seen": 1}, False),
        ({"year": "2020"}, False),
        ({"tags": "slow"}, True),
        ({"tags": {"$in": ["fast", "long"]}}, True),
        ({"tags": {"$nin": ["fast", "long"]}}, False),
        ({"tags": {"$ne": "slow"}}, False),
        ({"genre": {"$in": []}}, False),
        ({"absent": {"$ne": "x"}}, True),
        ({"absent": {"$nin": ["x"]}}, True),
        ({"absent": {"$exists": False}}, True),
        ({"absent": {"$gt": 0}}, False),
        ({"genre": {"$exists": True}}, True),
        ({"$and": [{"genre": "drama"}, {"year": {"$gt": 2020}}]}, False),
        ({"$or": [{"genre": "comedy"}, {"$and": [{"seen": True}, {"year": 2020}]}]}, True),
    ],
)
def test_documented_expressions(expression, matches):
    assert compile_filter(expression)(MOVIE) is matches


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ({"genre": {"$regex": "d.*"}}, "$regex is not a valid operator"),
        ({"genre": {"nested": 1}}, "nested is not a valid operator"),
        ({"$not": [{}]}, "$not is not a valid operator"),
        ({"genre": {}}, "The filter on field 'genre' contains no operator"),
        ({"genre": None}, "The $eq operator takes strings, numbers and booleans, got None"),
        ({"genre": ["a"]}, "The $eq operator takes strings, numbers and booleans, got ['a']"),
        ({"genre": {"$in": "a"}}, "The $in operator must be followed by a list, got 'a'"),
        ({"genre": {"$in": [["a"]]}}, "The $in operator takes strings, numbers and booleans, got ['a']"),
        ({"year": {"$gt": True}}, "The $gt operator must be followed by a number, got True"),
        ({"year": {"$exists": 1}}, "The $exists operator must be followed by a boolean, got 1"),
        ({"$and": []}, "The $and operator must be followed by a non-empty list of filters, got []"),
        ({"$or": [1]}, "The $or operator must be followed by a non-empty list of filters, got [1]"),
    ],
)
def test_invalid_expressions_are_rejected(expression, message):
    with pytest.raises(ApiError) as caught:
        compile_filter(expression)
    assert caught.value.message == message


names = st.sampled_from("abc")
scalars = st.one_of(st.sampled_from(["x", "y", ""]), st.integers(-1, 2), st.sampled_from([0.5, 1.0]), st.booleans())
numbers = st.integers(-1, 2) | st.sampled_from([0.5, 1.0])
values = scalars | st.lists(st.sampled_from(["x", "y"]), max_size=2)
conditions = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne"]), scalars),
    st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(scalars, max_size=3)),
    st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), numbers),
    st.tuples(st.just("$exists"), st.booleans()),
)
fields = st.dictionaries(names, scalars | st.lists(conditions, min_size=1, max_size=2).map(dict), max_size=2)
expressions = st.recursive(
    fields,
    lambda parts: st.dictionaries(
        st.sampled_from(["$and", "$or"]), st.lists(parts, min_size=1, max_size=3), min_size=1, max_size=2
    ),
    max_leaves=6,
)


def reference(expression, metadata):
    """Interpret a filter without compiling it."""
    for key, operand in expression.items():
        if key == "$and":
            matches = all(reference(part, metadata) for part in operand)
        elif key == "$or":
            matches = any(reference(part, metadata) for part in operand)
        elif isinstance(operand, dict):
            matches = all(reference_condition(name, value, key, metadata) for name, value in operand.items())
        else:
            matches = reference_condition("$eq", operand, key, metadata)
        if not matches:
            return False
    return True


def reference_condition(name, operand, key, metadata):
    if name == "$exists":
        return (key in metadata) == operand
    if name in ("$ne", "$nin"):
        return not reference_condition({"$ne": "$eq", "$nin": "$in"}[name], operand, key, metadata)
    if key not in metadata:
        return False
    items = metadata[key] if isinstance(metadata[key], list) else [metadata[key]]
    if name == "$in":
        return any(reference_condition("$eq", choice, key, metadata) for choice in operand)
    if name == "$eq":
        return any(item == operand and (type(item) is bool) == (type(operand) is bool) for item in items)
    number = metadata[key]
    comparable = isinstance(number, (int, float)) and not isinstance(number, bool)
    return (
        comparable
        and {
            "$gt": number > operand,
            "$gte": number >= operand,
            "$lt": number < operand,
            "$lte": number <= operand,
        }[name]
    )


@given(expressions, st.dictionaries(names, values))
def test_filters_agree_with_the_reference(expression, metadata):
    assert compile_filter(expression)(metadata) is reference(expression, metadata)
