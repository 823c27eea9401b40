"""
The digest of a record: equal where a record would be stored as it is already, different where anything of it changed.

It is computed from the values, in the form of :data:`DIGEST_NAME`, and not from JSON, which another version of a library
may write differently. So it is the same for a struct, JSON text, plain columns, a DataFrame and Python objects.

The form. ``h(seed, bytes)`` is XXH3 with 128 bits, ``seed(tag, key)`` is XXH3 with 64 bits of the tag, one byte, and the
key in UTF-8. The content of a record is the exclusive or of

======================  ======================  ===============================================================
part                    seed                    bytes
======================  ======================  ===============================================================
dense vector            ``seed("v", "")``       float32, little-endian, as all numbers here
sparse indices          ``seed("i", "")``       int64
sparse values           ``seed("w", "")``       float32
metadata key: string    ``seed("s", key)``      UTF-8
metadata key: number    ``seed("n", key)``      float64, which is what Pinecone stores
metadata key: boolean   ``seed("b", key)``      one byte, 0 or 1
metadata key: list      ``seed("l", key)``      for each string its length in UTF-8, uint32, and the string in UTF-8
======================  ======================  ===============================================================

A part that is absent or null, and a key that is null, contribute nothing; the order of keys does not matter. The id's own
digest is ``h(0, id)``, and ``h(0, namespace + NUL + id)`` where records name their namespaces, see
:mod:`airflow_pinecone_upsert.reindex.keys`. The digest of the record is the exclusive or of the id's and the content, where
bytes 0 to 3 are those of the id's alone: they show that two entries have the same id, whatever their contents. Bytes 8 to 15
of the id's digest are the hash by which :mod:`airflow_pinecone_upsert.reindex.id_table` finds it.

Invariants: records that would be sent as the same record have the same digest; a record that must be rejected has none, or
one that no valid record has; an unchanged record costs neither the encoding of its vector nor a Python object for each component.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from struct import Struct
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from airflow_pinecone_upsert.pipeline.encode.metadata import metadata_rows, metadata_values
from airflow_pinecone_upsert.pipeline.read.chunk import Chunk, as_numpy
from airflow_pinecone_upsert.reindex.keys import IdKeys, Keys

DIGEST_NAME: Final = "xxh3-128-parts"
DIGEST_VERSION: Final = 1
"""Raised when the form changes: digests of two versions cannot be compared."""

_BY_ID: Final = IdKeys("")

_EXACT_INTEGERS: Final = 2**53
_COMPONENT_BYTES: Final = 4
_SPARSE_ENTRY_BYTES: Final = 8
_NUMBER_BYTES: Final = 8
_LENGTH_BYTES: Final = 4

_TAGS: Final[Mapping[type, str]] = {str: "s", bool: "b", list: "l", int: "n", float: "n"}
"""By the types that the metadata of a valid record have."""

_Digests = npt.NDArray[np.uint64]
"""Of n records, shape (n, 2): the 16 bytes of each."""

_Sizes = npt.NDArray[np.int64]
_Mask = npt.NDArray[np.bool_]

_pack_number: Final = Struct("<d").pack
_pack_length: Final = Struct("<I").pack


class RecordDigests(NamedTuple):
    """
    The digests of n records, in order.

    :param id_hashes: The hash of each id. uint64, shape (n,).
    :param digests: The 16 bytes of each digest. uint64, shape (n, 2).
    :param sizes: The size of each record by the rule of Pinecone's prices, see :func:`digest_records`. int64, shape (n,).
    :param is_valid: Whether each record has a digest. A record without one breaks a rule, which the encoder names; its
        hash is valid where it has an id. Shape (n,).
    """

    id_hashes: npt.NDArray[np.uint64]
    digests: _Digests
    sizes: _Sizes
    is_valid: _Mask

    @classmethod
    def none(cls) -> RecordDigests:
        """Return those of no records."""
        return cls(np.zeros(0, np.uint64), np.zeros((0, 2), np.uint64), np.zeros(0, np.int64), np.zeros(0, bool))

    def only(self, rows: npt.NDArray[Any]) -> RecordDigests:
        """Return those of some records, by a mask or by offsets."""
        return RecordDigests(self.id_hashes[rows], self.digests[rows], self.sizes[rows], self.is_valid[rows])


class IdDigests(NamedTuple):
    """
    The digests of n ids, in order.

    :param hashes: uint64, shape (n,).
    :param checks: The bytes that a record's digest has in common with its id's. uint32, shape (n,).
    :param lengths: Bytes of each; 0 for null. int64, shape (n,).
    """

    hashes: npt.NDArray[np.uint64]
    checks: npt.NDArray[np.uint32]
    lengths: _Sizes


def digest_ids(ids: pa.Array[Any]) -> IdDigests:
    """
    Return the hashes of keys.

    :param ids: Keys, or integers as ids; length n.
    """
    found, lengths = _digest_ids(ids)
    return IdDigests(found[:, 1].copy(), found.view(np.uint32)[:, 0].copy(), lengths)


def digest_records(chunk: Chunk, keys: Keys = _BY_ID) -> RecordDigests:
    """
    Return the digest and the size of each record of a chunk.

    The size of a record is the length of its id, 4 bytes for each component, 8 for each sparse entry and the bytes of its
    metadata: those of keys and strings in UTF-8, 4 more for each string of a list, 8 for a number, 1 for a boolean.
    Pinecone does not say how it counts metadata (https://docs.pinecone.io/guides/manage-cost/understanding-cost), so the
    size is an estimate.

    :param chunk: The records, which need not be valid.
    :param keys: How they are named.
    """
    try:
        return _digest_records(chunk, keys)
    except (pa.ArrowException, ValueError, OverflowError, LookupError):  # a value that Arrow cannot convert
        count = len(chunk.records)
        if count == 1:
            ids, sizes = _digest_keys(chunk, keys)
            return RecordDigests(ids[:, 1].copy(), ids, sizes, np.zeros(1, bool))
        is_first = np.arange(count) < count // 2
        first, second = digest_records(chunk.only(is_first), keys), digest_records(chunk.only(~is_first), keys)
        return RecordDigests(
            np.concatenate([first.id_hashes, second.id_hashes]),
            np.concatenate([first.digests, second.digests]),
            np.concatenate([first.sizes, second.sizes]),
            np.concatenate([first.is_valid, second.is_valid]),
        )


def _digest_records(chunk: Chunk, keys: Keys) -> RecordDigests:
    count = len(chunk.records)
    is_valid = np.ones(count, bool)
    if chunk.violations:
        is_valid[list(chunk.violations)] = False
    of_ids, sizes = _digest_keys(chunk, keys)
    is_valid &= sizes > 0
    content = np.zeros((count, 2), np.uint64)
    for digests, part_sizes, part_is_valid in (_dense(chunk), _sparse(chunk), _metadata(chunk)):
        content ^= digests
        sizes = sizes + part_sizes
        is_valid &= part_is_valid
    digests = of_ids ^ content
    digests.view(np.uint32)[:, 0] = of_ids.view(np.uint32)[:, 0]
    return RecordDigests(of_ids[:, 1].copy(), digests, sizes, is_valid)


class _Part(NamedTuple):
    """What one part of n records adds to their digests and sizes, and which of the records are valid."""

    digests: Any
    sizes: Any
    is_valid: Any


_NOTHING: Final = _Part(np.uint64(0), 0, np.True_)


@lru_cache(maxsize=10_000)
def _key(tag: str, key: str) -> tuple[int, int]:
    """Return the seed of a key, and its length in bytes."""
    text = key.encode("utf-8", "surrogatepass")
    return xxh3_64_intdigest(tag.encode() + text), len(text)


def _seed(tag: str) -> int:
    return _key(tag, "")[0]


def _joined(digests: Iterable[bytes]) -> _Digests:
    return np.frombuffer(bytearray().join(digests), np.uint64).reshape(-1, 2)


def _digest_ids(ids: pa.Array[Any]) -> tuple[_Digests, _Sizes]:
    texts, lengths = _texts(ids)
    return _joined(map(xxh3_128_digest, texts)), lengths


def _digest_keys(chunk: Chunk, keys: Keys) -> tuple[_Digests, _Sizes]:
    """Return the digests of the keys, and the lengths of the ids; 0 for a record without a key."""
    texts, lengths = _texts(chunk.records.column("id"))
    prefixes = keys.prefixes(chunk)
    if prefixes is None:
        return _joined(map(xxh3_128_digest, texts)), lengths
    named = [b"" if prefix is None else prefix + text for prefix, text in zip(prefixes, texts, strict=True)]
    if None in prefixes:
        lengths = lengths * np.fromiter((prefix is not None for prefix in prefixes), bool, len(prefixes))
    return _joined(map(xxh3_128_digest, named)), lengths


def _texts(ids: pa.Array[Any]) -> tuple[list[bytes], _Sizes]:
    return _utf8(ids if types.is_string(ids.type) or types.is_large_string(ids.type) else ids.cast("string"))


def _utf8(texts: pa.Array[Any]) -> tuple[list[bytes], _Sizes]:
    """Return strings in UTF-8, and their lengths; empty for null."""
    kind = pa.large_binary() if types.is_large_string(texts.type) else pa.binary()
    found: list[Any] = texts.view(kind).to_pylist()
    if texts.null_count:
        found = [text or b"" for text in found]
    return found, np.fromiter(map(len, found), np.int64, len(found))


def _without_nulls(array: pa.Array[Any]) -> pa.Array[Any]:
    """Return an array of numbers with anything in place of a null. Arrow's fill_null() imports pandas, for 30 MB."""
    if not array.null_count:
        return array
    return pa.Array.from_buffers(array.type, len(array), [None, array.buffers()[1]], offset=array.offset)


# Vectors ----------------------------------------------------------------------------------------


def _dense(chunk: Chunk) -> _Part:
    column = _column(chunk, "values")
    if column is None:
        return _NOTHING
    part = _digest_lists(column, np.float32, _seed("v"))
    return part._replace(sizes=_COMPONENT_BYTES * part.sizes)


def _sparse(chunk: Chunk) -> _Part:
    column = _column(chunk, "sparse_values")
    if column is None:
        return _NOTHING
    children = dict(zip((field.name for field in column.type), column.flatten(), strict=True))
    indices = _digest_lists(children["indices"], np.int64, _seed("i"))
    values = _digest_lists(children["values"], np.float32, _seed("w"))
    return _Part(
        indices.digests ^ values.digests, _SPARSE_ENTRY_BYTES * indices.sizes, indices.is_valid & values.is_valid
    )


def _column(chunk: Chunk, part: str) -> Any:
    records = chunk.records
    if part not in records.schema.names or records.column(part).null_count == len(records):
        return None
    return records.column(part)


def _digest_lists(column: pa.ListArray[Any], dtype: type[np.generic], seed: int) -> _Part:
    """Digest the elements of each list, converted to a type. A list with a null in it is not valid."""
    flat = column.flatten()
    lengths = _lengths(column)
    ends = np.cumsum(lengths)
    is_valid = np.ones(len(column), bool)
    if flat.null_count:
        rows = np.searchsorted(ends, np.flatnonzero(as_numpy(flat.is_null())), side="right")
        is_valid[rows] = False
    wide = np.zeros(len(flat)) if types.is_null(flat.type) else as_numpy(_without_nulls(flat))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        numbers = np.ascontiguousarray(wide, dtype=dtype)
    digests = _joined(map(xxh3_128_digest, _rows(numbers, lengths, ends), repeat(seed)))
    if column.null_count:
        digests = digests * as_numpy(column.is_valid())[:, np.newaxis]
    return _Part(digests, lengths, is_valid)


def _lengths(column: pa.ListArray[Any]) -> _Sizes:
    """Return the length of each list; 0 for null."""
    lengths: pa.Array[Any] = pc.list_value_length(column)
    found = as_numpy(_without_nulls(lengths)).astype(np.int64)
    return found * as_numpy(column.is_valid()) if column.null_count else found


def _rows(numbers: npt.NDArray[Any], lengths: _Sizes, ends: _Sizes) -> Iterable[Any]:
    """Return the elements of each list. A list of another length than the first one makes it slower."""
    if len(lengths) and lengths[0] and (lengths == lengths[0]).all():
        return iter(numbers.reshape(len(lengths), -1))
    return (numbers[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True))


# Metadata ---------------------------------------------------------------------------------------


def _metadata(chunk: Chunk) -> _Part:
    name = chunk.names["metadata"]
    if chunk.metadata is not None:
        return _digest_rows(*metadata_values(chunk.metadata, name))
    column = _column(chunk, "metadata")
    if column is None:
        return _NOTHING
    if types.is_struct(column.type) and (part := _digest_struct(column)) is not None:
        return part
    return _digest_rows(*metadata_rows(column, name))


def _digest_rows(rows: Sequence[Mapping[str, Any] | None], violations: Mapping[int, Any]) -> _Part:
    """Digest objects as they would be sent: the reference for every other way."""
    is_valid = np.ones(len(rows), bool)
    if violations:
        is_valid[list(violations)] = False
    contents: list[bytes] = []  # of the values of all rows
    seeds: list[int] = []
    ends: list[int] = []
    sizes: list[int] = []
    for row in rows:
        size = 0
        for key, value in row.items() if row else ():
            kind = type(value)
            if kind is str:
                content = value.encode("utf-8", "surrogatepass")
            elif kind is bool:
                content = b"\1" if value else b"\0"
            elif kind is int or kind is float:
                content = _pack_number(value)
            else:
                kind, content = _unusual(value)
            seed, key_bytes = _key(_TAGS[kind], key)
            contents.append(content)
            seeds.append(seed)
            size += key_bytes + len(content)
        ends.append(len(contents))
        sizes.append(size)
    digests = _joined(map(xxh3_128_digest, contents, seeds))
    return _Part(_exclusive_or(digests, np.array(ends, np.int64)), np.array(sizes, np.int64), is_valid)


def _unusual(value: Any) -> tuple[type, bytes]:
    """Return the type that decides about the tag of a list or of an instance of a subclass, and the bytes to digest."""
    if isinstance(value, str):
        return str, value.encode("utf-8", "surrogatepass")
    if isinstance(value, list):
        texts = [text.encode("utf-8", "surrogatepass") for text in value]
        return list, b"".join([_pack_length(len(text)) + text for text in texts])
    return float, _pack_number(value)


def _exclusive_or(digests: _Digests, ends: _Sizes) -> _Digests:
    """Combine the digests of each row, which ends where ``ends`` says."""
    totals = np.zeros((len(ends), 2), np.uint64)
    starts = np.concatenate([[0], ends[:-1]])
    filled = np.flatnonzero(ends > starts)
    if len(filled):
        totals[filled] = np.bitwise_xor.reduceat(digests, starts[filled], axis=0)
    return totals


def _digest_struct(column: pa.StructArray) -> _Part | None:
    """Digest a struct column by column; return None where a field is not of a plain type, or holds an invalid value."""
    names = [field.name for field in column.type]
    if len(set(names)) < len(names) or any(name.startswith("$") for name in names):
        return None
    count = len(column)
    digests, sizes = np.zeros((count, 2), np.uint64), np.zeros(count, np.int64)
    for name, child in zip(names, column.flatten(), strict=True):
        if child.null_count == count:
            continue
        plain = _plain_values(child)
        if plain is None:
            return None
        tag, values, lengths = plain
        seed, key_bytes = _key(tag, name)
        found = _joined(map(xxh3_128_digest, values, repeat(seed)))
        lengths = lengths + key_bytes
        if child.null_count:
            is_present = as_numpy(child.is_valid())
            found = found * is_present[:, np.newaxis]
            lengths = lengths * is_present
        digests ^= found
        sizes += lengths
    return _Part(digests, sizes, np.True_)


def _plain_values(child: pa.Array[Any]) -> tuple[str, Sequence[bytes], Any] | None:
    """Return the tag, the bytes and the lengths of a column's values, where all of them can be sent as they are."""
    kind = child.type
    if types.is_string(kind) or types.is_large_string(kind):
        return "s", *_utf8(child)
    if types.is_boolean(kind):
        return "b", [b"\1" if value else b"\0" for value in child.to_pylist()], 1
    if not (types.is_integer(kind) or types.is_float32(kind) or types.is_float64(kind)):
        return None
    numbers = as_numpy(_without_nulls(child))
    if child.null_count:
        numbers = np.where(as_numpy(child.is_valid()), numbers, numbers.dtype.type(0))
    fits = (numbers >= -_EXACT_INTEGERS) & (numbers <= _EXACT_INTEGERS)
    if not (fits if types.is_integer(kind) else np.isfinite(numbers)).all():
        return None
    packed: list[bytes] = numbers.astype("<f8").view(np.dtype((np.void, _NUMBER_BYTES))).tolist()
    return "n", packed, _NUMBER_BYTES
