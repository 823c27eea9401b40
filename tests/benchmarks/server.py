"""
A stand-in for Pinecone on 127.0.0.1, lean enough not to be what is measured: ``python -m tests.benchmarks.server``.

It reads HTTP/1.1 by hand into one small buffer, counts records while the bytes pass, keeps none of them, and answers
what Pinecone answers. What it leaves out on purpose: checks, TLS, ``Retry-After``, which the real service does not
promise, and a limit of the request's size (the SDK's requests of 100 x 1536 are 3.3 MB of JSON, which the real service
may refuse).

A record is counted where ``{"id":`` stands. That is exact for these benchmarks, because no key of the generated
metadata is ``id``; and whoever runs a client also compares the sum with what the file holds.

``PUT /rules`` sets :class:`Rules` and clears the log, ``GET /log`` returns it. The server ends when its standard input
does, so it cannot outlive the benchmark, however that ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from tests.benchmarks.rules import Rules, Upsert

_RECORD = b'{"id":'
_OVERLAP = len(_RECORD) - 1
_BUFFER_BYTES = 256 << 10
_REFUSAL = {
    "code": 8,
    "message": "Too Many Requests: reached the max upsert size limit per second for index bench",
    "details": [],
}


class Bucket:
    """A token bucket. ``full_rate_s`` is the time since the last request, as :meth:`Rules.full_rate_s` counts it."""

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


class Index:
    """All state of the server: the rules, the buckets and the log."""

    def __init__(self) -> None:
        self.url = ""
        self.set_rules(Rules())

    def set_rules(self, rules: Rules) -> None:
        """Begin anew."""
        self.rules = rules
        self.log: list[Upsert] = []
        self.in_flight = 0
        self._bytes = Bucket(rules.bytes_per_second, rules.burst_s)
        self._requests = Bucket(rules.requests_per_second, rules.burst_s)
        self._started_s: float | None = None
        self._last_s = 0.0
        self._cpu_s = time.process_time()

    def admit(self, key: str, body_bytes: int, records: int) -> bool:
        """Decide about an upsert, and write it down."""
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
        """Answer anything but an upsert."""
        match method, path:
            case "POST", "/describe_index_stats":
                return {"namespaces": {}, "dimension": self.rules.dimension, "indexFullness": 0, "totalVectorCount": 0}
            case "GET", "/indexes/bench":  # the control plane, which the official operator asks for the host
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
                return {"upserts": self.log, "cpu_s": time.process_time() - self._cpu_s}
        raise ValueError(f"{method} {path} is not served here")


class Connection(asyncio.BufferedProtocol):
    """
    One connection: heads and bodies in turn.

    The buffer begins with the last bytes of what was read before, where a pattern may have been cut in two. What stands
    before a body is the end of its head, which no pattern matches.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._buffer = bytearray(_OVERLAP + _BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._await_head()

    def _await_head(self) -> None:
        self._head = b""
        self._missing = -1  # bytes of the body that are still to come; -1: the head is not complete

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
        answer = _http(200, {"upsertedCount": self._records}) if accepted else _http(429, _REFUSAL)
        if index.rules.latency_s:
            asyncio.get_running_loop().call_later(index.rules.latency_s, self._land, answer)
        else:
            self._land(answer)

    def _land(self, answer: bytes) -> None:
        self._index.in_flight -= 1
        self._transport.write(answer)

    def _answer_other(self) -> None:
        self._transport.write(_http(200, self._index.answer(self._method, self._path, self._body)))


def _http(status: int, answer: dict[str, Any]) -> bytes:
    body = json.dumps(answer).encode()
    reason = {200: "OK", 429: "Too Many Requests"}[status]
    return b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        reason.encode(),
        len(body),
        body,
    )


def url_of(server: asyncio.Server) -> str:
    """Tell where a server listens."""
    host, port = server.sockets[0].getsockname()
    return f"http://{host}:{port}"


async def until_stdin_ends() -> None:
    """Return when whoever started this process closes its standard input, or is gone."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


async def main() -> None:
    """Serve, and print the URL once."""
    index = Index()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(index), "127.0.0.1", 0)
    index.url = url_of(server)
    print(index.url, flush=True)
    await until_stdin_ends()


if __name__ == "__main__":
    asyncio.run(main())
