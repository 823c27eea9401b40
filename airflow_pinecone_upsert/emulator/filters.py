"""
Pinecone's metadata filter expressions, compiled to predicates.

https://docs.pinecone.io/guides/index-data/indexing-overview#metadata-filter-expressions

Invariants:

* A compiled filter never fails, with any metadata.
* A string, a number and a boolean are never equal to one another.
* ``$ne`` and ``$nin`` are the negations of ``$eq`` and ``$in``, so they match a record without the field.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

from airflow_pinecone_upsert.emulator.rules import ApiError

Predicate = Callable[[Mapping[str, Any]], bool]
"""Whether a record with this metadata matches."""

_Test = Callable[[Any], bool]
"""Whether the value of one field matches. ``None`` means that the field is absent, because metadata contain no null."""

_COMPARISONS: Final[dict[str, Callable[[float, float], bool]]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def compile_filter(expression: Mapping[str, Any]) -> Predicate:
    """
    Compile a filter.

    :param expression: Such as ``{"genre": {"$in": ["comedy", "drama"]}, "year": {"$gte": 2020}}``. A record matches an
        object if it matches all entries; every record matches an empty object.
    :return: The predicate.
    :raises ApiError: An operator is unknown, or an operand has the wrong type.
    """
    predicates = [_compile_entry(key, operand) for key, operand in expression.items()]
    return lambda metadata: all(predicate(metadata) for predicate in predicates)


def _compile_entry(key: str, operand: object) -> Predicate:
    if key in ("$and", "$or"):
        if not isinstance(operand, list) or not operand or not all(isinstance(part, dict) for part in operand):
            raise ApiError(f"The {key} operator must be followed by a non-empty list of filters, got {operand!r}")
        parts = [compile_filter(part) for part in operand]
        combine = all if key == "$and" else any
        return lambda metadata: combine(part(metadata) for part in parts)
    if key.startswith("$"):
        raise ApiError(f"{key} is not a valid operator")
    conditions = operand if isinstance(operand, dict) else {"$eq": operand}
    if not conditions:
        raise ApiError(f"The filter on field '{key}' contains no operator")
    tests = [_compile_test(name, value) for name, value in conditions.items()]
    return lambda metadata: all(test(metadata.get(key)) for test in tests)


def _compile_test(name: str, operand: Any) -> _Test:
    if name in ("$eq", "$ne"):
        return _one_of(name, [operand], negated=name == "$ne")
    if name in ("$in", "$nin"):
        if not isinstance(operand, list):
            raise ApiError(f"The {name} operator must be followed by a list, got {operand!r}")
        return _one_of(name, operand, negated=name == "$nin")
    if name == "$exists":
        if not isinstance(operand, bool):
            raise ApiError(f"The $exists operator must be followed by a boolean, got {operand!r}")
        return lambda value: (value is not None) is operand
    if name in _COMPARISONS:
        if not _is_number(operand):
            raise ApiError(f"The {name} operator must be followed by a number, got {operand!r}")
        compare = _COMPARISONS[name]
        return lambda value: _is_number(value) and compare(value, operand)
    raise ApiError(f"{name} is not a valid operator")


def _one_of(name: str, operands: list[Any], *, negated: bool) -> _Test:
    """Test whether a value, or an item of a list, is one of ``operands``; if negated, whether none is."""
    for operand in operands:
        if not isinstance(operand, (str, int, float)):
            raise ApiError(f"The {name} operator takes strings, numbers and booleans, got {operand!r}")
    choices = frozenset(map(_typed, operands))

    def test(value: Any) -> bool:
        items = value if isinstance(value, list) else [value]
        return any(_typed(item) in choices for item in items) is not negated

    return test


def _typed(value: object) -> tuple[bool, object]:
    """Distinguish ``True`` from 1, which are equal in Python."""
    return isinstance(value, bool), value


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
