"""
What is to be deleted: ids in memory, ids in Parquet files, what a filter matches, or all records of a namespace.

Invariants:

- Ids are read while they are sent, in bounded memory; those of files are counted from the footers.
- An id that cannot be one is an error that names its row, and nothing of its chunk is sent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, ClassVar, Final, Protocol

import pyarrow as pa

from airflow_pinecone_upsert.api.limits import MAX_IDS_PER_DELETE
from airflow_pinecone_upsert.api.models import IndexStats, to_id
from airflow_pinecone_upsert.exceptions import BadRequestError, RecordError, SetupError, SourceError
from airflow_pinecone_upsert.pipeline.encode.ids import VALID_ID, check_ids
from airflow_pinecone_upsert.pipeline.index_shape import IndexShape
from airflow_pinecone_upsert.pipeline.read.chunk import XCOM
from airflow_pinecone_upsert.pipeline.read.parquet import ParquetSource
from airflow_pinecone_upsert.pipeline.send.requests import BulkDeleteRequest, DeleteRequest, Deletion
from airflow_pinecone_upsert.pipeline.violation import Violation, preview
from airflow_pinecone_upsert.pipeline.wording import number_of

_IDS_ONLY: Final = IndexShape(dimension=1)
"""Chunks of as many rows as there may be, because the vectors are not read."""

_MAX_DEPTH: Final = 3
"""Of lists of ids in lists: the outputs of several mapped tasks."""


class Index(Protocol):
    """What counting needs of an index."""

    @property
    def host(self) -> str:
        """The index's URL."""
        ...

    def describe_index_stats(self) -> IndexStats:
        """Return record counts."""
        ...

    def count_matching(self, filter: Mapping[str, Any], *, namespace: str = "") -> int | None:  # noqa: A002 - the API's word
        """Count the records that a filter matches; None where the server does not say it."""
        ...


class Selection(Protocol):
    """What is to be deleted. ``str()`` describes it for the log."""

    @property
    def is_of_ids(self) -> bool:
        """Whether it consists of ids, which are counted when they are confirmed."""
        ...

    def count(self, index: Index, namespace: str) -> int | None:
        """
        Count the ids, or the records that are selected, before anything is deleted.

        :return: None where the server does not count them.
        """
        ...

    def requests(self, namespace: str) -> Iterator[Deletion]:
        """Yield the requests that delete them."""
        ...


class _Ids(ABC):
    """Ids from anywhere."""

    is_of_ids: ClassVar[bool] = True

    @abstractmethod
    def _texts(self) -> Iterator[Sequence[str]]:
        """Yield valid ids, some at a time."""

    def requests(self, namespace: str) -> Iterator[DeleteRequest]:
        """Yield a request for each 1,000 ids. See :class:`Selection`."""
        ids = chain.from_iterable(self._texts())
        while page := list(islice(ids, MAX_IDS_PER_DELETE)):
            yield DeleteRequest(page, namespace)


class IdsInMemory(_Ids):
    """
    Ids of a list, or of lists in a list.

    :param ids: Text, integers, UUIDs and what else is converted to an id exactly.
    :raises SourceError: It is not a list.
    """

    def __init__(self, ids: Iterable[Any]) -> None:
        self._ids = list(_flat(ids, _MAX_DEPTH))

    def __str__(self) -> str:
        """Describe it for the log."""
        return number_of(len(self._ids), "id")

    def count(self, index: Index, namespace: str) -> int:  # noqa: ARG002 - the ids are known
        """Count the ids, repeated ones included."""
        return len(self._ids)

    def _texts(self) -> Iterator[Sequence[str]]:
        for start in range(0, len(self._ids), MAX_IDS_PER_DELETE):
            page = [_text(value, row) for row, value in enumerate(self._ids[start : start + MAX_IDS_PER_DELETE], start)]
            yield _checked(pa.array(page, pa.string()), "id", XCOM, range(start, start + len(page)))


class IdsInFiles(_Ids):
    """
    The column of ids of Parquet files.

    :param source: Reads only this column.
    """

    def __init__(self, source: ParquetSource) -> None:
        self._source = source

    def __str__(self) -> str:
        """Describe it for the log."""
        return f"the ids in {self._source}"

    def count(self, index: Index, namespace: str) -> int:  # noqa: ARG002 - the files say it
        """Count the rows, by the footers of the files."""
        return self._source.count_rows()

    def _texts(self) -> Iterator[Sequence[str]]:
        for chunk in self._source.chunks(_IDS_ONLY):
            yield _checked(chunk.records.column("id"), chunk.names["id"], chunk.origin, chunk.rows)


@dataclass(frozen=True)
class MatchingRecords:
    """
    The records that a filter on metadata matches.

    :param filter: Such as ``{"year": {"$lt": 2020}}``.
    :raises SetupError: It is empty, so that it might match every record, or not a mapping.
    """

    filter: Mapping[str, Any]

    is_of_ids: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.filter, Mapping) or not self.filter:
            raise SetupError(
                f"filter is {preview(self.filter)}. Set a filter on metadata such as {{'year': {{'$lt': 2020}}}}; to "
                "delete all records, set delete_all."
            )

    def __str__(self) -> str:
        """Describe it for the log."""
        return f"the records that match {preview(dict(self.filter))}"

    def count(self, index: Index, namespace: str) -> int | None:
        """Ask the server."""
        try:
            return index.count_matching(self.filter, namespace=namespace)
        except BadRequestError:  # of the filter, too: then the deletion is rejected, and says why
            return None

    def requests(self, namespace: str) -> Iterator[BulkDeleteRequest]:
        """Yield one request. See :class:`Selection`."""
        yield BulkDeleteRequest(namespace, self.filter)


class AllRecords:
    """All records of a namespace."""

    is_of_ids: ClassVar[bool] = False

    def __str__(self) -> str:
        """Describe it for the log."""
        return "all records"

    def count(self, index: Index, namespace: str) -> int:
        """Read the statistics of the index, which lag behind writes by seconds."""
        return index.describe_index_stats().count_of(namespace)

    def requests(self, namespace: str) -> Iterator[BulkDeleteRequest]:
        """Yield one request. See :class:`Selection`."""
        yield BulkDeleteRequest(namespace)


def _flat(ids: Any, depth: int) -> Iterator[Any]:
    """Yield the ids of a list of ids or of such lists: a mapped task returns one for each of its instances."""
    if isinstance(ids, (str, bytes, Mapping)) or not isinstance(ids, Iterable):
        raise SourceError(f"ids is {preview(ids)} ({type(ids).__name__}), not a list of ids. Pass a list of ids.")
    for value in ids:
        if depth and isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)):
            yield from _flat(value, depth - 1)
        else:
            yield value


def _text(value: Any, row: int) -> str | None:
    """
    Return the text of an id; None where there is none.

    :raises RecordError: The value cannot be an id.
    """
    try:
        text = to_id(value)
    except ValueError as exc:
        raise _error(Violation("id", str(exc), VALID_ID, preview(value)), XCOM, row) from exc
    if text is None or isinstance(text, str):
        return text
    reason = f"the id is of type {type(value).__name__}"
    raise _error(Violation("id", reason, VALID_ID, preview(value)), XCOM, row)


def _checked(ids: pa.Array[Any], field: str, origin: str, rows: Sequence[int]) -> Sequence[str]:
    """
    Return ids as text.

    :param ids: Shape (n,).
    :param rows: The row of each. Shape (n,).
    :raises RecordError: One of them cannot be an id.
    """
    texts, violations = check_ids(ids, field)
    if violations:
        first = min(violations)
        raise _error(violations[first], origin, rows[first])
    return texts


def _error(violation: Violation, origin: str, row: int) -> RecordError:
    return RecordError(
        violation.reason,
        remedy=violation.remedy,
        origin=origin,
        row=row,
        field=violation.field,
        value=violation.value,
    )
