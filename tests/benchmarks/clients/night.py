"""This project: one run of reindexing, with a lease on its manifest and all checks, but without Airflow."""

from __future__ import annotations

import argparse
import json
import time

import fsspec

from airflow_pinecone_upsert.api.http import ClientSettings
from airflow_pinecone_upsert.client import IndexClient
from airflow_pinecone_upsert.hooks.reindexing import target_of
from airflow_pinecone_upsert.pipeline.read.files import find_parquet_files
from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource
from airflow_pinecone_upsert.reindex.lease import Holder, Lease
from airflow_pinecone_upsert.reindex.manifest import Manifest, ManifestFolder, new_run_id
from airflow_pinecone_upsert.reindex.options import ReindexOptions
from airflow_pinecone_upsert.reindex.report import ReindexReport
from airflow_pinecone_upsert.reindex.run import reindex

_TARGET_URL = "https://bench.svc.pinecone.io"
"""Of the manifests: that of the server has another port in each run of the benchmark."""


def run(source: ParquetSource, client: IndexClient, options: ReindexOptions, folder: ManifestFolder) -> ReindexReport:
    """Run with the lease on the manifest, or only read it for a dry run, as the hook does."""
    target = target_of(_TARGET_URL, options)
    if options.dry_run:
        return reindex(source, client, options, Manifest.open(folder, target))
    run_id = new_run_id()
    lease = Lease.acquire(folder, Holder(run_id), time.time())
    manifest = Manifest.open(folder, target, run_id)
    report = reindex(source, client, options, manifest, on_turn=lambda: lease.renew_if_due(time.time()))
    lease.release()
    return report


def main() -> None:
    """Reindex, and print what was confirmed; without a path, only import what that needs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("path", nargs="?")
    parser.add_argument("--manifest", default="")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--verify-sample", type=int, default=100)
    arguments = parser.parse_args()

    files = fsspec.filesystem("file")
    options = ReindexOptions(
        dry_run=arguments.dry_run,
        full=arguments.full,
        verify_sample=arguments.verify_sample,
        max_requests_per_second=None,
        max_bytes_per_second=float("inf"),
    )
    with IndexClient(arguments.url, ClientSettings(api_key="night")) as client:
        if not arguments.path:
            print("{}")
            return
        source = ParquetSource(list(find_parquet_files(files, arguments.path)), options)
        report = run(source, client, options, ManifestFolder(files, arguments.manifest))
    counts = report.counts
    output = {
        "confirmed": 0 if options.dry_run else counts.new + counts.changed,
        "unchanged": counts.unchanged,
        "verified": counts.verified,
        "write_units": counts.write_units,
        "duration_s": counts.duration_s,
    }
    print(json.dumps(output))


if __name__ == "__main__":
    main()
