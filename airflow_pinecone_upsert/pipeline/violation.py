"""A broken rule, before it is known where the record stands."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

_MAX_SHOWN: Final = 80


class Violation(NamedTuple):
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


def preview(value: Any) -> str:
    """Shorten a value for a message of one line."""
    if isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, np.ndarray):
        value = np.atleast_1d(value)[:_MAX_SHOWN].tolist()
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = f"a very long {type(value).__name__}"
    except Exception:  # noqa: BLE001 - a user's class may raise anything here, and must not hide what is to be told
        text = f"a {type(value).__name__}"
    return _shortened(text)


def key_path(field: str, key: object) -> str:
    """
    Name a key below a field, in text that any log and file can hold.

    :param key: As a user wrote it: of any type, of any length, with lone surrogates.
    """
    text = key if isinstance(key, str) else preview(key)
    return f"{field}.{_shortened(text.encode('utf-8', 'backslashreplace').decode())}"


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"
