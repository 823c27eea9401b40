"""What a record breaks: a violation says which rule, but not in which record; the caller adds origin, row and id."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple

import numpy as np

_MAX_PREVIEW_CHARS: Final = 80
_MAX_NAMES_SHOWN: Final = 20


class Violation(NamedTuple):
    """
    A rule that one record breaks.

    :param field: The column or key.
    :param reason: The rule.
    :param remedy: How to fix the record.
    :param value: The offending value as text; None where there is none to show.
    """

    field: str
    reason: str
    remedy: str
    value: str | None = None


def preview(value: Any) -> str:
    """Shorten a value to at most 80 characters, for a message of one line."""
    if isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, np.ndarray):
        value = np.atleast_1d(value)[:_MAX_PREVIEW_CHARS].tolist()
    try:
        text = str(value) if isinstance(value, Decimal) else repr(value)
    except ValueError:  # an integer of thousands of digits
        text = f"a very long {type(value).__name__}"
    except Exception:  # noqa: BLE001 - a user's class may raise anything, which must not hide the violation
        text = f"a {type(value).__name__}"
    return _shorten(text)


def key_path(field: str, key: object) -> str:
    """
    Return the name of a key below a field, in text that is safe for logs and files.

    :param key: As the user wrote it: of any type and length, perhaps with lone surrogates.
    """
    text = key if isinstance(key, str) else preview(key)
    return f"{field}.{_shorten(text.encode('utf-8', 'backslashreplace').decode())}"


def preview_names(names: Sequence[str]) -> str:
    """Return the first names of a list, each shortened, and how many more there are."""
    more = len(names) - _MAX_NAMES_SHOWN
    shown = ", ".join(map(preview, names[:_MAX_NAMES_SHOWN]))
    return f"{shown} and {more:,} more" if more > 0 else shown


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_PREVIEW_CHARS else f"{text[: _MAX_PREVIEW_CHARS - 1]}…"
