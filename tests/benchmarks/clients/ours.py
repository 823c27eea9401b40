"""This project: Parquet files, on disk or from S3, through ``upsert()`` with every check."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass

import fsspec

from airflow_pinecone_upsert.api.client import ClientSettings, IndexClient
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.options import UpsertOptions
from airflow_pinecone_upsert.pipeline.position import Position
from airflow_pinecone_upsert.pipeline.read.chunk import Chunk
from airflow_pinecone_upsert.pipeline.read.files import find_parquet_files
from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource
from airflow_pinecone_upsert.pipeline.read.source import RecordSource
from airflow_pinecone_upsert.pipeline.run import upsert


@dataclass
class First:
    """
    The first records of a source.

    :param source: The whole.
    :param records: How many.
    """

    source: RecordSource
    records: int

    identity = None

    def share_before(self, place: Position) -> None:
        """Return None: the first records are no share of the files' bytes."""

    def chunks(self, shape: IndexShape, start: Position | None = None) -> Iterator[Chunk]:
        left = self.records
        for chunk in self.source.chunks(shape, start):
            part = chunk.records.slice(0, left)
            yield Chunk(chunk.origin, chunk.first_row, part, chunk.names, chunk.problems)
            left -= len(part)
            if not left:
                return


def main() -> None:
    """Upsert and say what was confirmed; with no path, only import what that takes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--key", default="ours")
    parser.add_argument("--s3", metavar="URL", help="the paths lie on this S3 server")
    parser.add_argument("--records", type=int, help="only the first ones")
    parser.add_argument("--batch-size", type=int, default=1_000)
    parser.add_argument("--max-concurrency", type=int, default=8)
    parser.add_argument("--unpaced", action="store_true", help="lift the bounds of requests and bytes per second")
    arguments = parser.parse_intermixed_args()

    s3 = {"anon": True, "endpoint_url": arguments.s3}
    files = fsspec.filesystem("s3", **s3) if arguments.s3 else fsspec.filesystem("file")
    rates = {"max_requests_per_second": None, "max_bytes_per_second": None} if arguments.unpaced else {}
    options = UpsertOptions(batch_size=arguments.batch_size, max_concurrency=arguments.max_concurrency, **rates)
    with IndexClient(arguments.url, ClientSettings(api_key=arguments.key)) as client:
        if not arguments.paths:
            print("{}")
            return
        found = [file for path in arguments.paths for file in find_parquet_files(files, path)]
        source: RecordSource = ParquetSource(found, options)
        if arguments.records:
            source = First(source, arguments.records)
        report = upsert(source, client, options)
    print(json.dumps({"confirmed": report.upserted_count, "duration_s": report.duration_s}))


if __name__ == "__main__":
    main()
