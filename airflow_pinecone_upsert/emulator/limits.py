"""
Every limit that the emulator enforces.

This table is separate from ``airflow_pinecone_upsert.api.limits`` on purpose: the emulator tests the client, so a wrong
number in the client must not be wrong here as well. A test compares the two tables.

Read in November 2026 from Pinecone's documentation and its OpenAPI files of version 2025-04:

* docs: https://docs.pinecone.io/reference/api/database-limits
* OpenAPI: https://github.com/pinecone-io/pinecone-api/tree/main/2025-04
"""

from __future__ import annotations

from typing import Final

SCHEMA_API_VERSION: Final = "2026-07"
"""
The first version in which the control plane describes an index by its schema
(https://docs.pinecone.io/reference/api/2026-07/control-plane/describe_index).
"""

ALIAS_API_VERSION: Final = "2026-07"
"""
The first version with namespace aliases, and with counts of 64 bits as decimal strings
(https://docs.pinecone.io/guides/manage-data/namespace-aliases/overview; OpenAPI of 2026-07).
"""

# One request ---------------------------------------------------------------------------------

MAX_RECORDS_PER_REQUEST: Final = 1_000
"""Records in one upsert (OpenAPI, ``UpsertRequest.vectors``)."""

MAX_REQUEST_BYTES: Final = 2_000_000
"""Bytes of one upsert (docs: 2 MB, decimal)."""

MAX_DECODED_REQUEST_BYTES: Final = 4_194_304
"""Bytes of the decoded request, as the error message of the real decoder says. The emulator counts the JSON body."""

MAX_IDS_PER_DELETE: Final = 1_000
"""Ids in one delete (OpenAPI, ``DeleteRequest.ids``; docs)."""

MAX_IDS_PER_LIST_PAGE: Final = 100
"""Ids, namespaces, aliases or imports on one page. It is also the default page size (OpenAPI, ``listVectors``, ``limit``)."""

MAX_RECORDS_PER_FETCH_PAGE: Final = 10_000
"""Records on one page of a fetch by metadata (OpenAPI of 2026-07, ``FetchByMetadataRequest.limit``)."""

MAX_TOP_K: Final = 10_000
"""Matches of one query (OpenAPI, ``QueryRequest.topK``; docs)."""

# One bulk import (docs; OpenAPI, ``StartImportRequest``) ------------------------------------------

MAX_IMPORT_URI_LENGTH: Final = 1_500
MAX_IMPORT_NAMESPACES: Final = 10_000
MAX_IMPORT_FILES: Final = 100_000
MAX_IMPORT_FILE_BYTES: Final = 10_000_000_000

# One index -----------------------------------------------------------------------------------

MAX_ALIASES_PER_INDEX: Final = 1_000
"""Namespace aliases (docs)."""

# One namespace -------------------------------------------------------------------------------

MAX_BYTES_PER_SECOND: Final = 50_000_000
"""Bytes of upserts (docs: 50 MB/s)."""

# One record ----------------------------------------------------------------------------------

MAX_ID_LENGTH: Final = 512
"""Characters, ASCII without NUL (OpenAPI, docs)."""

MAX_NAMESPACE_LENGTH: Final = 512
"""Characters, ASCII without NUL (docs)."""

MAX_DIMENSION: Final = 20_000
"""Components of a dense vector (docs)."""

MAX_SPARSE_VALUES: Final = 2_048
"""Non-zero entries of a sparse vector (docs; the OpenAPI file of 2025-04 still says 1,000)."""

MAX_SPARSE_INDEX: Final = 2**32 - 1
"""The largest index of a sparse value: indices are uint32 (docs)."""

MAX_METADATA_BYTES: Final = 40_960
"""Bytes of the metadata of one record, as JSON (docs: 40 KB)."""
