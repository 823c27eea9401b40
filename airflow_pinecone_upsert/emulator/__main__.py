"""
``python -m airflow_pinecone_upsert.emulator``: a local index on a port, until it is interrupted.

What always holds: the line with the URL is printed once the port answers; SIGINT and SIGTERM let requests under way
finish; the exit status is 0 after a signal, 1 when the index cannot start, 2 when the options are wrong.
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

from airflow_pinecone_upsert.api import limits
from airflow_pinecone_upsert.emulator.records import METRICS, VECTOR_TYPES
from airflow_pinecone_upsert.emulator.server import EmulatedIndex
from airflow_pinecone_upsert.emulator.store import DataFolderError

_GRACE_S: Final = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run an index until SIGINT or SIGTERM.

    :param arguments: The command line without the program; by default that of the process.
    :return: The exit status.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
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
            data=options.data,
            max_request_bytes=options.max_request_bytes,
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
        reason = os.strerror(exc.errno) if exc.errno else str(exc)
        return _fail(f"Cannot listen on {options.host}:{options.port}: {reason}. Choose another --port.")
    try:
        print(f"{index.name}: {index.store.spec}, listening on {index.url}", flush=True)  # noqa: T201 - what a command is for
        stop.wait()
    finally:
        index.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_pinecone_upsert.emulator",
        description="A Pinecone-compatible index on this machine.",
    )
    parser.add_argument("--port", type=int, default=5080, help="0 for any free port (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--dimension", type=int, help="components of a vector; none for a sparse index")
    parser.add_argument("--metric", choices=METRICS, help="default: cosine, or dotproduct for a sparse index")
    parser.add_argument("--vector-type", choices=VECTOR_TYPES, default="dense", help="default: %(default)s")
    parser.add_argument("--name", default="local", help="name of the index (default: %(default)s)")
    parser.add_argument("--api-key", metavar="KEY", help="the key to demand; without it any key is taken")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="keep the records here; without it, in memory")
    parser.add_argument(
        "--max-request-bytes",
        type=int,
        metavar="N",
        default=limits.MAX_DECODED_REQUEST_BYTES,
        help="the longest JSON body to take (default: %(default)s)",
    )
    parser.add_argument(
        "--fault",
        metavar="KIND:RATE,…",
        help="let upserts go wrong at random: 429:0.05,reset:0.02 fails one in 20 with status 429 and resets one in 50; "
        "a kind is a status from 400 to 599, reset, lost_ack or stall (a minute)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="luck of --fault (default: %(default)s)")
    return parser


def _fail(message: str) -> int:
    print(message, file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())
