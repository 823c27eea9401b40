"""
What became of a bulk import.

Invariant: an import that ended with another number of records than its files hold is a failure. Pinecone drops records
without naming them.
"""

from __future__ import annotations

from typing import Final

from airflow_pinecone_upsert.api.models import BulkImport
from airflow_pinecone_upsert.exceptions import BulkImportError

_REMAINING: Final = (
    "Namespaces that it has created remain: delete them before the next import (PineconeHook().delete_namespace)."
)


def check_outcome(ended: BulkImport, expected: int) -> None:
    """
    Check an import that has ended.

    :param expected: The records that it should have imported.
    :raises BulkImportError: It failed, was cancelled, or imported another number of records. The next import would fail, too,
        because of the namespaces that remain, so a retry cannot help.
    """
    what = f"Import {ended.id} of {ended.uri}"
    if ended.status == "Failed":
        raise BulkImportError(
            f"{what} failed after {ended.records_imported:,} of {expected:,} records: {ended.error or 'Pinecone gives no reason'}. "
            "If Pinecone may not read the files: an import needs a Standard or Enterprise plan, s3:// an index on AWS, and a "
            f"private bucket an integration_id. {_REMAINING}"
        )
    if ended.status == "Cancelled":
        raise BulkImportError(
            f"{what} was cancelled after {ended.records_imported:,} of {expected:,} records. {_REMAINING}"
        )
    if ended.records_imported != expected:
        raise BulkImportError(
            f"{what} ended with {ended.records_imported:,} records, and {expected:,} were expected. Pinecone drops, without naming "
            "them, records whose values are identical to those of another record of the namespace, and with "
            'error_mode="continue" those that are invalid. '
            f"If that is intended, set expected_records={ended.records_imported}. {_REMAINING}"
        )
