"""
Pinecone's data plane, and the one call of the control plane that finds an index's host.

What always holds: the API key goes to the index's host and the control plane only, over TLS or to a loopback address;
redirects are not followed; headers are never logged; every foreign error leaves as one of
:mod:`airflow_pinecone_upsert.exceptions`, without the frames in which it arose: their variables hold the key.

HTTP/1.1 with keep-alive on purpose: on 1.5 MB bodies Pinecone measured 3 s where HTTP/2 took 35 s and failed at times.
"""

from __future__ import annotations

import ipaddress
import logging
import platform
import random
import re
import socket
import ssl
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import quote

import httpx
import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from typing_extensions import Self

from airflow_pinecone_upsert import __version__
from airflow_pinecone_upsert.api.backoff import Random, backoff_s
from airflow_pinecone_upsert.api.limits import (
    API_VERSION,
    CONTROL_PLANE_URL,
    DEFAULT_TIMEOUT_S,
    MAX_CALL_ATTEMPTS,
    MAX_CONCURRENCY,
    MAX_IDS_PER_DELETE,
    MAX_IDS_PER_FETCH,
    MAX_IDS_PER_LIST_PAGE,
    SCHEMA_API_VERSION,
)
from airflow_pinecone_upsert.api.models import (
    FetchResponse,
    IndexDescription,
    IndexStats,
    ListResponse,
    Match,
    NamespaceDescription,
    NamespacesResponse,
    QueryResponse,
    Record,
    UpsertResponse,
)
from airflow_pinecone_upsert.api.responses import HOLDS_DOCUMENTS, error_from_response
from airflow_pinecone_upsert.exceptions import (
    PineconeUpsertError,
    SetupError,
    TransientError,
    TransportError,
    UnexpectedResponseError,
    UnsupportedIndexError,
)

USER_AGENT: Final = f"airflow-pinecone-upsert/{__version__} (python/{platform.python_version()})"

log = logging.getLogger(__name__)

_MASK: Final = "***"

_MAX_SHOWN_BYTES: Final = 200
"""Of an answer that is not Pinecone's."""

_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
"""OpenSSL's words, by version, for an answer in plain text."""

_ModelT = TypeVar("_ModelT", bound=BaseModel)
_T = TypeVar("_T")
_ErrorT = TypeVar("_ErrorT", bound=BaseException)


class ClientSettings(BaseModel):
    """
    What every call needs, whichever host it goes to.

    :param api_key: Sent as ``Api-Key``; masked in every representation.
    :param api_version: Sent as ``X-Pinecone-API-Version``; to the control plane, at least the one that tells schemas.
    :param timeout_s: Longest silence within one request; connecting has 10 s at the most.
    :param proxy: URL of an HTTP proxy. None: what the environment says (``HTTPS_PROXY``, ``NO_PROXY``).
    :param ca_bundle: File of CA certificates to trust in place of the default ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    api_key: SecretStr = Field(min_length=1)
    api_version: str = Field(default=API_VERSION, pattern="^[A-Za-z0-9._-]+$")
    timeout_s: float = Field(default=DEFAULT_TIMEOUT_S, gt=0)
    proxy: str | None = Field(default=None, repr=False)
    ca_bundle: str | None = None


def index_url(host: str) -> str:
    """
    Complete and check the URL of a host that will be shown the API key.

    :param host: ``name-abc.svc.region.pinecone.io``, with or without a scheme.
    :return: The URL without a trailing slash.
    :raises SetupError: The URL is unusable, or plain ``http`` to another machine.
    """
    text = host.strip()
    if "@" in text:  # not quoted: it may hold a password
        raise SetupError("The index host contains user information. Put the API key into the connection's password.")
    try:
        url = httpx.URL(text if "://" in text else f"https://{text}")
    except (httpx.InvalidURL, UnicodeError) as exc:
        raise SetupError(f"Index host {host!r} is not a URL: {exc}. Copy it from the Pinecone console.") from exc
    if url.scheme not in ("http", "https") or not url.host or url.path not in ("", "/") or url.query or url.fragment:
        raise SetupError(f"Index host {host!r} is not a host. Copy it from the Pinecone console, without a path.")
    if url.scheme == "http" and not _is_loopback(url.host):
        raise SetupError(f"Index host {host!r} is plain http: the API key would be sent unencrypted. Use https.")
    return str(url).rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_control_plane(host: str) -> bool:
    """Tell Pinecone's control plane, old or new, from an index's own host."""
    try:
        name = httpx.URL(host if "://" in host else f"https://{host}").host
    except (httpx.InvalidURL, UnicodeError):
        return False
    return name == httpx.URL(CONTROL_PLANE_URL).host or (
        name.startswith("controller.") and name.endswith(".pinecone.io")
    )


class _KeyFilter(logging.Filter):
    """Masks the keys in use: at DEBUG httpcore logs the headers of an answer, and some servers echo what they refuse."""

    def __init__(self) -> None:
        super().__init__()
        self._keys: dict[str, None] = {}  # a set that threads may add to
        for name in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy"):
            logging.getLogger(name).addFilter(self)

    def hide(self, key: str) -> None:
        """Mask one more key."""
        self._keys[key] = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, without a key."""
        said = record.getMessage()
        for key in tuple(self._keys):
            if key in said:
                said = said.replace(key, _MASK)
                record.msg, record.args = said, ()
        return True


_KEY_FILTER: Final = _KeyFilter()


def _without_frames(exc: _ErrorT) -> _ErrorT:
    """Forget where a foreign error and those behind it arose: h11's and httpx's variables hold the headers."""
    behind: BaseException | None = exc
    while behind is not None:
        behind.__traceback__ = None
        behind = behind.__cause__ or behind.__context__
    return exc


class Body(Protocol):
    """What a request brings, in pieces that are asked for while it is sent."""

    def __len__(self) -> int:
        """Count the bytes of all pieces."""
        ...

    def __iter__(self) -> Iterator[bytes]:
        """Yield the pieces."""
        ...


class _Http:
    """One host: headers, time-outs and TLS set once; foreign errors mapped at this one boundary."""

    def __init__(self, url: str, settings: ClientSettings) -> None:
        self.url = url
        self._key = settings.api_key.get_secret_value()
        if not re.fullmatch(r"[!-~]+", self._key):
            # h11 would refuse it too, but quotes it when it does.
            raise SetupError("The API key holds white space or characters outside ASCII. Copy it again.")
        _KEY_FILTER.hide(self._key)
        loopback = url.startswith("http://")
        try:
            verify = ssl.create_default_context(cafile=settings.ca_bundle) if settings.ca_bundle else True
            self._client = httpx.Client(
                base_url=url,
                headers={
                    "Api-Key": self._key,
                    "X-Pinecone-API-Version": settings.api_version,
                    "User-Agent": USER_AGENT,
                },
                timeout=httpx.Timeout(settings.timeout_s, connect=min(10.0, settings.timeout_s)),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=MAX_CONCURRENCY),
                verify=verify,
                # A proxy would be shown the key of a plain http request.
                proxy=None if loopback else settings.proxy,
                trust_env=not loopback,
                follow_redirects=False,
            )
        except OSError as exc:  # ssl.SSLError is one
            bundle = repr(settings.ca_bundle) if settings.ca_bundle else "that SSL_CERT_FILE or SSL_CERT_DIR names"
            raise SetupError(f"The CA bundle {bundle} cannot be read: {exc}. Name a file in PEM format.") from (
                _without_frames(exc)
            )
        except (httpx.InvalidURL, ValueError) as exc:
            raise SetupError(
                "The proxy is not a URL such as http://proxy.example.com:3128. Fix the extra of the Airflow connection, "
                "or HTTPS_PROXY."
            ) from _without_frames(exc)

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        content: bytes | Body | None = None,
    ) -> httpx.Response:
        """
        Send one request, once.

        :return: An answer with a 2xx status.
        :raises PineconeUpsertError: Anything else.
        """
        headers = {}
        if content is not None:
            # The length is known, so that pieces need not travel chunked.
            headers = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        try:
            response = self._client.request(method, path, params=params, content=content, headers=headers)
        except (httpx.HTTPError, UnicodeError) as exc:
            if isinstance(exc, httpx.HTTPError):
                exc.request = httpx.Request(method, self.url)  # in place of the one that holds the key
            raise self._unreachable(exc) from _without_frames(exc)
        # An answer and its stream hold each other, and the request's two megabytes, until the garbage collector comes by.
        response.stream = httpx.ByteStream(b"")
        # The server's own words, which may echo the key, would stand in the response's repr.
        response.extensions.pop("reason_phrase", None)
        if response.is_success:
            return response
        headers = {name: value.replace(self._key, _MASK) for name, value in response.headers.items()}
        raise error_from_response(response.status_code, headers, self._masked(response), host=self.url, now=time.time())

    def parse(self, model: type[_ModelT], response: httpx.Response) -> _ModelT:
        """
        Read an answer with a 2xx status.

        :raises UnexpectedResponseError: It is not of this shape.
        """
        try:
            return model.model_validate_json(response.content)
        except ValidationError as exc:
            said = self._masked(response)[:_MAX_SHOWN_BYTES].decode("utf-8", "replace")
            raise UnexpectedResponseError(
                f"{self.url} answered {response.status_code} to {response.request.url.path}, but not with a Pinecone "
                f"response: {said!r}. Is this host a Pinecone index?"
            ) from _without_frames(exc)

    def _masked(self, response: httpx.Response) -> bytes:
        """Return the answer's body without the key: some servers echo what they refuse."""
        return response.content.replace(self._key.encode(), _MASK.encode())

    def _unreachable(self, exc: Exception) -> PineconeUpsertError:
        what = f"{type(exc).__name__}: {exc}".rstrip(": ").replace(self._key, _MASK)
        said = _system_error(exc)
        if isinstance(said, ssl.SSLCertVerificationError):
            return SetupError(
                f"{self.url} has no certificate that is trusted here ({what}). Set ca_bundle if it should."
            )
        if isinstance(said, ssl.SSLError) and said.reason in _NO_TLS:
            return SetupError(
                f"{self.url} does not speak TLS ({what}). Check the index host and its port; "
                "an index on this machine is named with http://."
            )
        # UnicodeError: a name such as "a..b", which nobody refuses before the resolver.
        if isinstance(exc, (httpx.UnsupportedProtocol, httpx.LocalProtocolError, UnicodeError)):
            return SetupError(
                f"{self.url} cannot be requested ({what}). Check the index host, the proxy and the API key."
            )
        if isinstance(said, socket.gaierror):
            return TransportError(
                f"No answer from {self.url} ({what}): the name is unknown. Copy the index host again from the Pinecone "
                "console; if it is right, the index is gone, or this machine needs a proxy or another DNS server."
            )
        return TransportError(f"No answer from {self.url} ({what}). Check the index host, DNS, proxy and firewall.")

    def close(self) -> None:
        self._client.close()


def _system_error(exc: BaseException | None) -> OSError | None:
    """Find what the system said, behind httpx's error and that of httpcore, which leaves it as a mere context."""
    while exc is not None and not isinstance(exc, OSError):
        exc = exc.__cause__ or exc.__context__
    return exc


def _retrying(call: Callable[[], _T], *, attempts: int, sleep: Callable[[float], None], random: Random) -> _T:
    for attempt in count(1):
        try:
            return call()
        except TransientError as exc:
            if attempt == attempts:
                raise
            wait_s = backoff_s(attempt, exc.answer.retry_after_s if exc.answer else None, random)
            log.warning("Attempt %d of %d failed; retrying in %.1f s: %s", attempt, attempts, wait_s, exc)
            sleep(wait_s)
    raise AssertionError  # pragma: no cover - count() does not end


def describe_index(
    name: str,
    settings: ClientSettings,
    *,
    control_plane_url: str = CONTROL_PLANE_URL,
    attempts: int = MAX_CALL_ATTEMPTS,
    sleep: Callable[[float], None] = time.sleep,
) -> IndexDescription:
    """
    Ask the control plane about an index: ``GET /indexes/{name}``.

    :param name: The index's name.
    :param settings: The same key serves both planes.
    :param control_plane_url: Another control plane, under the rules of :func:`index_url`.
    :param attempts: Tries before a passing failure is final.
    :param sleep: Waits between tries, in seconds.
    :return: What it says, the index's host above all.
    :raises UnsupportedIndexError: The index holds documents.
    :raises PineconeUpsertError: See :mod:`airflow_pinecone_upsert.exceptions`.
    """
    version = max(settings.api_version, SCHEMA_API_VERSION)
    http = _Http(index_url(control_plane_url), settings.model_copy(update={"api_version": version}))
    try:
        path = f"/indexes/{quote(name, safe='')}"
        response = _retrying(lambda: http.send("GET", path), attempts=attempts, sleep=sleep, random=random.random)
        found = http.parse(IndexDescription, response)
    finally:
        http.close()
    if found.index_schema and found.index_schema.is_of_documents:
        declared = ", ".join(found.index_schema.fields)
        raise UnsupportedIndexError(f"The index {name!r} has a document schema ({declared}). {HOLDS_DOCUMENTS}")
    return found


class IndexClient:
    """
    One index. Safe to share between threads; close it, or use it in a ``with`` block, or let go of it.

    Every method but :meth:`upsert` repeats a request that failed for a passing reason; all of them are idempotent.

    :param host: The index's own host, see :func:`index_url`.
    :param settings: Key, version, time-outs.
    :param attempts: Tries for one request of these methods.
    :param sleep: Waits between tries, in seconds.
    """

    def __init__(
        self,
        host: str,
        settings: ClientSettings,
        *,
        attempts: int = MAX_CALL_ATTEMPTS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._http = _Http(index_url(host), settings)
        # Also for whoever forgets it: hooks are seldom closed. When the process ends, the system does it.
        self._close = weakref.finalize(self, self._http.close)
        self._close.atexit = False
        self._attempts = attempts
        self._sleep = sleep

    @property
    def host(self) -> str:
        """The index's URL."""
        return self._http.url

    def __repr__(self) -> str:
        """Name the host and nothing else. A tool that reports errors asks also where there is none yet."""
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

    def upsert(self, body: bytes | Body) -> int:
        """
        Send one upsert, once. Retrying it is the sender's decision.

        :param body: The JSON of the request, complete.
        :return: ``upsertedCount`` as the server says it.
        """
        response = self._http.send("POST", "/vectors/upsert", content=body)
        return self._http.parse(UpsertResponse, response).upserted_count

    def describe_index_stats(self) -> IndexStats:
        """Return dimension, metric and record counts. Counts lag behind writes by seconds."""
        return self._ask(IndexStats, "POST", "/describe_index_stats", content=b"{}")

    def fetch(self, ids: Sequence[str], *, namespace: str = "") -> dict[str, Record]:
        """
        Return the records with these ids, by id. Unknown ids are absent.

        :param ids: Any number; 40 travel in one request.
        :param namespace: ``""`` is the default one.
        """
        found: dict[str, Record] = {}
        for start in range(0, len(ids), MAX_IDS_PER_FETCH):
            page = list(ids[start : start + MAX_IDS_PER_FETCH])
            found |= self._ask(
                FetchResponse, "GET", "/vectors/fetch", params=_given(ids=page, namespace=namespace)
            ).vectors
        return found

    def list_ids(self, *, prefix: str = "", namespace: str = "") -> Iterator[str]:
        """
        Yield the ids of a namespace page by page, in the server's order.

        :param prefix: Only ids that begin so.
        :param namespace: ``""`` is the default one.
        """
        token: str | None = None
        while True:
            params = _given(prefix=prefix, namespace=namespace, limit=MAX_IDS_PER_LIST_PAGE, paginationToken=token)
            answer = self._ask(ListResponse, "GET", "/vectors/list", params=params)
            yield from (listed.id for listed in answer.vectors)
            token = answer.pagination.next if answer.pagination else None
            if not token:
                return

    def query(  # noqa: PLR0913 - the API's own parameters
        self,
        *,
        vector: Sequence[float] | None = None,
        id: str | None = None,  # noqa: A002 - the API's word
        sparse_vector: Mapping[str, Sequence[float]] | None = None,
        top_k: int = 10,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the API's word
        include_values: bool = False,
        include_metadata: bool = False,
        namespace: str = "",
    ) -> list[Match]:
        """
        Return the nearest records, best first.

        :param vector: Components of a dense query, list or array.
        :param id: In place of a vector: that record's own.
        :param sparse_vector: ``{"indices": …, "values": …}``.
        :param top_k: 1 to 10,000.
        :param filter: A filter on metadata, such as ``{"year": {"$gte": 2020}}``.
        :param include_values: Return the vectors too.
        :param include_metadata: Return the metadata too.
        :param namespace: ``""`` is the default one.
        """
        body = _given(
            topK=top_k,
            vector=vector,
            id=id,
            sparseVector=sparse_vector,
            filter=filter,
            includeValues=include_values or None,
            includeMetadata=include_metadata or None,
            namespace=namespace,
        )
        content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        return self._ask(QueryResponse, "POST", "/query", content=content).matches

    def delete(
        self,
        *,
        ids: Sequence[str] | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the API's word
        delete_all: bool = False,
        namespace: str = "",
    ) -> None:
        """
        Delete records of one namespace by exactly one of the three ways.

        :param ids: Any number; 1,000 travel in one request.
        :param filter: A filter on metadata.
        :param delete_all: All records of the namespace.
        :param namespace: ``""`` is the default one.
        :raises NotFoundError: ``delete_all`` on a namespace that does not exist.
        """
        if (ids is not None) + (filter is not None) + delete_all != 1:
            raise SetupError("delete() takes exactly one of ids, filter and delete_all.")
        bodies: Iterable[dict[str, Any]] = [_given(filter=filter, deleteAll=delete_all or None, namespace=namespace)]
        if ids is not None:
            pages = (list(ids[start : start + MAX_IDS_PER_DELETE]) for start in range(0, len(ids), MAX_IDS_PER_DELETE))
            bodies = (_given(ids=page, namespace=namespace) for page in pages)
        for body in bodies:
            self._repeat("POST", "/vectors/delete", content=orjson.dumps(body))

    def list_namespaces(self) -> Iterator[NamespaceDescription]:
        """Yield the namespaces, page by page."""
        token: str | None = None
        while True:
            answer = self._ask(NamespacesResponse, "GET", "/namespaces", params=_given(paginationToken=token))
            yield from answer.namespaces
            token = answer.pagination.next if answer.pagination else None
            if not token:
                return

    def delete_namespace(self, namespace: str) -> None:
        """
        Delete a namespace with all its records.

        :param namespace: ``""`` is the default one.
        :raises NotFoundError: There is no such namespace.
        """
        self._repeat("DELETE", f"/namespaces/{quote(namespace or '__default__', safe='')}")

    def _ask(self, model: type[_ModelT], method: str, path: str, **request: Any) -> _ModelT:
        return self._http.parse(model, self._repeat(method, path, **request))

    def _repeat(self, method: str, path: str, **request: Any) -> httpx.Response:
        return _retrying(
            lambda: self._http.send(method, path, **request),
            attempts=self._attempts,
            sleep=self._sleep,
            random=random.random,
        )


def _given(**items: Any) -> dict[str, Any]:
    """Drop what is None or empty text: the API's way to say "not given"."""
    return {
        key: value for key, value in items.items() if value is not None and not (isinstance(value, str) and not value)
    }
