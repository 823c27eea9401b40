"""The shape of an index: what its statistics say about the vectors that it takes."""

from __future__ import annotations

from typing import NamedTuple


class IndexShape(NamedTuple):
    """
    What vectors an index takes.

    :param dimension: Components of a dense vector; None where it is unknown or the index takes none.
    :param sparse: The index takes sparse vectors only.
    :param metric: ``cosine``, ``euclidean`` or ``dotproduct``; None where it is unknown.
    """

    dimension: int | None = None
    sparse: bool = False
    metric: str | None = None

    @property
    def rejects_sparse_values(self) -> bool:
        """Whether a sparse vector next to a dense one is an error: only the dot product can combine them."""
        return not self.sparse and self.metric in ("cosine", "euclidean")
