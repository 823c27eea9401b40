"""The options of a reindexing run: those of an upsert, and what happens to the rest of the namespace."""

from __future__ import annotations

from pydantic import Field
from typing_extensions import Self, Unpack

from airflow_pinecone_upsert.pipeline import defaults
from airflow_pinecone_upsert.pipeline.options import UpsertOptions, UpsertParameters


class ReindexParameters(UpsertParameters, total=False):
    """The options that a caller may pass by name, but for the namespace. See :class:`ReindexOptions`."""

    delete_missing: bool
    max_delete_fraction: float
    full: bool
    audit: bool
    dry_run: bool
    verify_sample: int
    verify_timeout_s: float


class ReindexOptions(UpsertOptions):
    """
    The options of a reindexing run: everything but its source, its index and its manifest.

    :param delete_missing: Delete the records that the manifest has and the source does not.
    :param max_delete_fraction: The share of the manifest's records that may be deleted; up to 10 always may.
    :param full: Send every record, also those that are unchanged.
    :param audit: List the ids of the namespace first, and repair what differs from the manifest.
    :param dry_run: Read and compare, and neither send nor write anything.
    :param verify_sample: Records of each kind (sent, not sent, deleted) that are fetched after the run and compared; 0 for
        none.
    :param verify_timeout_s: How long the namespace may take until it shows what was written.
    """

    delete_missing: bool = defaults.DELETE_MISSING
    max_delete_fraction: float = Field(default=defaults.MAX_DELETE_FRACTION, ge=0, le=1)
    full: bool = False
    audit: bool = False
    dry_run: bool = False
    verify_sample: int = Field(default=defaults.VERIFY_SAMPLE, ge=0, le=10_000)
    verify_timeout_s: float = Field(default=defaults.VERIFY_TIMEOUT_S, ge=0, le=3_600)

    @classmethod
    def checked(cls, namespace: str = "", **parameters: Unpack[ReindexParameters]) -> Self:
        """
        Validate what a user chose.

        :param namespace: ``""`` is the default namespace.
        :param parameters: The other fields of this class.
        :raises SetupError: Names every field that is wrong, with its value.
        """
        return cls._checked({"namespace": namespace, **parameters})
