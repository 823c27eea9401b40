"""
A replacement for Pinecone on 127.0.0.1, fast enough not to affect results: ``python -m tests.benchmarks.server``.

Upserts may also arrive over gRPC, on another port: :mod:`.grpc_server`. For REST it parses HTTP/1.1 in one small buffer, counts records while it reads, stores none of them, and answers as Pinecone
does. A fetch is answered from the file that the rules name, as if its records had been upserted. It leaves out on
purpose: checks, TLS, ``Retry-After`` (which the real service does not guarantee) and a limit on the size of a request
(the SDK's requests of 100 x 1536 are 3.3 MB of JSON, which the real service may reject).

Each ``{"id":`` counts as a record. That is exact for these benchmarks, because no key of the generated metadata is
``id``; the benchmark also compares the sum with the number of records in the file.

``PUT /rules`` sets :class:`Rules` and clears the log, ``GET /log`` returns the log. The server prints its URL, then the
port of gRPC. It ends when its standard input ends, so it cannot outlive the benchmark.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.benchmarks.grpc_server import serve_grpc
from tests.benchmarks.rules import TOO_MANY_REQUESTS, Rules, Upsert

_RECORD = b'{"id":'
_OVERLAP = len(_RECORD) - 1
_BUFFER_BYTES = 256 << 10
_TOO_MANY_REQUESTS = {"code": 8, "message": TOO_MANY_REQUESTS, "details": []}


class Bucket:
    """A token bucket. ``full_rate_s`` is the time since the last request, as :meth:`Rules.full_rate_s` returns it."""

    def __init__(self, per_second: float | None, burst_s: float) -> None:
        self._per_second = per_second or float("inf")
        self._capacity = self._per_second * burst_s
        self._level = self._capacity

    def refill(self, full_rate_s: float) -> None:
        if self._capacity != float("inf"):
            self._level = min(self._capacity, self._level + full_rate_s * self._per_second)

    def holds(self, amount: float) -> bool:
        return self._level >= amount

    def take(self, amount: float) -> None:
        self._level -= amount


class Stored:
    """
    The records of a Parquet file, by id. Only here, the server needs Arrow.

    :param path: The file, with the columns of :mod:`tests.benchmarks.data`.
    """

    def __init__(self, path: str) -> None:
        import pyarrow.parquet as pq

        table = pq.read_table(path).combine_chunks()
        self._rows = {record_id: row for row, record_id in enumerate(table["id"].to_pylist())}
        self._values = table["values"]
        self._metadata = table["metadata"]

    def fetch(self, ids: list[str]) -> dict[str, Any]:
        """Return what Pinecone answers; a number is the same float32 again when it is parsed."""
        vectors = {}
        for record_id in ids:
            if (row := self._rows.get(record_id)) is not None:
                values, metadata = self._values[row].as_py(), self._metadata[row].as_py()
                vectors[record_id] = {"id": record_id, "values": values, "metadata": metadata}
        return {"vectors": vectors, "namespace": "", "usage": {"readUnits": 1}}


class Index:
    """The state of the server: the rules, the buckets and the log."""

    def __init__(self) -> None:
        self.url = ""
        self.rules = Rules()
        self._stored: Stored | None = None
        self.set_rules(Rules())

    def set_rules(self, rules: Rules) -> None:
        """Set the rules, and reset the log and the buckets."""
        if rules.stored != self.rules.stored:
            self._stored = Stored(rules.stored) if rules.stored else None
        self.rules = rules
        self.log: list[Upsert] = []
        self.calls: Counter[str] = Counter()
        self.deletion_bytes = 0
        self.in_flight = 0
        self._bytes = Bucket(rules.bytes_per_second, rules.burst_s)
        self._requests = Bucket(rules.requests_per_second, rules.burst_s)
        self._started_s: float | None = None
        self._last_s = 0.0
        self._cpu_s = time.process_time()

    def admit(self, key: str, body_bytes: int, records: int) -> bool:
        """Accept or throttle an upsert, and log it."""
        now = time.monotonic()
        if self._started_s is None:
            self._started_s = now
        at_s = now - self._started_s
        passed_s = self.rules.full_rate_s(self._last_s, at_s)
        self._last_s = at_s
        self._bytes.refill(passed_s)
        self._requests.refill(passed_s)
        accepted = self._bytes.holds(body_bytes) and self._requests.holds(1)
        if accepted:
            self._bytes.take(body_bytes)
            self._requests.take(1)
        self.log.append(Upsert(at_s, key, body_bytes, records, accepted, self.in_flight))
        return accepted

    def answer(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        """Return the response to any request that is not an upsert, and count those to the data plane."""
        url = urlsplit(path)
        if url.path not in {"/rules", "/log"}:
            self.calls[url.path] += 1
        match method, url.path:
            case "POST", "/describe_index_stats":
                return {"namespaces": {}, "dimension": self.rules.dimension, "indexFullness": 0, "totalVectorCount": 0}
            case "POST", "/vectors/delete":
                self.deletion_bytes += len(body)
                return {}
            case "GET", "/vectors/fetch":
                assert self._stored is not None, "the rules name no file whose records could be fetched"
                return self._stored.fetch(parse_qs(url.query)["ids"])
            case "GET", "/indexes/bench":  # the control plane: the official operator looks up the host here
                return {
                    "name": "bench",
                    "host": self.url,
                    "status": {"ready": True, "state": "Ready"},
                    "schema": {"fields": {}},
                    "deployment": {"deployment_type": "managed", "cloud": "aws", "region": "us-east-1"},
                    "deletion_protection": "disabled",
                }
            case "PUT", "/rules":
                self.set_rules(Rules.from_json(body))
                return {}
            case "GET", "/log":
                return {
                    "upserts": self.log,
                    "calls": self.calls,
                    "deletion_bytes": self.deletion_bytes,
                    "cpu_s": time.process_time() - self._cpu_s,
                }
        raise ValueError(f"{method} {path} is not supported")


class Connection(asyncio.BufferedProtocol):
    """
    One connection: alternating heads and bodies.

    The buffer starts with the last bytes of the previous read, because a pattern may have been cut in two. Before the
    first read of a body these bytes are the end of the head, which cannot match.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._buffer = bytearray(_OVERLAP + _BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._await_head()

    def _await_head(self) -> None:
        self._head = b""
        self._missing = -1  # bytes of the body that are missing; -1: the head is not complete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._view[_OVERLAP:]

    def buffer_updated(self, count: int) -> None:
        end = _OVERLAP + count
        if self._missing >= 0:
            self._read_body(_OVERLAP, end)
            return
        self._head += self._view[_OVERLAP:end]
        head, separator, rest = self._head.partition(b"\r\n\r\n")
        if separator:
            self._begin_body(head.decode("latin-1"))
            self._read_body(end - len(rest), end)

    def _begin_body(self, head: str) -> None:
        first, *lines = head.split("\r\n")
        self._method, self._path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._key = headers.get("api-key", "")
        self._is_upsert = self._path == "/vectors/upsert"
        self._length = self._missing = int(headers.get("content-length", 0))
        self._records = 0
        self._body = b""

    def _read_body(self, start: int, end: int) -> None:
        self._missing -= end - start
        if self._is_upsert:
            self._records += self._buffer.count(_RECORD, start - _OVERLAP, end)
            self._view[:_OVERLAP] = self._view[end - _OVERLAP : end]
        else:
            self._body += self._view[start:end]
        if self._missing == 0:
            self._answer_upsert() if self._is_upsert else self._answer_other()
            self._await_head()

    def _answer_upsert(self) -> None:
        index = self._index
        index.in_flight += 1
        accepted = index.admit(self._key, self._length, self._records)
        response = _http(200, {"upsertedCount": self._records}) if accepted else _http(429, _TOO_MANY_REQUESTS)
        if index.rules.latency_s:
            asyncio.get_running_loop().call_later(index.rules.latency_s, self._respond, response)
        else:
            self._respond(response)

    def _respond(self, response: bytes) -> None:
        self._index.in_flight -= 1
        self._transport.write(response)

    def _answer_other(self) -> None:
        self._transport.write(_http(200, self._index.answer(self._method, self._path, self._body)))


def _http(status: int, content: dict[str, Any]) -> bytes:
    body = json.dumps(content).encode()
    reason = {200: "OK", 429: "Too Many Requests"}[status]
    return b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        reason.encode(),
        len(body),
        body,
    )


def url_of(server: asyncio.Server) -> str:
    """Return the URL of a server."""
    host, port = server.sockets[0].getsockname()
    return f"http://{host}:{port}"


async def until_stdin_ends() -> None:
    """Return when the parent process closes the standard input of this process, or ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


async def main() -> None:
    """Print the URL and the port of gRPC, then serve until standard input ends."""
    index = Index()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(index), "127.0.0.1", 0)
    index.url = url_of(server)
    async with serve_grpc(index) as grpc_port:
        print(index.url, grpc_port, sep="\n", flush=True)
        await until_stdin_ends()


if __name__ == "__main__":
    asyncio.run(main())
