"""
A read-only replacement for S3 on 127.0.0.1 with a delay: ``python -m tests.benchmarks.s3 FOLDER --delay 0.05``.

The folder is the bucket ``bench``. Every response waits for the delay before its first byte, as with object storage;
the bytes then arrive as fast as the kernel sends a file. The server supports what reading needs: HEAD, GET with a
range, and ListObjectsV2.

moto behind a proxy is not used because it copies the whole object for each range (a range of 8 MB out of 311 MB took
0.2 s of a core, 39 MB/s in all), so on two cores the result would partly measure moto.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.benchmarks.server import until_stdin_ends, url_of

_BUCKET = "bench"
_MODIFIED = "Thu, 01 Jan 2026 00:00:00 GMT"


class Bucket:
    """
    The files of a folder.

    :param folder: The folder.
    :param delay_s: Seconds that each response waits.
    """

    def __init__(self, folder: Path, delay_s: float) -> None:
        self._folder = folder
        self._sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        self._delay_s = delay_s

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode("latin-1"):
                await asyncio.sleep(self._delay_s)
                await self._answer(head, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client closed the connection
        finally:
            writer.close()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> None:
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        url = urlsplit(target)
        key = unquote(url.path).removeprefix(f"/{_BUCKET}").strip("/")
        size = self._sizes.get(key)
        if not key:
            await _send(writer, 200, self._listing(parse_qs(url.query).get("prefix", [""])[0]))
        elif size is None:
            await _send(writer, 404, b"" if method == "HEAD" else b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            await self._send_file(writer, method, key, size, headers.get("range"))

    async def _send_file(
        self, writer: asyncio.StreamWriter, method: str, key: str, size: int, wanted: str | None
    ) -> None:
        start, end = _range(wanted, size) if wanted else (0, size)
        lines = [
            "HTTP/1.1 206 Partial Content" if wanted else "HTTP/1.1 200 OK",
            f"Content-Length: {end - start}",
            f"Content-Range: bytes {start}-{end - 1}/{size}",
            f"Last-Modified: {_MODIFIED}",
            'ETag: "bench"',
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        await writer.drain()
        if method == "GET":
            with (self._folder / key).open("rb") as file:
                await asyncio.get_running_loop().sendfile(writer.transport, file, start, end - start)

    def _listing(self, prefix: str) -> bytes:
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size>"
            "<LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
            for key, size in self._sizes.items()
            if key.startswith(prefix)
        )
        return f"<ListBucketResult><Name>{_BUCKET}</Name>{entries}</ListBucketResult>".encode()


def _range(wanted: str, size: int) -> tuple[int, int]:
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    if not first:
        return size - int(last), size
    return int(first), min(int(last or size) + 1, size)


async def _send(writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
    writer.write(b"HTTP/1.1 %d -\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
    await writer.drain()


async def main() -> None:
    """Print the URL, then serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--delay", type=float, required=True, help="seconds")
    arguments = parser.parse_args()
    server = await asyncio.start_server(Bucket(arguments.folder, arguments.delay).serve, "127.0.0.1", 0)
    print(url_of(server), flush=True)
    await until_stdin_ends()


if __name__ == "__main__":
    asyncio.run(main())
