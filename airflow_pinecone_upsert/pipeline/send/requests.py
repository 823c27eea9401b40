"""
The requests that the sender sends: what it knows of each of them, and the kinds there are.

A further kind of request is a further class here that fulfils :class:`Request`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any, ClassVar, Final, Protocol

import orjson
from typing_extensions import Self

from airflow_pinecone_upsert.api.endpoints import DELETE, UPSERT, Body, Endpoint, delete_namespace, shown_namespace
from airflow_pinecone_upsert.api.models import DeleteResponse, UpsertResponse
from airflow_pinecone_upsert.pipeline.encode.json_format import JSON
from airflow_pinecone_upsert.pipeline.encode.records import EncodedRecords
from airflow_pinecone_upsert.pipeline.encode.wire_format import WireFormat
from airflow_pinecone_upsert.pipeline.position import RowRange, row_ranges

_PIECE_BYTES: Final = 128 * 1024
"""About the size of a piece of a body: smaller ones cost a turn of the interpreter's lock each, larger ones memory that
does not come back."""

_MAX_RANGES_SHOWN: Final = 2


class Request(Protocol):
    """What the sender knows of a request, whatever it asks for. It is hashed by identity."""

    @property
    def endpoint(self) -> Endpoint[Any]:
        """Where it goes, and the shape of the response."""
        ...

    @property
    def body(self) -> bytes | Body:
        """Its body, the same bytes each time."""
        ...

    @property
    def ids(self) -> Collection[str]:
        """The ids that it writes: two requests that share one of a namespace are never in flight together."""
        ...

    @property
    def namespace(self) -> str:
        """The namespace that it writes to; ``""`` is the default one."""
        ...

    @property
    def rate_units(self) -> int:
        """What the server's rate limit counts besides requests: bytes of an upsert, ids of a delete."""
        ...

    def binary_units(self) -> int:
        """Return what it may count instead: the binary size of an upsert's records."""
        ...

    @property
    def location(self) -> str:
        """What it is about, for a message."""
        ...

    def __len__(self) -> int:
        """Count its items."""
        ...

    def halves(self) -> tuple[Self, Self]:
        """Split two or more items in the middle."""
        ...

    def confirmed(self, response: Any) -> int:
        """Return how many of the items a response confirms; more than there are means that it cannot be trusted."""
        ...


@dataclass(frozen=True)
class Envelope:
    """
    The part of an upsert's body around the records.

    :param namespace: Left out of the body where it is the default one.
    :param wire_format: How the body is written.
    :param is_one_of_many: The records named their namespace.
    """

    namespace: str = ""
    wire_format: WireFormat = JSON
    is_one_of_many: bool = False

    @property
    def head(self) -> bytes:
        """The bytes before the first record."""
        return self.wire_format.head

    @property
    def separator(self) -> bytes:
        """The bytes between two records."""
        return self.wire_format.separator

    @cached_property
    def tail(self) -> bytes:
        """The bytes after the last record."""
        return self.wire_format.tail(self.namespace)

    @property
    def size(self) -> int:
        """Bytes of the body without records."""
        return len(self.head) + len(self.tail)


class RequestBody:
    """
    The body of an upsert, joined in pieces while it is sent.

    In one block it would be copied as often, and blocks of two megabytes among those of single records fragment the
    heap: a run of 400,000 records took 13 MB more than one of 20,000, and takes 3 MB more in pieces.

    :param records: The bytes of each record; one or more.
    :param envelope: The part around them.
    """

    def __init__(self, records: Sequence[bytes], envelope: Envelope) -> None:
        self._records = records
        self._envelope = envelope
        separators = len(envelope.separator) * (len(records) - 1)
        self._size = envelope.size + sum(map(len, records)) + separators

    def __len__(self) -> int:
        """Count the bytes."""
        return self._size

    def __bytes__(self) -> bytes:
        """Return the body in one block, which gRPC needs: copied once, where a join of the pieces would copy it twice."""
        records = [*self._records[:-1], self._records[-1] + self._envelope.tail]
        records[0] = self._envelope.head + records[0]
        return self._envelope.separator.join(records)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes, each time the body is sent."""
        records = list(self._records)
        count = max(1, len(records) * _PIECE_BYTES // self._size)
        starts = range(0, len(records), count)
        separator = self._envelope.separator
        # Head, tail and separators are added to the records next to them, so that a piece is copied once.
        for start in starts:
            before = separator if start else self._envelope.head
            records[start] = before + records[start] if before else records[start]
        records[-1] += self._envelope.tail
        return (separator.join(records[start : start + count]) for start in starts)


@dataclass(frozen=True, eq=False)
class UpsertRequest:
    """
    An upsert of some records.

    :param records: In the order of the source; one or more, all of the envelope's namespace, no id twice.
    :param envelope: The part of the body around them.
    """

    records: EncodedRecords
    envelope: Envelope

    endpoint = UPSERT

    def __len__(self) -> int:
        """Count the records."""
        return len(self.records.ids)

    @property
    def ids(self) -> Sequence[str]:
        """The id of each record."""
        return self.records.ids

    @property
    def namespace(self) -> str:
        """That of the records."""
        return self.envelope.namespace

    @cached_property
    def body(self) -> RequestBody:
        """The request's body."""
        return RequestBody(self.records.bodies, self.envelope)

    @property
    def rate_units(self) -> int:
        """Bytes of the body."""
        return len(self.body)

    def binary_units(self) -> int:
        """Return the binary size of the records."""
        return sum(self.envelope.wire_format.binary_sizes(self.records.bodies))

    @property
    def row_ranges(self) -> list[RowRange]:
        """The rows that these records come from."""
        rows = self.records.rows
        found: list[RowRange] = []
        stop = 0
        for origin, group in groupby(self.records.origins):
            start, stop = stop, stop + len(list(group))
            found += row_ranges(origin, rows[start:stop])
        return found

    @property
    def location(self) -> str:
        """Where these records come from, for a message."""
        parts = [f"{rows.origin}, rows {rows.start} to {rows.stop - 1}" for rows in _spans(self.row_ranges)]
        where = "; ".join(parts if len(parts) <= _MAX_RANGES_SHOWN else [parts[0], "…", parts[-1]])
        return f"namespace {shown_namespace(self.namespace)!r}, {where}" if self.envelope.is_one_of_many else where

    def halves(self) -> tuple[Self, Self]:
        """Split two or more records in the middle."""
        first, second = self.records.split(len(self) // 2)
        return replace(self, records=first), replace(self, records=second)

    def confirmed(self, response: UpsertResponse) -> int:
        """Return ``upsertedCount``."""
        return response.upserted_count


def _spans(ranges: Sequence[RowRange]) -> list[RowRange]:
    """Merge the ranges of one origin into the span from the first row to the last."""
    spans = []
    for origin, group in groupby(ranges, key=lambda rows: rows.origin):
        found = list(group)
        spans.append(RowRange(origin, found[0].start, found[-1].stop))
    return spans


@dataclass(frozen=True, eq=False)
class DeleteRequest:
    """
    A deletion of some records by id.

    :param ids: One or more, at most 1,000.
    :param namespace: ``""`` is the default one.
    """

    ids: Sequence[str]
    namespace: str = ""

    endpoint = DELETE

    def __len__(self) -> int:
        """Count the ids."""
        return len(self.ids)

    @cached_property
    def body(self) -> bytes:
        """The request's body."""
        namespace = {"namespace": self.namespace} if self.namespace else {}
        return orjson.dumps({"ids": list(self.ids), **namespace})

    @property
    def rate_units(self) -> int:
        """Ids: Pinecone limits those per second."""
        return len(self)

    def binary_units(self) -> int:
        """Return the same: ids are counted in one way only."""
        return self.rate_units

    @property
    def location(self) -> str:
        """Name the ids, for a message."""
        return f"delete id {self.ids[0]!r}" if len(self) == 1 else f"delete {len(self):,} ids from {self.ids[0]!r} on"

    def halves(self) -> tuple[Self, Self]:
        """Split two or more ids in the middle."""
        middle = len(self) // 2
        return replace(self, ids=self.ids[:middle]), replace(self, ids=self.ids[middle:])

    def confirmed(self, response: DeleteResponse) -> int:  # noqa: ARG002 - an empty object
        """Return the number of ids: a response to a delete confirms all of them, unknown ones included."""
        return len(self)


class SingleItem:
    """A request that counts as one item, so that it succeeds or fails as a whole, and names no ids."""

    ids: ClassVar[Collection[str]] = ()
    rate_units: ClassVar[int] = 0

    def binary_units(self) -> int:
        """Return the same."""
        return self.rate_units

    def __len__(self) -> int:
        """Count it as one item."""
        return 1

    def halves(self) -> tuple[Self, Self]:
        """Never called: it is one item."""
        raise NotImplementedError

    def confirmed(self, response: Any) -> int:  # noqa: ARG002 - a response of the endpoint's type is enough
        """Return that the item is confirmed."""
        return 1


@dataclass(frozen=True, eq=False)
class BulkDeleteRequest(SingleItem):
    """
    A deletion of the records that a filter matches, or of all records. It succeeds or fails as a whole.

    :param namespace: ``""`` is the default one.
    :param filter: A filter on metadata; None for all records.
    """

    namespace: str = ""
    filter: Mapping[str, Any] | None = None

    endpoint = DELETE

    @cached_property
    def body(self) -> bytes:
        """The request's body."""
        namespace = {"namespace": self.namespace} if self.namespace else {}
        selected = {"deleteAll": True} if self.filter is None else {"filter": self.filter}
        return orjson.dumps({**selected, **namespace})

    @property
    def location(self) -> str:
        """Name what is deleted, for a message."""
        return "delete all records" if self.filter is None else "delete by filter"


@dataclass(frozen=True, eq=False)
class NamespaceDeleteRequest(SingleItem):
    """
    A deletion of a namespace with all of its records, whatever they are. It succeeds or fails as a whole.

    :param namespace: ``""`` is the default one.
    :param known_ids: The ids that it has as far as the caller knows. The server is not given them.
    """

    namespace: str
    known_ids: Sequence[str] = ()

    body = b""

    @cached_property
    def endpoint(self) -> Endpoint[DeleteResponse]:
        """That of the namespace."""
        return delete_namespace(self.namespace)

    @property
    def location(self) -> str:
        """Name what is deleted, for a message."""
        return f"delete namespace {shown_namespace(self.namespace)!r}"


Deletion = DeleteRequest | BulkDeleteRequest | NamespaceDeleteRequest
