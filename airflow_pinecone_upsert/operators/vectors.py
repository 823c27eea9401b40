"""
Vectors as the parameter of an operator: XComArgs are resolved, but the values are not visited, rendered or shown.

Invariant: of a vector, only the first component is looked at, so the cost grows with the records and not with their
dimension.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from numbers import Number
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from airflow.sdk import Context

_MAX_DEPTH: Final = 5
"""Where XComArgs are looked for: in a list of lists of records, in a value of the metadata that is a list."""


class Vectors:
    """
    The value of the operator's ``vectors``, from the parsing of the DAG to the end of the task.

    :param value: Records, or an XComArg of them, or a list of XComArgs; parts of a record may be XComArgs, too.
    :param unit: What the *Rendered Template* view shows after the number of items.
    """

    def __init__(self, value: Any, unit: str = "vectors") -> None:
        self.value = value
        self._unit = unit

    def serialize(self) -> str:
        """Return what Airflow stores and shows instead of the value."""
        try:
            return f"<{len(self.value):,} {self._unit}>"
        except TypeError:
            return f"<{self._unit}>"

    __repr__ = serialize

    def references(self) -> Iterator[Any]:
        """Yield the XComArgs in the value, so that the tasks that they come from can be set upstream."""
        return _references(self.value, _MAX_DEPTH)

    def resolved(self, context: Context) -> Vectors:
        """Pull the XComs. What they hold is taken as it is."""
        value = _resolved(self.value, context, _MAX_DEPTH)
        is_list_of_xcoms = isinstance(self.value, (list, tuple)) and any(map(_is_reference, self.value))
        is_mapped = type(value).__name__ == "LazyXComSequence"  # the class is not public
        unit = self._unit
        return Vectors(value, f"XComs of {unit}" if is_mapped or is_list_of_xcoms else unit)


def _is_reference(value: Any) -> bool:
    """Recognise an XComArg, or an argument of a mapped task group, whose class is not public."""
    return hasattr(value, "resolve") and hasattr(value, "iter_references")


def _items(value: Any) -> Collection[Any]:
    """Return the parts of a value in which XComArgs may be; none of a vector."""
    if isinstance(value, dict):
        return value.values()
    is_list = isinstance(value, (list, tuple)) and len(value) > 0
    return value if is_list and not isinstance(value[0], Number) else ()


def _references(value: Any, depth: int) -> Iterator[Any]:
    if _is_reference(value):
        yield value
    elif depth:
        for item in _items(value):
            yield from _references(item, depth - 1)


def _resolved(value: Any, context: Context, depth: int) -> Any:
    """Return the value with the XComs in it; the same object, and no copy, where it holds none."""
    if _is_reference(value):
        return value.resolve(context)
    if next(_references(value, depth), None) is None:
        return value
    items = [_resolved(item, context, depth - 1) for item in _items(value)]
    if isinstance(value, dict):
        return dict(zip(value, items, strict=True))
    return tuple(items) if isinstance(value, tuple) else items
