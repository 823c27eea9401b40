"""What the manifest will say of a record once it is confirmed, as bytes that travel with the record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

_ENTRY: Final = np.dtype([("digest", np.void, 16), ("size", "<u4"), ("replaced", "<u4")])


class Entries(NamedTuple):
    """
    The entries of n records.

    :param digests: 16 bytes each.
    :param sizes: Bytes of each record, by Pinecone's cost rule.
    :param replaced: Bytes of the record that each replaces; 0 for a new one. As many as its own: the manifest's size of it
        is not in memory.
    """

    digests: list[bytes]
    sizes: list[int]
    replaced: list[int]


def pack_entries(
    digests: npt.NDArray[np.uint64], sizes: npt.NDArray[np.int64], is_known: npt.NDArray[np.bool_]
) -> list[bytes]:
    """
    Return one ``bytes`` for each record.

    :param digests: Shape (n, 2).
    :param sizes: Shape (n,).
    :param is_known: Whether each replaces a record. Shape (n,).
    """
    entries = np.empty(len(sizes), _ENTRY)
    entries["digest"] = np.ascontiguousarray(digests).view((np.void, 16)).reshape(-1)
    entries["size"] = sizes
    entries["replaced"] = sizes * is_known
    packed: list[bytes] = entries.view((np.void, _ENTRY.itemsize)).tolist()
    return packed


def unpack_entries(packed: Sequence[bytes]) -> Entries:
    """Return what :func:`pack_entries` packed."""
    entries: npt.NDArray[Any] = np.frombuffer(b"".join(packed), _ENTRY)
    return Entries(entries["digest"].tolist(), entries["size"].tolist(), entries["replaced"].tolist())
