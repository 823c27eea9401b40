"""
The floor: a bare loop that reads the file, encodes each record with ``orjson.dumps`` and writes to a raw socket.

It has no checks, one request at a time and no limit on bytes: the work that remains if a pipeline does nothing to be
reliable.
"""

from __future__ import annotations

import argparse
import json
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import orjson
import pyarrow.parquet as pq


def bodies(path: str, batch_size: int) -> Iterator[bytes]:
    """Yield the request bodies. The file is read in the way that needs the least CPU time."""
    for batch in pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20).iter_batches(
        batch_size, use_threads=False
    ):
        ids = batch["id"].to_pylist()
        values = batch["values"].flatten().to_numpy().reshape(len(ids), -1)
        metadata = batch["metadata"].to_pylist()
        records = [
            orjson.dumps({"id": i, "values": v, "metadata": m}, option=orjson.OPT_SERIALIZE_NUMPY)
            for i, v, m in zip(ids, values, metadata, strict=True)
        ]
        yield b'{"vectors":[%b]}' % b",".join(records)


def main() -> None:
    """Upsert and print what was confirmed; without a path, only import what that needs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("path", nargs="?")
    parser.add_argument("--batch-size", type=int, default=100)
    arguments = parser.parse_args()
    if not arguments.path:
        print("{}")
        return
    started_s = time.monotonic()
    confirmed = 0
    url = urlsplit(arguments.url)
    with socket.create_connection((url.hostname, url.port)) as connection:
        for body in bodies(arguments.path, arguments.batch_size):
            head = b"POST /vectors/upsert HTTP/1.1\r\nApi-Key: floor\r\nContent-Length: %d\r\n\r\n" % len(body)
            connection.sendall(head)
            connection.sendall(body)
            response = connection.recv(4096)
            confirmed += json.loads(response.partition(b"\r\n\r\n")[2])["upsertedCount"]
    print(json.dumps({"confirmed": confirmed, "duration_s": time.monotonic() - started_s}))


if __name__ == "__main__":
    main()
