"""Numbers as parameters, which a template or an XCom may have turned into text."""

from __future__ import annotations

from typing import Any

from airflow_pinecone_upsert.exceptions import SetupError


def whole_number(parameter: str, value: Any, example: str = "1000") -> int | None:
    """
    Return a number, or None for what a template makes of it.

    :param parameter: Its name, for the message.
    :param example: A valid value, for the message.
    :raises SetupError: It is no whole number.
    """
    if value in (None, "", "None"):
        return None
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if is_number or (isinstance(value, str) and value.isascii() and value.isdigit()):
        return int(value)
    raise SetupError(f"{parameter} holds {value!r:.80}, which is not a whole number. Pass one, such as {example}.")
