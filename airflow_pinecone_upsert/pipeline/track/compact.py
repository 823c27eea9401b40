"""
The compact form of the parts of a checkpoint that grow with the number of namespaces.

Where rows of many namespaces alternate, those that are settled after the position are many short ranges: one bit for each
row is shorter. Every form is exact.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

import numpy as np
import orjson

from airflow_pinecone_upsert.pipeline.position import RowRange, row_ranges

_MAX_RANGES: Final = 20
"""Of one origin in the plain form."""

_MAX_PLAIN: Final = 20
"""Namespaces in the plain form."""


def compact_ranges(ranges: Iterable[RowRange]) -> list[list[Any]]:
    """Return ranges as ``[origin, start, stop]``; of an origin with many of them as ``[origin, start, bits]``."""
    found: list[list[Any]] = []
    for origin, group in groupby(ranges, key=lambda rows: rows.origin):
        those = list(group)
        if len(those) <= _MAX_RANGES:
            found += [list(rows) for rows in those]
            continue
        start = those[0].start
        bits = np.zeros(those[-1].stop - start, bool)
        for rows in those:
            bits[rows.start - start : rows.stop - start] = True
        found.append([origin, start, _encoded(np.packbits(bits).tobytes())])
    return found


def expanded_ranges(stored: Sequence[Sequence[Any]]) -> Iterator[RowRange]:
    """
    Read what :func:`compact_ranges` returned.

    :raises TypeError: A part has another type.
    :raises ValueError: Likewise.
    """
    for origin, start, stop_or_bits in stored:
        if isinstance(stop_or_bits, str):
            bits = np.unpackbits(np.frombuffer(_decoded(stop_or_bits), np.uint8))
            yield from row_ranges(str(origin), (np.flatnonzero(bits) + int(start)).tolist())
        else:
            yield RowRange(str(origin), int(start), int(stop_or_bits))


def packed(values: Mapping[str, Any]) -> Any:
    """Return a mapping as it is; a large one as compressed text."""
    return values if len(values) <= _MAX_PLAIN else _encoded(orjson.dumps(values))


def unpacked(stored: Any) -> dict[str, Any]:
    """
    Read what :func:`packed` returned.

    :raises ValueError: It is something else.
    """
    return dict(orjson.loads(_decoded(stored))) if isinstance(stored, str) else dict(stored)


def _encoded(data: bytes) -> str:
    return base64.b85encode(zlib.compress(data, 9)).decode()


def _decoded(text: str) -> bytes:
    try:
        return zlib.decompress(base64.b85decode(text))
    except zlib.error as exc:
        raise ValueError(str(exc)) from exc
