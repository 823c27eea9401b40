"""
The limits of Pinecone's API, and how long this package retries.

The limits were taken from Pinecone's documentation and its OpenAPI files of version 2025-04 in November 2026:

* docs: https://docs.pinecone.io/reference/api/database-limits
* OpenAPI: https://github.com/pinecone-io/pinecone-api/tree/main/2025-04
* retries: https://docs.pinecone.io/guides/production/error-handling
"""

from __future__ import annotations

from typing import Final

API_VERSION: Final = "2025-04"
SCHEMA_API_VERSION: Final = "2026-07"
"""
The first version in which the control plane returns the schema of an index, which shows whether the index holds vectors or
documents (https://docs.pinecone.io/reference/api/2026-07/control-plane/describe_index). The statistics of an index do not
show it.
"""

FILTER_COUNT_API_VERSION: Final = "2025-10"
"""The first version that counts the records that a filter matches (``dryRun`` of an update)."""

ALIAS_API_VERSION: Final = "2026-07"
"""The first version with namespace aliases (https://docs.pinecone.io/guides/manage-data/namespace-aliases/overview)."""

CONTROL_PLANE_URL: Final = "https://api.pinecone.io"

# One request ---------------------------------------------------------------------------------

MAX_RECORDS_PER_REQUEST: Final = 1_000
"""Records in one upsert (OpenAPI, ``UpsertRequest.vectors.maxItems``)."""

MAX_REQUEST_BYTES: Final = 2_000_000
"""
Bytes of one upsert (docs: 2 MB, decimal).

Pinecone's own table of records per request fits the binary size of a record, with four bytes per component. The JSON body
is longer than that, so counting its bytes is the safe interpretation.
"""

MAX_DECODED_REQUEST_BYTES: Final = 4_194_304
"""Bytes that the server's decoder accepts, according to its error message. Every larger request is rejected."""

MAX_IDS_PER_DELETE: Final = 1_000
MAX_IDS_PER_FETCH: Final = 40
"""
Ids are part of the URL. 40 ids of 512 characters, each of which is encoded as ``%26``, stay below the 64 KB that httpx and
proxies accept.
"""

MAX_IDS_PER_LIST_PAGE: Final = 100
MAX_TOP_K: Final = 10_000

# One bulk import (docs: https://docs.pinecone.io/guides/index-data/import-data) -----------------

MAX_IMPORT_URI_LENGTH: Final = 1_500
"""Characters (OpenAPI, ``StartImportRequest.uri``)."""

MAX_IMPORT_BYTES: Final = 1_000_000_000_000
MAX_IMPORT_NAMESPACES: Final = 10_000
MAX_IMPORT_FILES: Final = 100_000
MAX_IMPORT_FILE_BYTES: Final = 10_000_000_000

# One record ----------------------------------------------------------------------------------

MAX_ID_LENGTH: Final = 512
"""Characters, ASCII without NUL (OpenAPI, docs)."""

MAX_NAMESPACE_LENGTH: Final = 512
"""Characters, ASCII without NUL (docs)."""

MAX_DIMENSION: Final = 20_000
MAX_SPARSE_VALUES: Final = 2_048
"""Non-zero entries of a sparse vector (docs; the OpenAPI file of 2025-04 still says 1,000)."""

MAX_SPARSE_INDEX: Final = 2**32 - 1
MAX_METADATA_BYTES: Final = 40_960

# Rates per namespace, on every plan (docs) ---------------------------------------------------

MAX_REQUESTS_PER_SECOND: Final = 100
MAX_BYTES_PER_SECOND: Final = 50_000_000
MAX_DELETE_REQUESTS_PER_SECOND: Final = 100
MAX_DELETED_IDS_PER_SECOND: Final = 5_000

MAX_LIST_REQUESTS_PER_SECOND: Final = 200
"""Per index."""

# Cost (https://docs.pinecone.io/guides/manage-cost/understanding-cost) -------------------------

BYTES_PER_WRITE_UNIT: Final = 1_000
"""Of the records of an upsert, of those that they overwrite, and of those that are deleted."""

MIN_WRITE_UNITS_PER_REQUEST: Final = 5

# Of this package, not of Pinecone -------------------------------------------------------------

MAX_CONCURRENCY: Final = 64
DEFAULT_TIMEOUT_S: Final = 60.0
MAX_TIMEOUT_S: Final = 3_600.0
"""A longer silence of the server hides that it is gone, and the system's own limits fail with errors of their own."""

DEFAULT_TOTAL_TIMEOUT_S: Final = 180.0
"""A request of 2 MB takes longer only below 11 KB/s. A server that sends a byte a second would never end otherwise."""

MAX_RESPONSE_BYTES: Final = 1_000_000
"""Bytes of a response that holds no data. The largest, 100 ids or namespaces of 512 characters, has a tenth of it."""

MAX_DATA_RESPONSE_BYTES: Final = 64_000_000
"""
Bytes of a response with records, or with the statistics of every namespace: 40 records of 20,000 components with 25
characters each have 20 MB, and 100,000 namespaces with names of 512 characters have 55 MB.
"""

MAX_ERROR_RESPONSE_BYTES: Final = 256_000
"""Bytes of an error response that are read; the others are not needed for its message."""

MAX_ATTEMPTS: Final = 10
"""Attempts at one upsert request. With full jitter, the waits add up to two minutes on average and to four at most."""

MAX_CALL_ATTEMPTS: Final = 5
"""Attempts at any other request. They take about ten seconds: a user may be waiting for the result."""

BACKOFF_BASE_S: Final = 1.0
BACKOFF_CAP_S: Final = 60.0
"""Base and cap of the exponential backoff, as Pinecone's documentation on retries recommends."""

MAX_RETRY_AFTER_S: Final = 120.0
"""A longer ``Retry-After`` is cut to this: a task that sleeps for hours blocks a worker slot and seems to hang."""
