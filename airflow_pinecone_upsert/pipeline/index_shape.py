"""What the index says of itself."""

from __future__ import annotations

from typing import NamedTuple


class IndexShape(NamedTuple):
    """
    What the index says of itself.

    :param dimension: Components of a dense vector; None where it is not known or there are none.
    :param sparse: The index holds sparse vectors only.
    """

    dimension: int | None = None
    sparse: bool = False
