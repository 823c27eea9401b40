"""
The command ``python -m airflow_pinecone_upsert.emulator``: serves an emulated index until it is interrupted.

Invariants:

* The line with the URL is printed when the port accepts requests.
* After SIGINT or SIGTERM, requests in progress may finish.
* The exit status is 0 after a signal, 1 if the index cannot start, and 2 if an option is invalid.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from airflow_pinecone_upsert.emulator import limits
from airflow_pinecone_upsert.emulator.allowance import MEASURES
from airflow_pinecone_upsert.emulator.records import METRICS, VECTOR_TYPES
from airflow_pinecone_upsert.emulator.server import EmulatedIndex
from airflow_pinecone_upsert.emulator.store import DataFolderError

_GRACE_S: Final = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Serve an index until SIGINT or SIGTERM.

    :param arguments: The command line without the program name; by default ``sys.argv[1:]``.
    :return: The exit status.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.dimension is None and options.vector_type == "dense":
        parser.error(
            "--dimension is missing. Give that of your embedding model, such as --dimension 1536, "
            "or --vector-type sparse for an index of sparse vectors."
        )
    stop = threading.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda *_: stop.set())
    try:
        index = EmulatedIndex(
            options.dimension,
            metric=options.metric,
            vector_type=options.vector_type,
            name=options.name,
            api_key=options.api_key,
            host=options.host,
            port=options.port,
            grpc_port=options.grpc_port,
            data=options.data,
            max_request_bytes=options.max_request_bytes,
            measure=options.measure,
            lag_s=options.lag,
            import_duration_s=options.import_duration,
            grace_s=_GRACE_S,
        )
        if options.fault is not None:
            index.faults.at_random(options.fault, options.seed)
    except ValueError as exc:
        parser.error(str(exc))
    except (DataFolderError, OSError) as exc:
        return _fail(str(exc))
    try:
        index.start()
    except OSError as exc:
        if not exc.errno:  # its message says it
            return _fail(str(exc))
        reason = os.strerror(exc.errno)
        return _fail(f"Cannot listen on {options.host}:{options.port}: {reason}. Choose another --port.")
    try:
        grpc = f" and on port {index.grpc_port} for gRPC" if index.grpc_port else ""
        print(f"{index.name}: {index.store.spec}, listening on {index.url}{grpc}", flush=True)  # noqa: T201 - the output of a command
        stop.wait()
    finally:
        index.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_pinecone_upsert.emulator",
        description="Serve a Pinecone-compatible index on this machine, for tests and offline work.",
    )
    parser.add_argument(
        "--port", type=int, default=5080, help="port to listen on; 0 for any free port (default: %(default)s)"
    )
    parser.add_argument(
        "--grpc-port",
        type=int,
        metavar="PORT",
        help="port to listen on for gRPC; 0 for any free port (default: no gRPC)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--dimension", type=int, metavar="N", help="dimension of a dense index; omit it for a sparse index"
    )
    parser.add_argument(
        "--metric", choices=METRICS, help="similarity metric (default: cosine, or dotproduct for a sparse index)"
    )
    parser.add_argument(
        "--vector-type", choices=VECTOR_TYPES, default="dense", help="type of the vectors (default: %(default)s)"
    )
    parser.add_argument("--name", default="local", help="name of the index (default: %(default)s)")
    parser.add_argument("--api-key", metavar="KEY", help="API key that clients must send (default: any non-empty key)")
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="folder to store the records in (default: in memory)"
    )
    parser.add_argument(
        "--max-request-bytes",
        type=int,
        metavar="N",
        default=limits.MAX_DECODED_REQUEST_BYTES,
        help="size of the largest body to accept, JSON or protobuf (default: %(default)s)",
    )
    parser.add_argument(
        "--measure",
        choices=MEASURES,
        help="enforce the limits of 2 MB a request and 50 MB/s a namespace, counting the bytes that were sent (json) or "
        "those of the stored records (binary); Pinecone does not say which it counts (default: no such limits)",
    )
    parser.add_argument(
        "--lag",
        type=float,
        metavar="SECONDS",
        default=0.0,
        help="seconds until a write is visible to queries, fetches, lists and statistics (default: %(default)s)",
    )
    parser.add_argument(
        "--import-duration",
        type=float,
        metavar="SECONDS",
        default=0.0,
        help="seconds that a bulk import takes (default: %(default)s)",
    )
    parser.add_argument(
        "--fault",
        metavar="KIND:RATE,...",
        help="make upserts fail at random: 429:0.05,reset:0.02 answers 5%% of them with status 429 and resets the "
        "connection of 2%%. KIND is a status from 400 to 599, reset (nothing is written), lost_ack (everything is "
        "written, but the connection closes without a response) or stall (the response comes after a minute)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of --fault; the same seed repeats the same faults (default: %(default)s)",
    )
    return parser


def _fail(message: str) -> int:
    print(message, file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())
