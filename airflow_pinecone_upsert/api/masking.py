"""
Masks the API key in text that a server sent: some servers, and proxies in between, echo the request.

A server may write the key with escapes, which a reader or a JSON parser undoes. Those of JSON, of URLs and of HTML are
masked, too.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, ValidationInfo

MASK: Final = "***"

MASK_CONTEXT: Final = "mask"
"""The key of the :class:`KeyMask` in pydantic's validation context."""

_MIN_SECRET_LENGTH: Final = 8
"""Shorter keys exist only on emulators. They may be a part of any word, so only whole words are masked."""


class KeyMask:
    """
    Replaces one key in text, however it is spelled.

    :param key: The API key, printable ASCII.
    """

    def __init__(self, key: str) -> None:
        pattern = "".join(map(_spellings, key))
        if len(key) < _MIN_SECRET_LENGTH:
            pattern = rf"(?<!\w){pattern}(?!\w)"
        # Host names are quoted in lower case.
        self._pattern = re.compile(pattern, re.IGNORECASE)

    def __call__(self, text: str) -> str:
        """Return the text with ``***`` instead of the key."""
        return self._pattern.sub(MASK, text)


def _spellings(character: str) -> str:
    """Return a pattern for a character and its escapes. Repetitions are bounded, so that no text takes long to search."""
    code = ord(character)
    escapes = rf"\\{{1,4}}(?:u00|x){code:02x}|%(?:25){{0,2}}{code:02x}|&\#(?:0{{0,4}}{code}|x0{{0,4}}{code:x});"
    return rf"(?:\\{{0,4}}{re.escape(character)}|{escapes})"


def _mask(text: str, info: ValidationInfo) -> str:
    mask: KeyMask | None = (info.context or {}).get(MASK_CONTEXT)
    return mask(text) if mask else text


ShownText = Annotated[str, AfterValidator(_mask)]
"""Text of a response that messages show. Data of the user, such as ids and metadata, stay as they are."""
