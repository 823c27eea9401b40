"""The operations on records, named as in Pinecone's OpenAPI file."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from airflow_pinecone_upsert.emulator import limits, rules
from airflow_pinecone_upsert.emulator.allowance import Allowance
from airflow_pinecone_upsert.emulator.bodies import sent_bytes
from airflow_pinecone_upsert.emulator.filters import Predicate, compile_filter
from airflow_pinecone_upsert.emulator.names import Names
from airflow_pinecone_upsert.emulator.paging import page_limit, page_start, pagination
from airflow_pinecone_upsert.emulator.responses import USAGE, json_response, query_response, record_json, write_response
from airflow_pinecone_upsert.emulator.rules import ApiError, Message
from airflow_pinecone_upsert.emulator.search import Match, Query
from airflow_pinecone_upsert.emulator.store import Store

_UPSERT_FIELDS: Final = frozenset({"vectors", "namespace"})
_STATS_FIELDS: Final = frozenset({"filter"})
_QUERY_FIELDS: Final = frozenset(
    {"namespace", "topK", "filter", "includeValues", "includeMetadata", "vector", "sparseVector", "id"}
)
_UPDATE_FIELDS: Final = frozenset({"id", "values", "sparseValues", "setMetadata", "namespace", "filter", "dryRun"})
_DELETE_FIELDS: Final = frozenset({"ids", "deleteAll", "filter", "namespace"})
_FETCH_BY_METADATA_FIELDS: Final = frozenset({"namespace", "filter", "limit", "paginationToken"})


class VectorOperations:
    """
    The operations on the records of one index.

    :param store: The records.
    :param names: The namespaces and aliases.
    :param allowance: What upserts may take.
    :param holds_documents: Whether the index holds documents, so that it rejects vectors.
    """

    def __init__(self, store: Store, names: Names, allowance: Allowance, *, holds_documents: bool) -> None:
        self._store = store
        self._names = names
        self._allowance = allowance
        self._holds_documents = holds_documents

    def upsert_vectors(self, request: Request, body: bytes) -> Response:
        """Write records."""
        message, namespace = self._parse_write(body, _UPSERT_FIELDS, creates=True)
        rows = rules.parse_upsert(message, self._store.spec)
        self._allowance.take(namespace, sent_bytes(request.scope, body), rows)
        return write_response(self._store.upsert(namespace, rows), {"upsertedCount": len(rows)})

    def update_vector(self, _: Request, body: bytes) -> Response:
        """Update one record, or the metadata of all records that match a filter."""
        message, namespace = self._parse_write(body, _UPDATE_FIELDS)
        record_id, expression = message.text("id"), message.mapping("filter")
        if expression:
            return self._update_matching(namespace, message, compile_filter(expression))
        if not record_id:
            raise ApiError("Vector ID must not be empty")
        lsn = self._store.update(namespace, record_id, rules.parse_update(message, self._store.spec))
        return write_response(lsn, {})

    def delete_vectors(self, _: Request, body: bytes) -> Response:
        """Delete records by id, by filter, or all of a namespace."""
        message, namespace = self._parse_write(body, _DELETE_FIELDS)
        ids, delete_all, expression = message.texts("ids"), message.flag("deleteAll"), message.mapping("filter")
        if sum(map(bool, (ids, delete_all, expression))) != 1:
            raise ApiError("Exactly one of ids, deleteAll and filter must be given")
        if len(ids) > limits.MAX_IDS_PER_DELETE:
            raise ApiError(f"At most {limits.MAX_IDS_PER_DELETE} ids can be deleted at once, but got {len(ids)}")
        if delete_all:
            return write_response(self._names.delete(self._names.own(namespace)), {})
        if expression:
            return write_response(self._store.delete_matching(namespace, compile_filter(expression)), {})
        return write_response(self._store.delete(namespace, ids), {})

    def fetch_vectors(self, request: Request, _: bytes) -> Response:
        """Return records by id."""
        namespace = self._names.serving(request.query_params.get("namespace", ""))
        ids = request.query_params.getlist("ids")
        if not ids:
            raise ApiError("Must provide at least one of the ids to fetch")
        vectors = {row.id: record_json(row) for row in self._store.fetch(namespace, ids)}
        return json_response({"vectors": vectors, "namespace": namespace, "usage": USAGE})

    def fetch_vectors_by_metadata(self, _: Request, body: bytes) -> Response:
        """Return a page of the records that match a filter."""
        message = Message.parse(body, _FETCH_BY_METADATA_FIELDS)
        namespace = self._names.serving(message.text("namespace"))
        limit = limits.MAX_IDS_PER_LIST_PAGE if message.fields.get("limit") is None else message.integer("limit")
        if not 1 <= limit <= limits.MAX_RECORDS_PER_FETCH_PAGE:
            raise ApiError(f"limit must be between 1 and {limits.MAX_RECORDS_PER_FETCH_PAGE}, but got {limit}")
        expression = message.mapping("filter")
        if not expression:
            raise ApiError("A filter must be given")
        after = page_start(message.text("paginationToken"))
        rows = self._store.fetch_matching(namespace, compile_filter(expression), after=after, limit=limit + 1)
        vectors = {row.id: record_json(row) for row in rows[:limit]}
        page = pagination([row.id for row in rows], limit)
        return json_response({"vectors": vectors, "namespace": namespace, "usage": USAGE, **page})

    def list_vectors(self, request: Request, _: bytes) -> Response:
        """Return a page of ids."""
        parameters = request.query_params
        namespace = self._names.serving(parameters.get("namespace", ""))
        limit = page_limit(parameters)
        ids = self._store.ids(
            namespace,
            prefix=parameters.get("prefix", ""),
            after=page_start(parameters.get("paginationToken", "")),
            limit=limit + 1,
        )
        vectors = [{"id": record_id} for record_id in ids[:limit]]
        return json_response({"vectors": vectors, **pagination(ids, limit), "namespace": namespace, "usage": USAGE})

    def query_vectors(self, _: Request, body: bytes) -> Response:
        """Return the records nearest to a vector."""
        message = Message.parse(body, _QUERY_FIELDS)
        namespace = self._names.serving(message.text("namespace"))
        top_k = message.integer("topK")
        if not 1 <= top_k <= limits.MAX_TOP_K:
            raise ApiError(f"topK must be between 1 and {limits.MAX_TOP_K}, but got {top_k}")
        expression = message.mapping("filter")
        predicate = compile_filter(expression) if expression else None
        include_values, include_metadata = message.flag("includeValues"), message.flag("includeMetadata")
        lsn = self._store.visible_lsn
        vector = self._query_vector(namespace, message)
        matches = [] if vector is None else self._store.search(namespace, Query(top_k, *vector, predicate))
        return query_response(
            lsn,
            {
                "results": [],
                "matches": [_match(match, values=include_values, metadata=include_metadata) for match in matches],
                "namespace": namespace,
                "usage": USAGE,
            },
        )

    def describe_index_stats(self, _: Request, body: bytes) -> Response:
        """Count the records of each namespace."""
        message = Message.parse(body or b"{}", _STATS_FIELDS)
        if message.mapping("filter"):
            raise ApiError(
                "Serverless and Starter indexes do not support describing index stats with metadata filtering"
            )
        spec, counts = self._store.spec, self._store.counts()
        return json_response(
            {
                "namespaces": {name: {"vectorCount": count} for name, count in counts.items()},
                **({} if spec.dimension is None else {"dimension": spec.dimension}),
                "indexFullness": 0,
                "totalVectorCount": sum(counts.values()),
                "metric": spec.metric,
                "vectorType": spec.vector_type,
            },
        )

    def _parse_write(self, body: bytes, fields: frozenset[str], *, creates: bool = False) -> tuple[Message, str]:
        """Return the message of a write and its namespace."""
        if self._holds_documents:
            raise ApiError(rules.DOCUMENTS_ONLY)
        message = Message.parse(body, fields)
        return message, self._names.writable(message.text("namespace"), creates=creates)

    def _update_matching(self, namespace: str, message: Message, predicate: Predicate) -> Response:
        for field in ("id", "values", "sparseValues"):
            if message.fields.get(field):
                raise ApiError(f"An update by filter changes only metadata, and cannot be combined with {field}")
        update = rules.parse_update(message, self._store.spec)
        if message.flag("dryRun"):
            return json_response({"matchedRecords": self._store.count_matching(namespace, predicate)})
        lsn, matched = self._store.update_matching(namespace, predicate, update)
        return write_response(lsn, {"matchedRecords": matched})

    def _query_vector(self, namespace: str, message: Message) -> tuple[bytes | None, tuple[bytes, bytes] | None] | None:
        """Return the vector of a query, which may be that of a stored record; ``None`` if the record does not exist."""
        record_id = message.text("id")
        if not record_id:
            return rules.parse_query(message, self._store.spec)
        for field, name in (("vector", "vector"), ("sparseVector", "sparse_vector")):
            if message.fields.get(field):
                raise ApiError(f"Cannot provide both 'ID' and '{name}' at the same time")
        for row in self._store.fetch(namespace, [record_id]):
            return row.values, row.sparse
        return None


def _match(match: Match, *, values: bool, metadata: bool) -> dict[str, Any]:
    return {"score": match.score, **record_json(match.row, values=values, metadata=metadata)}
