"""
Exact search in one namespace, by brute force.

What always holds: a ``Searchable`` never changes; products are summed in float64 row by row and rounded to float32
once, so equal vectors score alike wherever they stand (BLAS does not promise that); ties go to the smaller id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from airflow_pinecone_upsert.emulator.filters import Predicate
from airflow_pinecone_upsert.emulator.records import FLOAT32, UINT32, IndexSpec, Row

_ROWS_PER_BLOCK: Final = 4096
"""Rows whose differences are held in float64 at once."""


@dataclass(frozen=True)
class Query:
    """
    What is searched for.

    :param top_k: How many matches at most.
    :param values: Packed float32; ``None`` in a sparse index.
    :param sparse: Packed uint32 indices and float32 values, or ``None``.
    :param wanted: Which metadata a match must have; ``None`` for any.
    """

    top_k: int
    values: bytes | None
    sparse: tuple[bytes, bytes] | None = None
    wanted: Predicate | None = None


class Match(NamedTuple):
    """A record that was found, and its score as the metric defines it."""

    row: Row
    score: np.float32


class _Sparse(NamedTuple):
    """The sparse values of a namespace in coordinate form: one entry for each non-zero."""

    rows: NDArray[np.intp]
    indices: NDArray[np.uint32]
    values: NDArray[np.float32]


class Searchable:
    """
    A namespace as it was at one moment, ready to be searched.

    :param rows: Its records, ordered by id.
    :param spec: The index.
    """

    def __init__(self, rows: Sequence[Row], spec: IndexSpec) -> None:
        self._rows = rows
        self._spec = spec

    def search(self, query: Query) -> list[Match]:
        """
        Find the nearest records.

        :param query: What to look for.
        :return: The best first. A sparse index gives only records that share an index with the query.
        """
        scores, candidates = self._scores(query)
        if query.wanted is not None:
            wanted = query.wanted
            candidates &= np.fromiter((wanted(metadata) for metadata in self._metadata), np.bool_, len(self._rows))
        positions = np.flatnonzero(candidates)
        nearest_first = scores[positions] if self._spec.metric == "euclidean" else -scores[positions]
        best = positions[np.argsort(nearest_first, kind="stable")[: query.top_k]]
        return [Match(self._rows[position], scores[position]) for position in best]

    def _scores(self, query: Query) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Score every record, and say which ones are candidates at all."""
        scores = np.zeros(len(self._rows))
        candidates = np.ones(len(self._rows), np.bool_)
        if query.values is not None:
            scores += self._dense_scores(np.frombuffer(query.values, FLOAT32).astype(np.float64))
        if query.sparse is not None:
            rows, products = self._sparse_products(*query.sparse)
            scores += np.bincount(rows, products, minlength=len(self._rows))
            if query.values is None:
                candidates = np.bincount(rows, minlength=len(self._rows)) > 0
        # JSON has no infinity: a distance beyond float32 is the largest one.
        bounds = np.finfo(FLOAT32)
        return np.clip(scores, bounds.min, bounds.max).astype(np.float32), candidates

    def _dense_scores(self, query: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._spec.metric == "euclidean":
            return self._squared_distances(query)
        products: NDArray[np.float64] = np.einsum("ij,j->i", self._matrix, query, dtype=np.float64)
        if self._spec.metric == "dotproduct":
            return products
        lengths = self._lengths * np.linalg.norm(query)
        cosines = np.zeros_like(products)
        np.divide(products, lengths, out=cosines, where=lengths > 0)
        return cosines

    def _squared_distances(self, query: NDArray[np.float64]) -> NDArray[np.float64]:
        distances = np.empty(len(self._rows))
        for start in range(0, len(self._rows), _ROWS_PER_BLOCK):
            block = slice(start, start + _ROWS_PER_BLOCK)
            difference = self._matrix[block] - query
            distances[block] = np.einsum("ij,ij->i", difference, difference)
        return distances

    def _sparse_products(self, packed_indices: bytes, packed_values: bytes) -> tuple[Any, Any]:
        """Give, for each non-zero that the query shares with a record, the record's row and the product."""
        order = np.argsort(np.frombuffer(packed_indices, UINT32), kind="stable")
        indices = np.frombuffer(packed_indices, UINT32)[order]
        values = np.frombuffer(packed_values, FLOAT32)[order].astype(np.float64)
        stored = self._sparse
        places = np.minimum(np.searchsorted(indices, stored.indices), len(indices) - 1)
        shared = indices[places] == stored.indices
        return stored.rows[shared], stored.values[shared] * values[places[shared]]

    @cached_property
    def _matrix(self) -> NDArray[np.float32]:
        packed = b"".join(row.values for row in self._rows if row.values is not None)
        return np.frombuffer(packed, FLOAT32).reshape(len(self._rows), self._spec.dimension or 0)

    @cached_property
    def _lengths(self) -> NDArray[np.float64]:
        squares: NDArray[np.float64] = np.einsum("ij,ij->i", self._matrix, self._matrix, dtype=np.float64)
        return np.sqrt(squares)

    @cached_property
    def _sparse(self) -> _Sparse:
        indices = [np.frombuffer(row.sparse_indices or b"", UINT32) for row in self._rows]
        values = [np.frombuffer(row.sparse_values or b"", FLOAT32) for row in self._rows]
        return _Sparse(
            rows=np.repeat(np.arange(len(self._rows)), [len(part) for part in indices]),
            indices=np.concatenate([np.empty(0, UINT32), *indices]),
            values=np.concatenate([np.empty(0, FLOAT32), *values]),
        )

    @cached_property
    def _metadata(self) -> list[dict[str, Any]]:
        return [{} if row.metadata is None else orjson.loads(row.metadata) for row in self._rows]
