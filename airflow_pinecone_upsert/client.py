"""
The client of one index: its operations, and the one call of the control plane that finds an index's host.

Every operation except :meth:`IndexClient.upsert`, which the sender calls, uses the sender itself. So all requests are
retried in the same way: with the same policy, the same backoff and the same messages.
"""

from __future__ import annotations

import random
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, Literal, TypeVar

import orjson
from pydantic import ValidationError
from typing_extensions import Self

from airflow_pinecone_upsert.api import endpoints
from airflow_pinecone_upsert.api.endpoints import Endpoint, ResponseT, shown_namespace
from airflow_pinecone_upsert.api.grpc_client import GrpcClient
from airflow_pinecone_upsert.api.hosts import check_allowed, index_url, is_loopback
from airflow_pinecone_upsert.api.http import ClientSettings, HttpClient
from airflow_pinecone_upsert.api.limits import (
    CONTROL_PLANE_URL,
    MAX_CALL_ATTEMPTS,
    MAX_IDS_PER_DELETE,
    MAX_IDS_PER_FETCH,
    MAX_IDS_PER_LIST_PAGE,
    SCHEMA_API_VERSION,
)
from airflow_pinecone_upsert.api.masking import KeyMask
from airflow_pinecone_upsert.api.models import (
    BulkImport,
    DeleteResponse,
    IndexDescription,
    IndexStats,
    Match,
    NamespaceAlias,
    NamespaceDescription,
    Page,
    QueryVectors,
    Record,
    UpsertResponse,
)
from airflow_pinecone_upsert.api.responses import HOLDS_DOCUMENTS
from airflow_pinecone_upsert.exceptions import (
    NotFoundError,
    SetupError,
    UnexpectedResponseError,
    UnsupportedIndexError,
)
from airflow_pinecone_upsert.pipeline import defaults
from airflow_pinecone_upsert.pipeline.cancellation import CancellationToken
from airflow_pinecone_upsert.pipeline.send.deletions import send_deletions
from airflow_pinecone_upsert.pipeline.send.events import Attempt, Event
from airflow_pinecone_upsert.pipeline.send.rate_limiter import RateLimiter
from airflow_pinecone_upsert.pipeline.send.requests import (
    DeleteRequest,
    Deletion,
    NamespaceDeleteRequest,
    SingleItem,
    UpsertRequest,
)
from airflow_pinecone_upsert.pipeline.send.sender import Sender
from airflow_pinecone_upsert.pipeline.send.transport import InlineTransport, ThreadTransport

PageT = TypeVar("PageT", bound=Page)


@dataclass(frozen=True, eq=False)
class _Call(SingleItem, Generic[ResponseT]):
    """
    One request that succeeds or fails as a whole.

    :param endpoint: Its method, path and response.
    :param params: The query string.
    :param body: JSON; empty for none.
    """

    endpoint: Endpoint[ResponseT]
    params: Mapping[str, Any] = field(default_factory=dict)
    body: bytes = b""

    namespace = ""

    @property
    def location(self) -> str:
        return str(self.endpoint)


def _call(
    http: HttpClient,
    call: _Call[ResponseT],
    *,
    attempts: int,
    sleep: Callable[[float], None],
) -> ResponseT:
    """
    Send a request until it succeeds or its failure is final.

    A repeated ``DELETE`` that finds nothing succeeds: an earlier attempt, whose response was lost, has deleted it.
    """
    events: list[Event[_Call[ResponseT]]] = []

    def perform(one: _Call[ResponseT]) -> ResponseT:
        return http.send(one.endpoint, params=one.params, content=one.body or None)

    Sender[_Call[ResponseT]](
        iter([call]),
        InlineTransport(perform, sleep),
        rate_limiter=RateLimiter(None, None, random.random),
        max_unsettled=1,
        random=random.random,
        cancellation=CancellationToken(),
        max_attempts=attempts,
    ).send_all(events.append)
    last = events[-1]
    if isinstance(last, Attempt):
        response: ResponseT = last.response
        return response
    is_repeated = sum(isinstance(event, Attempt) for event in events) > 1
    if call.endpoint.method == "DELETE" and is_repeated and isinstance(last.error, NotFoundError):
        return call.endpoint.response()
    raise last.error


def describe_index(
    name: str,
    settings: ClientSettings,
    *,
    control_plane_url: str = CONTROL_PLANE_URL,
    attempts: int = MAX_CALL_ATTEMPTS,
    sleep: Callable[[float], None] = time.sleep,
) -> IndexDescription:
    """
    Look up an index in the control plane: ``GET /indexes/{name}``.

    :param name: The index's name.
    :param settings: Key, version, time-outs. The same key is valid for the index.
    :param control_plane_url: The URL of the control plane, see :func:`index_url`.
    :param attempts: Attempts before a transient failure is final.
    :param sleep: Waits between attempts, in seconds.
    :return: The index's host and its schema.
    :raises UnsupportedIndexError: The index holds documents.
    :raises UnexpectedResponseError: The response describes another index.
    :raises SetupError: The host is neither Pinecone's nor allowed. A control plane on this machine may name any.
    :raises PineconeUpsertError: See :mod:`airflow_pinecone_upsert.exceptions`.
    """
    version = max(settings.api_version, SCHEMA_API_VERSION)
    url = index_url(control_plane_url)
    http = HttpClient(url, settings.model_copy(update={"api_version": version}))
    try:
        found = _call(http, _Call(endpoints.describe_index(name)), attempts=attempts, sleep=sleep)
    finally:
        http.close()
    if found.name != name:
        raise UnexpectedResponseError(f"{url} was asked for the index {name!r} and described {found.name!r:.80}.")
    if KeyMask(settings.api_key.get_secret_value())(found.host) != found.host:
        raise UnexpectedResponseError(f"{url} names a host of the index {name!r} that contains the API key.")
    if not is_loopback(url):
        check_allowed(index_url(found.host), settings.allowed_host_suffixes, chosen_by=f"The control plane {url}")
    if found.index_schema and found.index_schema.is_of_documents:
        declared = ", ".join(found.index_schema.fields)
        raise UnsupportedIndexError(f"The index {name!r} has a document schema ({declared}). {HOLDS_DOCUMENTS}")
    return found


class IndexClient:
    """
    One index. Safe to share between threads; close it, use it in a ``with`` block, or drop the last reference to it.

    Every method but :meth:`upsert` retries a request that fails for a transient reason; all of them are idempotent.

    :param host: The index's own host, see :func:`index_url`.
    :param settings: Key, version, time-outs.
    :param attempts: Attempts at one request of these methods; a deletion of ids has as many as an upsert.
    :param sleep: Waits between attempts, in seconds.
    """

    def __init__(
        self,
        host: str,
        settings: ClientSettings,
        *,
        attempts: int = MAX_CALL_ATTEMPTS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._http = HttpClient(index_url(host), settings)
        self._grpc = GrpcClient(self._http.url, settings)
        # Also closes a client that is dropped without close(), as by most users of hooks. At exit, the system does it.
        self._close = weakref.finalize(self, _close, self._http, self._grpc)
        self._close.atexit = False
        self._attempts = attempts
        self._sleep = sleep

    @property
    def host(self) -> str:
        """The index's URL."""
        return self._http.url

    def __repr__(self) -> str:
        """Show the host and nothing else. Error reporting tools also call this while ``__init__`` is running."""
        return f"IndexClient({self.host!r})" if hasattr(self, "_http") else "IndexClient()"

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._close()

    def upsert(self, request: UpsertRequest) -> UpsertResponse:
        """
        Send one upsert request, once, over what its format is for. The sender decides whether it is retried.

        :param request: The records.
        :return: The server's response.
        """
        if request.envelope.wire_format.transport == "grpc":
            return self._grpc.upsert(bytes(request.body))
        return self._http.send(request.endpoint, content=request.body)

    def send(self, request: UpsertRequest | Deletion) -> UpsertResponse | DeleteResponse:
        """Send one request, once, as :meth:`upsert` does."""
        return self.upsert(request) if isinstance(request, UpsertRequest) else self._perform(request)

    def max_indexed_lsn(self, record_id: str = "-", *, namespace: str = "") -> int | None:
        """
        Return the log sequence number of the last write that a query sees; None where the server does not report it.

        :param record_id: Of any record; it need not exist.
        :param namespace: ``""`` is the default one.
        """
        body = _given(topK=1, id=record_id, namespace=namespace)
        return self._call(endpoints.QUERY, body=orjson.dumps(body)).lsn

    def serving_namespace(self, name: str, *, record_id: str = "-") -> str:
        """
        Return the namespace that serves the queries of a name: the target where the name is an alias.

        :param name: A namespace or an alias; ``""`` is the default namespace.
        :param record_id: Of any record; it need not exist.
        """
        body = _given(topK=1, id=record_id, namespace=name)
        return self._call(endpoints.QUERY, body=orjson.dumps(body)).namespace

    def describe_index_stats(self) -> IndexStats:
        """Return dimension, metric and record counts. Counts lag behind writes by seconds."""
        return self._call(endpoints.STATS, body=b"{}")

    def fetch(self, ids: Sequence[str], *, namespace: str = "") -> dict[str, Record]:
        """
        Return the records with these ids, by id. Unknown ids are absent.

        :param ids: Any number; 40 fit into one request.
        :param namespace: ``""`` is the default one.
        """
        found: dict[str, Record] = {}
        for page in _pages(ids, MAX_IDS_PER_FETCH):
            found |= self._call(endpoints.FETCH, params=_given(ids=page, namespace=namespace)).vectors
        return found

    def list_ids(self, *, prefix: str = "", namespace: str = "") -> Iterator[str]:
        """
        Yield the ids of a namespace page by page, in the server's order.

        :param prefix: Only ids that begin with it.
        :param namespace: ``""`` is the default one.
        """
        for page in self._page_by_page(endpoints.LIST, prefix=prefix, namespace=namespace, limit=MAX_IDS_PER_LIST_PAGE):
            yield from (listed.id for listed in page.vectors)

    def query(  # noqa: PLR0913 - the API's own parameters
        self,
        *,
        vector: Any = None,
        id: str | None = None,  # noqa: A002 - the API's word
        sparse_vector: Any = None,
        top_k: int = 10,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the API's word
        include_values: bool = False,
        include_metadata: bool = False,
        namespace: str = "",
    ) -> list[Match]:
        """
        Return the nearest records, best first.

        :param vector: Components of a dense query, finite: a list, a numpy or Arrow array, or a Series of pandas or
            Polars. Shape (dimension,).
        :param id: Instead of ``vector``: the id of a record whose vector is used.
        :param sparse_vector: ``{"indices": …, "values": …}``, each in one of these forms, or ``SparseValues``.
        :param top_k: 1 to 10,000.
        :param filter: A filter on metadata, such as ``{"year": {"$gte": 2020}}``.
        :param include_values: Also return the vectors.
        :param include_metadata: Also return the metadata.
        :param namespace: ``""`` is the default one.
        :raises SetupError: A vector is not one of finite numbers.
        """
        try:
            vectors = QueryVectors(vector=vector, sparse_vector=sparse_vector)
        except ValidationError as exc:
            wrong = "; ".join(
                f"{'.'.join(map(str, error['loc']))}: {error['msg'].removeprefix('Value error, ')}"
                for error in exc.errors()
            )
            raise SetupError(f"query() got an invalid vector: {wrong}. Pass finite numbers.") from exc
        sparse = vectors.sparse_vector
        body = _given(
            topK=top_k,
            vector=vectors.vector,
            id=id,
            sparseVector=sparse and {"indices": sparse.indices, "values": sparse.values},
            filter=filter,
            includeValues=include_values or None,
            includeMetadata=include_metadata or None,
            namespace=namespace,
        )
        return self._call(endpoints.QUERY, body=orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)).matches

    def delete(
        self,
        *,
        ids: Iterable[str] | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the API's word
        delete_all: bool = False,
        namespace: str = "",
        cancellation: CancellationToken | None = None,
    ) -> None:
        """
        Delete records of one namespace, selected in exactly one of three ways.

        :param ids: Any number, read while they are sent: 1,000 in a request, several requests at a time, at Pinecone's
            rate of at most 100 requests and 5,000 ids a second. Unknown ids are not an error.
        :param filter: A filter on metadata.
        :param delete_all: All records of the namespace.
        :param namespace: ``""`` is the default one.
        :param cancellation: Ends the deletion of ids early.
        :raises NotFoundError: ``delete_all`` on a namespace that does not exist.
        :raises BadRequestError: The server rejects an id; the others are deleted.
        :raises IncompleteUpsertError: The deletion was cancelled. Ids in flight may be deleted.
        """
        if (ids is not None) + (filter is not None) + delete_all != 1:
            raise SetupError("delete() takes exactly one of ids, filter and delete_all.")
        if ids is not None:
            self._delete_ids(ids, namespace, cancellation or CancellationToken("deletion"))
        else:
            body = _given(filter=filter, deleteAll=delete_all or None, namespace=namespace)
            self._call(endpoints.DELETE, body=orjson.dumps(body))

    def _delete_ids(self, ids: Iterable[str], namespace: str, cancellation: CancellationToken) -> None:
        requests = (DeleteRequest(page, namespace) for page in _pages(ids, MAX_IDS_PER_DELETE))
        transport: ThreadTransport[DeleteRequest] = ThreadTransport(self._perform, defaults.MAX_CONCURRENCY)
        send_deletions(
            requests,
            transport,
            max_unsettled=defaults.MAX_CONCURRENCY,
            random=random.random,
            cancellation=cancellation,
        )

    def count_matching(self, filter: Mapping[str, Any], *, namespace: str = "") -> int | None:  # noqa: A002 - the API's word
        """
        Count the records that a filter matches, as Pinecone does for an update that changes nothing.

        :param filter: A filter on metadata.
        :param namespace: ``""`` is the default one.
        :return: Their number; None where the server does not say it.
        :raises BadRequestError: The server does not count them, or rejects the filter.
        """
        # Without metadata to set: a server that does not know dryRun must not change anything either.
        body = _given(filter=filter, dryRun=True, namespace=namespace)
        return self._call(endpoints.UPDATE_BY_FILTER, body=orjson.dumps(body)).matched_records

    def list_namespaces(self) -> Iterator[NamespaceDescription]:
        """Yield the namespaces, page by page."""
        for page in self._page_by_page(endpoints.NAMESPACES):
            yield from page.namespaces

    def delete_namespace(self, namespace: str) -> None:
        """
        Delete a namespace with all its records.

        :param namespace: ``""`` is the default one.
        :raises NotFoundError: There is no such namespace.
        :raises SetupError: No URL can name it.
        """
        if namespace in endpoints.NO_PATH_SEGMENTS:
            raise SetupError(
                f"The namespace {namespace!r} cannot be deleted: a URL cannot contain it. Delete its records."
            )
        self._call(endpoints.delete_namespace(namespace))

    def describe_namespace(self, namespace: str) -> NamespaceDescription:
        """
        Count the records of a namespace. The count lags behind writes by seconds.

        :param namespace: ``""`` is the default one.
        :raises NotFoundError: There is no such namespace.
        :raises SetupError: It is an alias, or no URL can name it.
        """
        if namespace in endpoints.NO_PATH_SEGMENTS:
            raise SetupError(f"The namespace {namespace!r} cannot be described: a URL cannot contain it.")
        return self._call(endpoints.describe_namespace(namespace))

    def create_alias(self, name: str, target_namespace: str) -> NamespaceAlias:
        r"""
        Create a namespace alias, which serves reads once this returns. An alias that already has this target is success.

        :param name: 1 to 512 printable ASCII characters, without space and ``/ ? # % & = \ ; +``.
        :param target_namespace: The namespace that it points to; ``""`` is the default one.
        :raises NotFoundError: There is no such namespace.
        :raises SetupError: The alias has another target, or a namespace has its name.
        """
        body = orjson.dumps({"name": name, "target_namespace": shown_namespace(target_namespace)})
        try:
            return self._call(endpoints.CREATE_ALIAS, body=body)
        except SetupError as exc:
            if exc.response is None or exc.response.reason != "ALIAS_ALREADY_EXISTS":
                raise
            found = self.describe_alias(name)
            if shown_namespace(found.target_namespace) != shown_namespace(target_namespace):
                raise
            return found

    def repoint_alias(self, name: str, target_namespace: str) -> NamespaceAlias:
        """
        Change the target of a namespace alias, at once: reads that start after this returns see the new target.

        :param name: The alias.
        :param target_namespace: The namespace that it points to; ``""`` is the default one.
        :raises NotFoundError: There is no such alias, or no such namespace.
        """
        body = orjson.dumps({"target_namespace": shown_namespace(target_namespace)})
        return self._call(endpoints.repoint_alias(_alias_name(name)), body=body)

    def describe_alias(self, name: str) -> NamespaceAlias:
        """
        Return a namespace alias and its target.

        :param name: The alias.
        :raises NotFoundError: There is no such alias.
        """
        return self._call(endpoints.describe_alias(_alias_name(name)))

    def list_aliases(self, *, prefix: str = "", target_namespace: str | None = None) -> Iterator[NamespaceAlias]:
        """
        Yield the namespace aliases page by page, ordered by name.

        :param prefix: Only aliases whose names begin with it.
        :param target_namespace: Only aliases of this namespace; ``""`` is the default one.
        """
        target = None if target_namespace is None else shown_namespace(target_namespace)
        parameters = {"prefix": prefix, "target_namespace": target, "limit": MAX_IDS_PER_LIST_PAGE}
        for page in self._page_by_page(endpoints.LIST_ALIASES, **parameters):
            yield from page.namespace_aliases

    def delete_alias(self, name: str) -> None:
        """
        Delete a namespace alias. Its target stays.

        :param name: The alias.
        :raises NotFoundError: There is no such alias.
        """
        self._call(endpoints.delete_alias(_alias_name(name)))

    def start_import(
        self, uri: str, *, integration_id: str | None = None, error_mode: Literal["abort", "continue"] = "abort"
    ) -> str:
        """
        Start a bulk import, with one attempt: a second request would start a second import.

        :param uri: The folder that holds a folder for each namespace.
        :param integration_id: The storage integration that can read it; None for a public folder.
        :param error_mode: What an invalid record does. Always sent, because the default differs between clients.
        :return: The id of the import.
        :raises TransientError: It may have started: look for it with :meth:`list_imports`.
        """
        body = _given(uri=uri, integrationId=integration_id, errorMode={"onError": error_mode})
        return self._http.send(endpoints.START_IMPORT, content=orjson.dumps(body)).id

    def describe_import(self, import_id: str) -> BulkImport:
        """
        Return the state of a bulk import.

        :raises NotFoundError: There is no such import.
        """
        return self._call(endpoints.bulk_import(import_id))

    def list_imports(self) -> Iterator[BulkImport]:
        """Yield the bulk imports of the index, page by page."""
        for page in self._page_by_page(endpoints.IMPORTS):
            yield from page.data

    def cancel_import(self, import_id: str) -> None:
        """
        Cancel a bulk import. One that has finished stays as it is.

        :raises NotFoundError: There is no such import.
        """
        self._call(endpoints.cancel_import(import_id))

    def _perform(self, request: Deletion) -> DeleteResponse:
        try:
            return self._http.send(request.endpoint, content=request.body or None)
        except NotFoundError:
            if isinstance(request, NamespaceDeleteRequest):
                return DeleteResponse()  # it is gone already, as an unknown id is
            raise

    def _page_by_page(self, endpoint: Endpoint[PageT], **params: Any) -> Iterator[PageT]:
        token: str | None = None
        while True:
            page = self._call(endpoint, params=_given(**params, paginationToken=token))
            yield page
            token = page.next_token
            if token is None:
                return

    def _call(
        self, endpoint: Endpoint[ResponseT], *, params: Mapping[str, Any] | None = None, body: bytes = b""
    ) -> ResponseT:
        return _call(self._http, _Call(endpoint, params or {}, body), attempts=self._attempts, sleep=self._sleep)


def _close(*clients: HttpClient | GrpcClient) -> None:
    for client in clients:
        client.close()


def _alias_name(name: str) -> str:
    """
    Return the name of an alias.

    :raises SetupError: No URL can name it, or it would mean all aliases.
    """
    if not name or name in endpoints.NO_PATH_SEGMENTS:
        raise SetupError(f"{name!r} is not the name of a namespace alias.")
    return name


def _pages(ids: Iterable[str], size: int) -> Iterator[Sequence[str]]:
    """
    Split ids into pages, without a copy of the whole.

    :raises SetupError: They are one string, whose characters would be taken for ids.
    """
    if isinstance(ids, str):
        raise SetupError(f"ids is a string, {ids!r:.80}. Pass a list of ids, such as [{ids!r:.80}].")
    return _sliced(iter(ids), size)


def _sliced(ids: Iterator[str], size: int) -> Iterator[Sequence[str]]:
    while page := list(islice(ids, size)):
        yield page


def _given(**items: Any) -> dict[str, Any]:
    """Drop items that are None or an empty string: the API reads an absent parameter as its default."""
    return {
        key: value for key, value in items.items() if value is not None and not (isinstance(value, str) and not value)
    }
