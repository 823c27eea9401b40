"""
The floor of gRPC: a bare loop that reads the file, writes protobuf from Arrow's memory and calls ``VectorService/Upsert``.

As :mod:`.floor`, it has no checks, one request at a time and no limit on bytes. It knows the names and the types of the
metadata beforehand, and remembers the values that repeat.
"""

from __future__ import annotations

import argparse
import json
import struct
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.parquet as pq

_Encode = Callable[[Any], bytes]
_REMEMBERED = 1_024
_MORE = 0x80
_FIRST, _SECOND, _THIRD = (bytes([number << 3 | 2]) for number in (1, 2, 3))
_NUMBER, _BOOL = bytes([2 << 3 | 1]), bytes([4 << 3])


@lru_cache(_REMEMBERED)
def head(tag: bytes, size: int) -> bytes:
    """Return what precedes the content of a field: its tag and its length, a varint."""
    encoded = bytearray()
    while size >= _MORE:
        encoded.append(size & (_MORE - 1) | _MORE)
        size >>= 7
    return tag + bytes([*encoded, size])


def delimited(tag: bytes, content: bytes) -> bytes:
    """Return a field that has a length."""
    return head(tag, len(content)) + content


def entry(key: bytes, value: bytes) -> bytes:
    """Return a field of ``Struct``, with its encoded ``Value``."""
    return delimited(_FIRST, delimited(_FIRST, key) + delimited(_SECOND, value))


def encoder(name: str, kind: pa.DataType) -> _Encode:
    """Return what encodes the values of one key of the metadata."""
    key = name.encode()
    if pa.types.is_string(kind):
        return lru_cache(_REMEMBERED)(lambda text: entry(key, delimited(_THIRD, text.encode())))
    if pa.types.is_boolean(kind):
        return lru_cache(lambda value: entry(key, _BOOL + bytes([value])))
    return lru_cache(_REMEMBERED)(lambda number: entry(key, _NUMBER + struct.pack("<d", number)))


def messages(path: str, batch_size: int) -> Iterator[bytes]:
    """Yield the requests. The file is read in the way that needs the least CPU time."""
    file = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
    fields = list(file.schema_arrow.field("metadata").type)
    encoders = [encoder(field.name, field.type) for field in fields]
    for batch in file.iter_batches(batch_size, use_threads=False):
        vectors = batch["values"].flatten()
        size = 4 * len(vectors) // len(batch)
        start, values = 4 * vectors.offset, memoryview(vectors.buffers()[1])
        columns = [
            map(encode, column.to_pylist())
            for encode, column in zip(encoders, batch["metadata"].flatten(), strict=True)
        ]
        parts = []
        for record_id, *metadata in zip(batch["id"].to_pylist(), *columns, strict=True):
            others = delimited(_FIRST, record_id.encode()), delimited(_THIRD, b"".join(metadata)), head(_SECOND, size)
            parts += (head(_FIRST, sum(map(len, others)) + size), *others, values[start : start + size])
            start += size
        yield b"".join(parts)


def confirmed_by(response: bytes) -> int:
    """Return the only field of a response, a varint after its tag."""
    return sum((byte & (_MORE - 1)) << 7 * place for place, byte in enumerate(response[1:]))


def main() -> None:
    """Upsert and print what was confirmed; without a path, only import what that needs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("path", nargs="?")
    parser.add_argument("--batch-size", type=int, default=100)
    arguments = parser.parse_args()
    if not arguments.path:
        print("{}")
        return
    started_s = time.monotonic()
    confirmed = 0
    with grpc.insecure_channel(f"127.0.0.1:{arguments.port}") as channel:
        upsert = channel.unary_unary("/VectorService/Upsert")
        for message in messages(arguments.path, arguments.batch_size):
            confirmed += confirmed_by(upsert(message, metadata=[("api-key", "floor")]))
    print(json.dumps({"confirmed": confirmed, "duration_s": time.monotonic() - started_s}))


if __name__ == "__main__":
    main()
