"""
Objects that have the shape of a record: the SDK's ``Vector``, dataclasses, pydantic models.

They are recognised by their fields, so that no version of the SDK is imported. Nothing is copied or converted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel

RECORD_FIELDS: Final = ("id", "values", "sparse_values", "metadata")
SPARSE_FIELDS: Final = ("indices", "values")


def fields_of(value: object, names: Sequence[str]) -> Mapping[str, Any] | None:
    """
    Return the fields of an object as a mapping.

    :param value: Anything but a mapping.
    :param names: The fields to look for; an object without the first and one of the others does not have the shape.
    :return: All fields of a dataclass, a pydantic model or a msgspec struct; the named ones of another object, if it is not
        iterable, because the columns of a table can be attributes, too. None if the object does not have the shape.
    """
    if isinstance(value, type):
        return None
    if isinstance(value, BaseModel):
        found = dict(value)
    elif dataclasses.is_dataclass(value):
        found = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(struct_fields := getattr(value, "__struct_fields__", None), tuple):  # msgspec, as in SDK 10
        found = {name: getattr(value, name) for name in struct_fields}
    elif isinstance(value, Iterable):
        return None
    else:
        found = {name: getattr(value, name) for name in names if hasattr(value, name)}
    return found if names[0] in found and any(name in found for name in names[1:]) else None


def record_fields(value: object) -> Mapping[str, Any] | None:
    """
    Return the fields of an object that has the shape of a record, or None.

    The SDK's ``Vector`` has an empty list of values where it has none.
    """
    found = fields_of(value, RECORD_FIELDS)
    if (
        found
        and found.get("sparse_values") is not None
        and isinstance(found.get("values"), list)
        and not found["values"]
    ):
        return {**found, "values": None}
    return found
