"""
A Pinecone emulator: an index on this machine, for tests, demos and offline work.

It implements the data plane of API version 2025-04, and much of what newer versions added, over real HTTP and gRPC, with
the limits and error bodies of the real service::

    python -m airflow_pinecone_upsert.emulator --port 5080 --dimension 256

    from airflow_pinecone_upsert.emulator import EmulatedIndex

    with EmulatedIndex(dimension=256) as index:
        print(index.url)

Invariants:

* A write is visible to every read that starts after the response to the write, unless the index has a lag.
* The emulator imports neither Airflow nor anything of this package outside of the emulator, and Arrow only when a bulk
  import runs.
* Importing this package is cheap: each public name is loaded on first use.
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

_MODULES: Final = {
    "EmulatedIndex": "server",
    "Fault": "faults",
    "Faults": "faults",
    "IndexSpec": "records",
    "RequestRecord": "request_log",
    "Store": "store",
    "StoredRecord": "records",
    "create_app": "app",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
