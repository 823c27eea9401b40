"""Vectors as the parameter of an operator: XComArgs are resolved, but the values are not visited, rendered or shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import Context


class Vectors:
    """
    The value of the operator's ``vectors``, from the parsing of the DAG to the end of the task.

    :param value: Records, or an XComArg of them, or a list of XComArgs.
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

    def resolved(self, context: Context) -> Vectors:
        """Pull the XComs, also those in a list."""
        value = self.value
        if isinstance(value, (list, tuple)) and any(_is_reference(item) for item in value):
            return Vectors([item.resolve(context) for item in value], "XComs of vectors")
        if not _is_reference(value):
            return self
        resolved = value.resolve(context)
        is_mapped = type(resolved).__name__ == "LazyXComSequence"  # the class is not public
        return Vectors(resolved, "XComs of vectors" if is_mapped else "vectors")


def _is_reference(value: Any) -> bool:
    return hasattr(value, "resolve")
