"""
Upserts over gRPC, for :mod:`.server`: unencrypted, like REST there.

The messages stay bytes. Of a request, only the heads of its records are read, because protobuf's own library would make a
Python object of each component.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from tests.benchmarks.rules import TOO_MANY_REQUESTS, UpsertIndex

_VECTORS_TAG = 1 << 3 | 2
_UPSERTED_COUNT_TAG = 1 << 3
_MORE = 0x80
_MAX_MESSAGE_BYTES = 64 << 20
_Context = grpc.aio.ServicerContext[bytes, bytes]


@asynccontextmanager
async def serve_grpc(index: UpsertIndex) -> AsyncIterator[int]:
    """Serve on a free port, which is yielded."""

    async def upsert(request: bytes, context: _Context) -> bytes:
        key = next((value for name, value in context.invocation_metadata() or () if name == "api-key"), "")
        records = count_records(request)
        index.in_flight += 1
        accepted = index.admit(str(key), len(request), records)
        if index.rules.latency_s:
            await asyncio.sleep(index.rules.latency_s)
        index.in_flight -= 1
        if not accepted:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, TOO_MANY_REQUESTS)
        return bytes([_UPSERTED_COUNT_TAG]) + _varint(records)

    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES), ("grpc.so_reuseport", 0)]
    )
    methods = {"Upsert": grpc.unary_unary_rpc_method_handler(upsert)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("VectorService", methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


def count_records(request: bytes) -> int:
    """Return the number of records of an ``UpsertRequest``, whose other fields come after them."""
    records = position = 0
    while position < len(request) and request[position] == _VECTORS_TAG:
        position += 1
        size = shift = 0
        while (byte := request[position]) >= _MORE:
            size |= (byte & (_MORE - 1)) << shift
            shift += 7
            position += 1
        position += 1 + (size | byte << shift)
        records += 1
    return records


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= _MORE:
        encoded.append(number & (_MORE - 1) | _MORE)
        number >>= 7
    return bytes([*encoded, number])
