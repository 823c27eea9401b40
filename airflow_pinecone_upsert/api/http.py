"""
The HTTP boundary: one host, and every request to it.

Invariants: the API key is sent to this host only, over TLS or to a loopback address; redirects are not followed;
headers are never logged; an error of another library is raised as one of :mod:`airflow_pinecone_upsert.exceptions`,
without its frames, because their variables contain the key; a response is read up to its endpoint's bound, never
decompressed, and ends within the total time-out.

HTTP/1.1 with keep-alive, on purpose: with bodies of 1.5 MB, Pinecone measured 3 s; HTTP/2 took 35 s, with failures.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from airflow_pinecone_upsert import __version__
from airflow_pinecone_upsert.api.connections import ANSWERED_EARLY, guard_connections
from airflow_pinecone_upsert.api.endpoints import Body, Endpoint, ResponseT
from airflow_pinecone_upsert.api.hosts import HostSuffixes
from airflow_pinecone_upsert.api.limits import (
    API_VERSION,
    DEFAULT_TIMEOUT_S,
    DEFAULT_TOTAL_TIMEOUT_S,
    MAX_CONCURRENCY,
    MAX_ERROR_RESPONSE_BYTES,
    MAX_TIMEOUT_S,
)
from airflow_pinecone_upsert.api.masking import MASK_CONTEXT, KeyMask
from airflow_pinecone_upsert.api.models import PositionedResponse, lsn_from_headers
from airflow_pinecone_upsert.api.responses import error_from_response
from airflow_pinecone_upsert.exceptions import (
    PineconeUpsertError,
    SetupError,
    TransportError,
    UnexpectedResponseError,
)

USER_AGENT: Final = f"airflow-pinecone-upsert/{__version__} (python/{platform.python_version()})"

MAX_CONNECT_S: Final = 10.0

_MAX_SHOWN: Final = 200
"""Characters of a response that is not Pinecone's, which a message quotes."""

_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
"""The reason that OpenSSL gives for an unencrypted response, depending on its version."""

_ErrorT = TypeVar("_ErrorT", bound=BaseException)


class ClientSettings(BaseModel):
    """
    The settings of all requests, to an index or to the control plane.

    :param api_key: Sent as ``Api-Key``; masked in every representation.
    :param api_version: Sent as ``X-Pinecone-API-Version``; to the control plane, at least the one that reports schemas.
    :param timeout_s: Longest time without data within one request; at most 10 s for connecting.
    :param total_timeout_s: Longest time of one request, from its first byte to the last one of its response. None: as
        :attr:`longest_request_s` says.
    :param proxy: URL of an HTTP proxy. None: the environment decides (``HTTPS_PROXY``, ``NO_PROXY``).
    :param grpc_port: The port of gRPC, where it is not that of the host: of an emulator.
    :param ca_bundle: File of CA certificates to trust instead of the default ones.
    :param allowed_host_suffixes: Ends of the names of hosts, besides Pinecone's, that the control plane or a template may
        name. A list, or text with commas.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    api_key: SecretStr = Field(min_length=1)
    api_version: str = Field(default=API_VERSION, pattern="^[A-Za-z0-9._-]+$")
    timeout_s: float = Field(default=DEFAULT_TIMEOUT_S, gt=0, le=MAX_TIMEOUT_S)
    total_timeout_s: float | None = Field(default=None, gt=0, le=MAX_TIMEOUT_S)
    proxy: str | None = Field(default=None, repr=False)
    grpc_port: int | None = Field(default=None, ge=1, le=65_535)
    ca_bundle: str | None = None
    allowed_host_suffixes: HostSuffixes = ()

    @property
    def longest_request_s(self) -> float:
        """The total time-out; if it is not set, some minutes, or the time-out without data if that is longer."""
        return self.total_timeout_s or max(DEFAULT_TOTAL_TIMEOUT_S, self.timeout_s)

    @property
    def shortest_time_out_s(self) -> float:
        """The deadline of a gRPC call, which has no time-out without data: its response comes at once."""
        return min(self.timeout_s, self.longest_request_s)


class _KeyFilter(logging.Filter):
    """Masks the keys in use: at DEBUG httpcore logs the headers of a response, and some servers echo the request."""

    def __init__(self) -> None:
        super().__init__()
        self._masks: dict[SecretStr, KeyMask] = {}
        for name in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy"):
            logging.getLogger(name).addFilter(self)

    def hide(self, key: SecretStr, mask: KeyMask) -> None:
        """Mask one more key."""
        self._masks[key] = mask

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every log record, with the keys in it masked."""
        text = masked = record.getMessage()
        for mask in tuple(self._masks.values()):
            masked = mask(masked)
        if masked != text:
            record.msg, record.args = masked, ()
        return True


_KEY_FILTER: Final = _KeyFilter()


def _without_frames(exc: _ErrorT) -> _ErrorT:
    """Drop the tracebacks of an error and of its causes: the variables of h11 and httpx contain the headers."""
    cause: BaseException | None = exc
    while cause is not None:
        cause.__traceback__ = None
        cause = cause.__cause__ or cause.__context__
    return exc


@dataclass(frozen=True)
class _Received:
    """
    What was received.

    :param status: The HTTP status.
    :param is_early: Whether it is the confirmation of a request that was not sent yet. Then the body is not read.
    :param encoding: How the body is compressed; then it is not read, because a few bytes may become gigabytes.
    :param lsn: The position that the headers report, see :func:`lsn_from_headers`.
    :param body: As it was sent.
    """

    status: int
    is_early: bool
    encoding: str
    lsn: int | None
    body: bytearray = field(default_factory=bytearray, repr=False)


def _tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    """
    Return the TLS settings, the same object for the same settings: reading the certificates takes long.

    :param ca_bundle: As in :class:`ClientSettings`.
    """
    environment = tuple(os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"))
    changed = tuple(_changed(path) for path in (ca_bundle, *environment[:2]))
    return _shared_tls_context(ca_bundle, environment, changed)


@lru_cache(maxsize=8)
def _shared_tls_context(
    ca_bundle: str | None,
    environment: tuple[str | None, ...],  # noqa: ARG001 - read by the functions that are called
    changed: tuple[int, ...],  # noqa: ARG001 - of files that are read
) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_bundle) if ca_bundle else httpx.create_ssl_context()


def _changed(path: str | None) -> int:
    """Return when a file or folder was changed, in ns; 0 if there is none."""
    try:
        return Path(path).stat().st_ctime_ns if path else 0
    except OSError:
        return 0


_UNUSED_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For plain http. It trusts no certificate."""


class HttpClient:
    """
    One host: headers, time-outs and TLS are set once. Safe to share between threads.

    :param url: As :func:`airflow_pinecone_upsert.api.hosts.index_url` returns it.
    :param settings: Key, version, time-outs.
    :raises SetupError: The key, the proxy or the CA bundle is unusable.
    """

    def __init__(self, url: str, settings: ClientSettings) -> None:
        self.url = url
        secret = settings.api_key  # the key itself would be a variable of this frame
        if not re.fullmatch(r"[!-~]+", secret.get_secret_value()):
            # h11 would reject the key, too, but its message quotes it.
            raise SetupError("The API key holds white space or characters outside ASCII. Copy it again.")
        self._mask = KeyMask(secret.get_secret_value())
        _KEY_FILTER.hide(secret, self._mask)
        self._api_version = settings.api_version
        loopback = url.startswith("http://")
        try:
            self._client = httpx.Client(
                base_url=url,
                headers={
                    "Api-Key": secret.get_secret_value(),
                    "User-Agent": USER_AGENT,
                    "Accept-Encoding": "identity",
                },
                timeout=httpx.Timeout(settings.timeout_s, connect=min(MAX_CONNECT_S, settings.timeout_s)),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=MAX_CONCURRENCY),
                verify=_UNUSED_TLS if loopback and not settings.ca_bundle else _tls_context(settings.ca_bundle),
                # A proxy would see the key of a plain http request.
                proxy=None if loopback else settings.proxy,
                trust_env=not loopback,
                follow_redirects=False,
            )
            guard_connections(self._client, settings.longest_request_s)
        except ImportError as exc:  # httpx's error says "socksio"
            raise SetupError(
                "The proxy is a SOCKS proxy, which needs the package socksio where the task runs: pip install socksio. "
                "It comes from the extra of the Airflow connection, or from ALL_PROXY or HTTPS_PROXY."
            ) from _without_frames(exc)
        except OSError as exc:  # ssl.SSLError is one
            if exc.filename and exc.filename == os.environ.get("SSLKEYLOGFILE"):
                raise SetupError(
                    f"SSLKEYLOGFILE names {exc.filename!r}, which cannot be written: {exc.strerror}. Unset it."
                ) from _without_frames(exc)
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
        endpoint: Endpoint[ResponseT],
        *,
        params: Mapping[str, Any] | None = None,
        content: bytes | Body | None = None,
    ) -> ResponseT:
        """
        Send one request, once.

        :param endpoint: Its method, path and response.
        :param params: The query string.
        :param content: The body, JSON.
        :return: The response, which has a 2xx status and the endpoint's type.
        :raises PineconeUpsertError: There is no such response.
        """
        headers = {"X-Pinecone-API-Version": max(self._api_version, endpoint.min_api_version)}
        if content is not None:
            # The length is known, so that pieces need not be sent chunked.
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(content))}
        try:
            # Closes the response, and its connection unless the response was read to its end.
            with self._client.stream(
                endpoint.method, endpoint.path, params=params, content=content, headers=headers
            ) as response:
                # The reason phrase may echo the key, and would be in the response's repr.
                response.extensions.pop("reason_phrase", None)
                received = _receive(response, endpoint.max_response_bytes)
        except (httpx.HTTPError, UnicodeError) as exc:
            if isinstance(exc, httpx.HTTPError):
                exc.request = httpx.Request(endpoint.method, self.url)  # instead of the one that contains the key
            raise self._unreachable(exc) from _without_frames(exc)
        # A response and its stream refer to each other: they would hold the request's 2 MB until a garbage collection.
        response.stream = httpx.ByteStream(b"")
        if response.is_success:
            self._check(endpoint, received)
            return self._parse(endpoint, received)
        headers = {name: self._mask(value) for name, value in response.headers.items()}
        raise error_from_response(
            received.status, headers, received.body, host=self.url, now=time.time(), mask=self._mask
        )

    def _check(self, endpoint: Endpoint[ResponseT], received: _Received) -> None:
        """
        Check whether a response with a 2xx status can be the one to this request.

        :raises TransportError: It came before the whole request was sent.
        :raises UnexpectedResponseError: It is compressed, or larger than the endpoint's responses are.
        """
        if received.is_early:
            raise TransportError(
                f"{self.url} answered {received.status} before {endpoint} was sent: the response belongs to an earlier "
                "request. The connection was closed. Check any proxy in between if this persists."
            )
        if received.encoding:
            raise UnexpectedResponseError(
                f"{self.url} answered {endpoint} with the content encoding {self._mask(received.encoding)!r:.80}, which "
                "was not asked for. Check the index host, and any proxy in between."
            )
        if len(received.body) > endpoint.max_response_bytes:
            raise UnexpectedResponseError(
                f"{self.url} answered {endpoint} with more than {endpoint.max_response_bytes:,} bytes; the rest was not "
                "read. Ask for less at once, or check the index host, and any proxy in between."
            )

    def _parse(self, endpoint: Endpoint[ResponseT], received: _Received) -> ResponseT:
        try:
            parsed = endpoint.response.model_validate_json(received.body, context={MASK_CONTEXT: self._mask})
        except ValidationError as exc:
            shown = self._mask(received.body[:MAX_ERROR_RESPONSE_BYTES].decode("utf-8", "replace"))[:_MAX_SHOWN]
            raise UnexpectedResponseError(
                f"{self.url} answered {received.status} to {endpoint.path}, but not with a Pinecone "
                f"response: {shown!r}. Is this host a Pinecone index?"
            ) from _without_frames(exc)
        if isinstance(parsed, PositionedResponse):
            parsed.note_position(received.lsn)
        return parsed

    def _unreachable(self, exc: Exception) -> PineconeUpsertError:
        what = self._mask(f"{type(exc).__name__}: {exc}".rstrip(": "))
        system_error = _system_error(exc)
        if isinstance(system_error, ssl.SSLCertVerificationError):
            return SetupError(
                f"{self.url} has no certificate that is trusted here ({what}). Set ca_bundle if it should."
            )
        if isinstance(system_error, ssl.SSLError) and system_error.reason in _NO_TLS:
            return SetupError(
                f"{self.url} does not speak TLS ({what}). Check the index host and its port; "
                "an index on this machine is named with http://."
            )
        # UnicodeError: a name such as "a..b", which only the resolver rejects.
        if isinstance(exc, (httpx.UnsupportedProtocol, httpx.LocalProtocolError, UnicodeError)):
            return SetupError(
                f"{self.url} cannot be requested ({what}). Check the index host, the proxy and the API key."
            )
        if isinstance(system_error, socket.gaierror):
            return TransportError(
                f"No answer from {self.url} ({what}): the name is unknown. Copy the index host again from the Pinecone "
                "console; if it is right, the index is gone, or this machine needs a proxy or another DNS server."
            )
        return TransportError(f"No answer from {self.url} ({what}). Check the index host, DNS, proxy and firewall.")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _receive(response: httpx.Response, max_bytes: int) -> _Received:
    """
    Read a response, up to a piece beyond its bound.

    :param response: Its headers have arrived.
    :param max_bytes: The bound of a response with a 2xx status.
    """
    stream = response.extensions["network_stream"]
    is_early = stream.get_extra_info(ANSWERED_EARLY)
    encoding = response.headers.get("content-encoding", "").strip().lower()
    received = _Received(
        response.status_code,
        # A server may answer early with an error, but it cannot confirm what it has not received.
        is_early=is_early and response.is_success,
        encoding="" if encoding == "identity" else encoding,
        lsn=lsn_from_headers(response.headers),
    )
    if not received.is_early and not received.encoding:
        bound = max_bytes if response.is_success else MAX_ERROR_RESPONSE_BYTES
        for piece in response.iter_raw():
            received.body.extend(piece)
            if len(received.body) > bound:
                break
    if is_early:
        stream.close()  # so that the pool discards the connection: the response to this request may follow
    return received


def _system_error(exc: BaseException | None) -> OSError | None:
    """Return the operating system's error, which is a cause or context of the errors of httpx and httpcore."""
    while exc is not None and not isinstance(exc, OSError):
        exc = exc.__cause__ or exc.__context__
    return exc
