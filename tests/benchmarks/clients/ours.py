"""This project: Parquet files, on disk or on S3, through ``upsert()`` with all checks, over REST or gRPC."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import fsspec

from airflow_pinecone_upsert.api.http import ClientSettings
from airflow_pinecone_upsert.client import IndexClient
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.options import UpsertOptions
from airflow_pinecone_upsert.pipeline.position import Position
from airflow_pinecone_upsert.pipeline.read.chunk import Chunk
from airflow_pinecone_upsert.pipeline.read.files import find_parquet_files
from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource
from airflow_pinecone_upsert.pipeline.read.source import RecordSource
from airflow_pinecone_upsert.pipeline.run import upsert


@dataclass
class FirstRecords:
    """
    The first records of a source.

    :param source: The whole source.
    :param records: The number of records.
    """

    source: RecordSource
    records: int

    identity = None
    not_resumable = "only the first records are read"

    def content_digest(self, position: Position, begun: Collection[str], earlier: Any) -> None:
        """Return None: a later try does not resume."""

    def content_change(self, digest: Any) -> None:
        """Return None: a later try does not resume."""

    def share_before(self, position: Position) -> None:
        """Return None: the share of the first records in the files is not known."""

    def chunks(self, shape: IndexShape, start: Position | None = None) -> Iterator[Chunk]:
        left = self.records
        for chunk in self.source.chunks(shape, start):
            part = replace(chunk, rows=chunk.rows[:left], records=chunk.records.slice(0, left))
            yield part
            left -= len(part.rows)
            if not left:
                return


def main() -> None:
    """Upsert and print what was confirmed; without a path, only import what that needs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--key", default="ours")
    parser.add_argument("--s3", metavar="URL", help="the paths are on this S3 server")
    parser.add_argument("--records", type=int, help="only the first records")
    parser.add_argument("--batch-size", type=int, default=1_000)
    parser.add_argument("--max-concurrency", type=int, default=8)
    parser.add_argument("--unpaced", action="store_true", help="remove the limits on requests and bytes per second")
    parser.add_argument("--grpc-port", type=int, help="send upserts over gRPC, to this port")
    parser.add_argument("--namespace-column", help="the column that names the namespace of each record")
    arguments = parser.parse_intermixed_args()

    if arguments.grpc_port:
        import grpc  # noqa: F401 - the client imports it with the first upsert, but memory is compared with all imports
    s3 = {"anon": True, "endpoint_url": arguments.s3}
    files = fsspec.filesystem("s3", **s3) if arguments.s3 else fsspec.filesystem("file")
    rates = {"max_requests_per_second": None, "max_bytes_per_second": float("inf")} if arguments.unpaced else {}
    options = UpsertOptions(
        batch_size=arguments.batch_size,
        max_concurrency=arguments.max_concurrency,
        transport="grpc" if arguments.grpc_port else "rest",
        namespace_column=arguments.namespace_column,
        **rates,
    )
    settings = ClientSettings(api_key=arguments.key, grpc_port=arguments.grpc_port)
    with IndexClient(arguments.url, settings) as client:
        if not arguments.paths:
            print("{}")
            return
        found = [file for path in arguments.paths for file in find_parquet_files(files, path)]
        source: RecordSource = ParquetSource(found, options)
        if arguments.records:
            source = FirstRecords(source, arguments.records)
        report = upsert(source, client, options)
    print(json.dumps({"confirmed": report.upserted_count, "duration_s": report.counts.duration_s}))


if __name__ == "__main__":
    main()
