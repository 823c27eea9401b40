"""
A Pinecone-compatible index on one machine, for tests, demos and work without a network.

It speaks the data plane of API version 2025-04 over real HTTP, with the real service's limits and error bodies::

    python -m airflow_pinecone_upsert.emulator --port 5080 --dimension 256

    from airflow_pinecone_upsert.emulator import EmulatedIndex

    with EmulatedIndex(dimension=256) as index:
        print(index.url)

What always holds: an answered write is visible to every read that starts after the answer; nothing here imports
Airflow or Arrow; importing this package imports no server, the names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from airflow_pinecone_upsert.emulator.app import create_app
    from airflow_pinecone_upsert.emulator.faults import Fault, Faults
    from airflow_pinecone_upsert.emulator.records import IndexSpec, StoredRecord
    from airflow_pinecone_upsert.emulator.request_log import RequestRecord
    from airflow_pinecone_upsert.emulator.server import EmulatedIndex
    from airflow_pinecone_upsert.emulator.store import Store

__all__ = ["EmulatedIndex", "Fault", "Faults", "IndexSpec", "RequestRecord", "Store", "StoredRecord", "create_app"]

_HOME: Final = {
    "Fault": "faults",
    "Faults": "faults",
    "IndexSpec": "records",
    "EmulatedIndex": "server",
    "RequestRecord": "request_log",
    "Store": "store",
    "StoredRecord": "records",
    "create_app": "app",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
