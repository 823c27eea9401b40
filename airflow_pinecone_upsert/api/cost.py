"""
What requests cost in write units, by Pinecone's rule. Estimates: how it counts metadata and rounds is not documented.

https://docs.pinecone.io/guides/manage-cost/understanding-cost
"""

from __future__ import annotations

from typing import Final

from airflow_pinecone_upsert.api.limits import BYTES_PER_WRITE_UNIT, MIN_WRITE_UNITS_PER_REQUEST

USD_PER_MILLION_WRITE_UNITS: Final = 4.0
"""Of the plan Standard, in November 2026: https://www.pinecone.io/pricing/"""


def write_units(*record_bytes: int) -> int:
    """
    Estimate the write units of one request.

    :param record_bytes: Of an upsert: the bytes of its records, and those of the records that they overwrite. Of a deletion:
        those of the records that it deletes. A record has 4 bytes for each component, see
        :func:`airflow_pinecone_upsert.reindex.digest.digest_records`.
    """
    return max(MIN_WRITE_UNITS_PER_REQUEST, _units(sum(record_bytes)))


def rewrite_units(record_bytes: int) -> int:
    """
    Estimate the write units of replacing records by records of the same size, in requests that are well filled.

    :param record_bytes: The bytes of the records.
    """
    return _units(2 * record_bytes)


def _units(count: int) -> int:
    return -(-count // BYTES_PER_WRITE_UNIT)
