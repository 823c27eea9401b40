"""
Divide files among tasks: small folders share a task, and the files of a large folder are divided among several.

Invariants: every file is in exactly one share; the same files give the same shares; at most ``max_tasks`` shares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from math import ceil
from typing import Final, TypeVar

from airflow_pinecone_upsert.pipeline.read.files import FileRef

_GROWTH: Final = 1.1
"""Of the size of a share, as long as there are too many of them."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Piece:
    """
    Files of one folder.

    :param folder: Its name.
    :param is_whole: Whether these are all of its files.
    """

    folder: str
    files: tuple[FileRef, ...]
    is_whole: bool = True

    @property
    def size(self) -> int:
        """Bytes; an empty file counts as one, because it is a file to open."""
        return sum(max(file.size, 1) for file in self.files)


Share = tuple[Piece, ...]
"""What one task does, sorted by folder."""


def divide(folders: Mapping[str, Sequence[FileRef]], max_tasks: int, target_bytes: int) -> list[Share]:
    """
    Divide the files of folders into shares of about the same size, the largest one first.

    :param folders: The files of each folder.
    :param max_tasks: Shares, at most.
    :param target_bytes: Bytes of a share; more where ``max_tasks`` or the size of a file require it.
    """
    pieces = [Piece(name, tuple(files)) for name, files in sorted(folders.items())]
    size = float(max(target_bytes, sum(piece.size for piece in pieces) / max_tasks))
    while len(shares := _shares(pieces, size)) > max_tasks:
        size *= _GROWTH
    return sorted(shares, key=_order)


def _shares(pieces: Sequence[Piece], size: float) -> list[Share]:
    small = [piece for piece in pieces if piece.size <= size]
    split = [(part,) for piece in pieces if piece.size > size for part in _parts(piece, size)]
    return split + _even([(piece, piece.size) for piece in small], size)


def _parts(piece: Piece, size: float) -> list[Piece]:
    parts = _even([(file, max(file.size, 1)) for file in piece.files], size)
    return [Piece(piece.folder, tuple(files), is_whole=len(parts) == 1) for files in parts]


def _even(items: Iterable[tuple[_T, int]], size: float) -> list[tuple[_T, ...]]:
    """Distribute items, the largest first, each to the bin that has least; a bin keeps the order of its items."""
    numbered = [(weight, number, item) for number, (item, weight) in enumerate(items)]
    count = min(len(numbered), ceil(sum(weight for weight, _, _ in numbered) / size))
    bins: list[list[tuple[int, _T]]] = [[] for _ in range(count)]
    levels = [(0, number) for number in range(count)]
    heapify(levels)
    for weight, number, item in sorted(numbered, key=lambda one: (-one[0], one[1])):
        level, which = levels[0]
        bins[which].append((number, item))
        heapreplace(levels, (level + weight, which))
    return [tuple(item for _, item in sorted(one, key=lambda entry: entry[0])) for one in bins]


def _order(share: Share) -> tuple[int, str, str]:
    return -sum(piece.size for piece in share), share[0].folder, share[0].files[0].path
