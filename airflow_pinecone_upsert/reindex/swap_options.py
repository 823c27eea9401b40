"""The options of a swap, and its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from pydantic import Field, model_validator
from typing_extensions import NotRequired, Self, Unpack

from airflow_pinecone_upsert.pipeline import defaults
from airflow_pinecone_upsert.pipeline.options import CheckedOptions, NamespaceName
from airflow_pinecone_upsert.pipeline.wording import number_of


class SwapParameters(TypedDict):
    """The options that a caller may pass by name. See :class:`SwapOptions`."""

    alias: str
    target_namespace: str
    lsn: NotRequired[int | None]
    min_records: NotRequired[int]
    max_shrink_fraction: NotRequired[float]
    keep: NotRequired[int]
    namespace_prefix: NotRequired[str | None]
    searchable_timeout_s: NotRequired[float]


class SwapOptions(CheckedOptions):
    """
    The options of a swap.

    :param alias: The alias that readers use.
    :param target_namespace: The namespace that it is to point to; ``""`` is the default one.
    :param lsn: The position of the last write to this namespace, as the output of the upsert has it. None: it counts as
        searchable once its number of records has stopped changing.
    :param min_records: It must hold at least so many records.
    :param max_shrink_fraction: It may hold fewer records than the current target, by at most this share of them.
    :param keep: Older namespaces with the prefix that are kept.
    :param namespace_prefix: Older namespaces with this prefix are deleted; None to delete none. An older one is one whose
        name sorts before that of the target.
    :param searchable_timeout_s: How long the target may take until it is searchable.
    """

    alias: str = Field(min_length=1)
    target_namespace: NamespaceName
    lsn: int | None = Field(default=None, ge=0)
    min_records: int = Field(default=defaults.MIN_RECORDS, ge=0)
    max_shrink_fraction: float = Field(default=defaults.MAX_SHRINK_FRACTION, ge=0, le=1)
    keep: int = Field(default=defaults.KEEP_NAMESPACES, ge=0)
    namespace_prefix: NamespaceName | None = Field(default=None, min_length=1)
    searchable_timeout_s: float = Field(default=defaults.SEARCHABLE_TIMEOUT_S, gt=0, le=86_400)

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        if self.alias == self.target_namespace:
            raise ValueError("alias and target_namespace are equal; an alias has a name of its own")
        if self.namespace_prefix and not self.target_namespace.startswith(self.namespace_prefix):
            raise ValueError(
                f"target_namespace does not begin with namespace_prefix {self.namespace_prefix!r}, so that no namespace "
                "with this prefix is older"
            )
        return self

    @classmethod
    def checked(cls, **parameters: Unpack[SwapParameters]) -> Self:
        """
        Validate what a user chose.

        :param parameters: The fields of this class.
        :raises SetupError: Names every field that is wrong, with its value.
        """
        return cls._checked(parameters)


@dataclass(frozen=True)
class SwapReport:
    """
    The result of a swap.

    :param alias: The alias.
    :param target_namespace: What it points to.
    :param previous_namespace: What it pointed to before; None where it is new, or where that is not known any more.
    :param record_count: Records of the target.
    :param previous_record_count: Records of the previous namespace; None where there is none.
    :param deleted_namespaces: The old namespaces that were deleted, over all tries.
    :param index_host: The URL of the index.
    """

    alias: str
    target_namespace: str
    previous_namespace: str | None
    record_count: int
    previous_record_count: int | None
    deleted_namespaces: Sequence[str]
    index_host: str

    def as_output(self) -> dict[str, Any]:
        """Return the task's output. Its ``namespace`` is what readers use: the alias."""
        return {
            "alias": self.alias,
            "targetNamespace": self.target_namespace,
            "previousNamespace": self.previous_namespace,
            "recordCount": self.record_count,
            "previousRecordCount": self.previous_record_count,
            "deletedNamespaces": list(self.deleted_namespaces),
            "namespace": self.alias,
            "indexHost": self.index_host,
        }

    def __str__(self) -> str:
        """Summarise it in one sentence, for the log."""
        before = f", before {self.previous_namespace!r}" if self.previous_namespace else ""
        deleted = ", ".join(map(repr, self.deleted_namespaces)) or "none"
        return (
            f"The alias {self.alias!r} points to {self.target_namespace!r} ({number_of(self.record_count, 'record')}{before}). "
            f"Deleted namespaces: {deleted}."
        )
