"""The shape of an index: what its statistics say about the vectors that it takes."""

from __future__ import annotations

from typing import NamedTuple


class IndexShape(NamedTuple):
    """
    What vectors an index takes.

    :param dimension: Components of a dense vector; None where it is unknown or the index takes none.
    :param sparse: The index takes sparse vectors only.
    """

    dimension: int | None = None
    sparse: bool = False
