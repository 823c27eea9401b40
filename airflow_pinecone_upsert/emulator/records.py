"""
The properties of an index and the form of its records.

Invariants:

* A vector is float32, and its bits never change between the request and the response.
* The packed form is little-endian, so a data folder can move between machines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from airflow_pinecone_upsert.emulator import limits

METRICS: Final = ("cosine", "dotproduct", "euclidean")
VECTOR_TYPES: Final = ("dense", "sparse")

FLOAT32: Final = np.dtype("<f4")
UINT32: Final = np.dtype("<u4")


@dataclass(frozen=True)
class IndexSpec:
    """
    The properties of an index, which are fixed when it is created.

    :param dimension: Components of a dense vector; ``None`` for a sparse index.
    :param metric: ``cosine``, ``dotproduct`` or ``euclidean``; a sparse index supports ``dotproduct`` only.
    :param vector_type: ``dense`` or ``sparse``.
    :raises ValueError: Pinecone does not offer this combination.
    """

    dimension: int | None
    metric: str = "cosine"
    vector_type: str = "dense"

    def __post_init__(self) -> None:
        """Reject what Pinecone does not create."""
        if self.vector_type not in VECTOR_TYPES:
            raise ValueError(f"vector_type must be one of {', '.join(VECTOR_TYPES)}, not {self.vector_type!r}.")
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, not {self.metric!r}.")
        if self.vector_type == "sparse":
            if self.metric != "dotproduct":
                raise ValueError(f"A sparse index has the metric dotproduct, not {self.metric}.")
            if self.dimension is not None:
                raise ValueError("A sparse index has no dimension.")
        elif self.dimension is None or not 1 <= self.dimension <= limits.MAX_DIMENSION:
            raise ValueError(f"dimension must be between 1 and {limits.MAX_DIMENSION}, not {self.dimension}.")

    @property
    def supports_sparse_values(self) -> bool:
        """Whether a record may have sparse values, alone or together with a dense vector: only with dotproduct."""
        return self.metric == "dotproduct"

    def __str__(self) -> str:
        """Describe the index in words, such as ``dense index, 256 dimensions, cosine``."""
        size = "" if self.dimension is None else f" {self.dimension} dimensions,"
        return f"{self.vector_type} index,{size} {self.metric}"


@dataclass(frozen=True, eq=False)
class StoredRecord:
    """
    One record of the index.

    :param id: Its id.
    :param values: float32, shape ``(dimension,)``, read-only; ``None`` in a sparse index.
    :param sparse_indices: uint32, shape ``(n,)``, or ``None``.
    :param sparse_values: float32, shape ``(n,)``, or ``None``.
    :param metadata: The metadata, or ``None``.
    """

    id: str
    values: NDArray[np.float32] | None
    sparse_indices: NDArray[np.uint32] | None
    sparse_values: NDArray[np.float32] | None
    metadata: dict[str, Any] | None


class Row(NamedTuple):
    """A validated record in packed form, as the table of records stores it."""

    id: str
    values: bytes | None = None
    sparse_indices: bytes | None = None
    sparse_values: bytes | None = None
    metadata: bytes | None = None

    @property
    def sparse(self) -> tuple[bytes, bytes] | None:
        """The sparse indices and values, or ``None``."""
        if self.sparse_indices is None or self.sparse_values is None:
            return None
        return self.sparse_indices, self.sparse_values

    @property
    def binary_bytes(self) -> int:
        """The size of the record: its id, 4 bytes for each component, 8 for each sparse entry, and its metadata as JSON."""
        return sum(len(part) for part in self if part is not None)

    def unpack(self) -> StoredRecord:
        """
        Convert the row to arrays.

        :return: The record; its arrays share memory with this row.
        """
        return StoredRecord(
            id=self.id,
            values=_unpack_floats(self.values),
            sparse_indices=None if self.sparse_indices is None else np.frombuffer(self.sparse_indices, UINT32),
            sparse_values=_unpack_floats(self.sparse_values),
            metadata=None if self.metadata is None else orjson.loads(self.metadata),
        )


def _unpack_floats(packed: bytes | None) -> NDArray[np.float32] | None:
    return None if packed is None else np.frombuffer(packed, FLOAT32)
