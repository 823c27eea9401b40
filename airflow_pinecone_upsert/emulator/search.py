"""
Exact search in one namespace, by brute force.

Invariants:

* A ``Snapshot`` never changes.
* Products are summed in float64 row by row and rounded to float32 once, so equal vectors have equal scores in every row.
  BLAS does not guarantee that.
* Of matches with the same score, the smaller id comes first.
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
"""Rows whose differences to the query are in memory at once, as float64."""


@dataclass(frozen=True)
class Query:
    """
    One query.

    :param top_k: The maximum number of matches.
    :param values: Packed float32; ``None`` in a sparse index.
    :param sparse: Packed uint32 indices and float32 values, or ``None``.
    :param predicate: The metadata filter that a match must pass; ``None`` for no filter.
    """

    top_k: int
    values: bytes | None
    sparse: tuple[bytes, bytes] | None = None
    predicate: Predicate | None = None


class Match(NamedTuple):
    """A record that matches a query, with its score by the metric of the index."""

    row: Row
    score: np.float32


class _Sparse(NamedTuple):
    """The sparse values of a namespace in coordinate form: one entry per non-zero value."""

    rows: NDArray[np.intp]
    indices: NDArray[np.uint32]
    values: NDArray[np.float32]


class Snapshot:
    """
    The records of a namespace at one moment, prepared for searches.

    :param rows: The records, ordered by id.
    :param spec: The index.
    """

    def __init__(self, rows: Sequence[Row], spec: IndexSpec) -> None:
        self._rows = rows
        self._spec = spec

    def search(self, query: Query) -> list[Match]:
        """
        Find the nearest records.

        :param query: The query.
        :return: The matches, best first. A query without dense values matches only records that share a sparse index
            with it.
        """
        scores, candidates = self._scores(query)
        if query.predicate is not None:
            candidates &= np.fromiter(map(query.predicate, self._metadata), np.bool_, len(self._rows))
        positions = np.flatnonzero(candidates)
        nearest_first = scores[positions] if self._spec.metric == "euclidean" else -scores[positions]
        best = positions[np.argsort(nearest_first, kind="stable")[: query.top_k]]
        return [Match(self._rows[position], scores[position]) for position in best]

    def _scores(self, query: Query) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the score of every record, and which records may match at all."""
        scores = np.zeros(len(self._rows))
        candidates = np.ones(len(self._rows), np.bool_)
        if query.values is not None:
            scores += self._dense_scores(np.frombuffer(query.values, FLOAT32).astype(np.float64))
        if query.sparse is not None:
            rows, products = self._sparse_products(*query.sparse)
            scores += np.bincount(rows, products, minlength=len(self._rows))
            if query.values is None:
                candidates = np.bincount(rows, minlength=len(self._rows)) > 0
        # JSON has no infinity: a score outside of float32 becomes the largest (or smallest) float32.
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
        """Return the row and the product of each sparse value whose index the query has too."""
        order = np.argsort(np.frombuffer(packed_indices, UINT32), kind="stable")
        indices = np.frombuffer(packed_indices, UINT32)[order]
        values = np.frombuffer(packed_values, FLOAT32)[order].astype(np.float64)
        stored = self._sparse
        positions = np.minimum(np.searchsorted(indices, stored.indices), len(indices) - 1)
        shared = indices[positions] == stored.indices
        return stored.rows[shared], stored.values[shared] * values[positions[shared]]

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
