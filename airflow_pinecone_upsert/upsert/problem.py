"""A broken rule, before it is known where the record stands."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

_MAX_SHOWN: Final = 80


class Problem(NamedTuple):
    """
    What one record breaks.

    :param field: The column or key.
    :param reason: The rule.
    :param remedy: How to keep it.
    :param value: The offending value as text, or None where there is none to show.
    """

    field: str
    reason: str
    remedy: str
    value: str | None = None


def shown(value: Any) -> str:
    """Shorten a value for a message of one line."""
    if isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, np.ndarray):
        value = value[:_MAX_SHOWN].tolist()
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = f"a very long {type(value).__name__}"
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"
