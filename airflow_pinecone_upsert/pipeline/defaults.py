"""
The default of every parameter, named once.

Imports nothing heavy: the signatures of the operators use it, and a DAG file is parsed every few seconds.
"""

from __future__ import annotations

from typing import Final

from airflow_pinecone_upsert.api import limits

ID_COLUMN: Final = "id"
VALUES_COLUMN: Final = "values"
VALUES_FORMAT: Final = "list"
SPARSE_VALUES_COLUMN: Final = "sparse_values"
METADATA_COLUMN: Final = "metadata"

BATCH_SIZE: Final = limits.MAX_RECORDS_PER_REQUEST
MAX_REQUEST_BYTES: Final[int | None] = None
MAX_CONCURRENCY: Final = 8
MAX_REQUESTS_PER_SECOND: Final = limits.MAX_REQUESTS_PER_SECOND
MAX_BYTES_PER_SECOND: Final[float | None] = None
MAX_REJECTS: Final = 0
WAIT_UNTIL_SEARCHABLE: Final = False
SEARCHABLE_TIMEOUT_S: Final = 600.0
TRANSPORT: Final = "rest"

FRESHNESS_POLL_INTERVAL_S: Final = 5.0
FRESHNESS_TIMEOUT_S: Final = 3_600.0
IMPORT_POLL_INTERVAL_S: Final = 30.0

DELETE_MISSING: Final = True
MAX_DELETE_FRACTION: Final = 0.1
MIN_RECORDS: Final = 1
MAX_SHRINK_FRACTION: Final = 0.2
KEEP_NAMESPACES: Final = 1

VERIFY_SAMPLE: Final = 100
VERIFY_TIMEOUT_S: Final = 120.0

MAX_TASKS: Final = 100
TARGET_BYTES: Final = 250_000_000
"""Of a plan. So many bytes of Parquet keep a task busy for some ten seconds, a few times what Airflow takes to start it."""
