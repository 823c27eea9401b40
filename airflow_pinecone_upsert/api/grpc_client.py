"""
The gRPC boundary: ``VectorService/Upsert`` of one host, over bytes that are encoded already.

Invariants: the API key is sent to this host only, over TLS or to a loopback address; it is metadata of a call, and in no
option of a channel; an error of gRPC is raised as one of :mod:`airflow_pinecone_upsert.exceptions`, without its frames,
because their variables contain the key; a call ends within its deadline, and messages are bounded both ways. gRPC itself
retries nothing: the sender does.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.request import getproxies, proxy_bypass

import certifi
import httpx

from airflow_pinecone_upsert.api import protobuf
from airflow_pinecone_upsert.api.http import MAX_CONNECT_S, USER_AGENT, ClientSettings
from airflow_pinecone_upsert.api.limits import MAX_DECODED_REQUEST_BYTES, MAX_RESPONSE_BYTES
from airflow_pinecone_upsert.api.masking import KeyMask
from airflow_pinecone_upsert.api.models import UpsertResponse, lsn_from_headers
from airflow_pinecone_upsert.api.responses import error_from_status
from airflow_pinecone_upsert.exceptions import SetupError, UnexpectedResponseError

_UPSERT: Final = "/VectorService/Upsert"
_TLS_PORT: Final = 443
_UPSERTED_COUNT: Final = 1
"""The number of the field of ``UpsertResponse``."""

_DETAILS: Final = "grpc-status-details-bin"
_DETAILS_FIELD, _VALUE_FIELD, _REASON_FIELD = 3, 2, 1
"""The numbers of the fields of ``google.rpc.Status``, ``google.protobuf.Any`` and ``google.rpc.ErrorInfo``."""

_KEEPALIVE_MS: Final = 60_000
"""Between two pings while a call waits; servers close connections that ping more often than every few minutes otherwise."""

_KEEPALIVE_TIMEOUT_MS: Final = 20_000
_RECONNECT_MS: Final = 100
_MAX_RECONNECT_MS: Final = 1_000
"""gRPC would wait up to two minutes before it connects again; how long to wait is the sender's decision."""


class _Status(NamedTuple):
    """How a call failed: what of gRPC's error is kept."""

    code: str
    message: str
    metadata: dict[str, str]
    reason: str | None = None


class GrpcClient:
    """
    The upserts of one host. It connects with the first one. Safe to share between threads.

    :param url: As :func:`airflow_pinecone_upsert.api.hosts.index_url` returns it.
    :param settings: Key, version, time-outs.
    """

    def __init__(self, url: str, settings: ClientSettings) -> None:
        self._url = url
        self._settings = settings
        self._mask = KeyMask(settings.api_key.get_secret_value())
        self._lock = threading.Lock()
        self._channel: Any = None
        self._call: Any = None

    def upsert(self, message: bytes) -> UpsertResponse:
        """
        Send one upsert, once.

        :param message: An encoded ``UpsertRequest``.
        :raises SetupError: grpcio is not installed, or the host, the proxy or the CA bundle is unusable.
        :raises PineconeUpsertError: There is no response that confirms something.
        """
        with self._lock:
            if self._channel is None:
                self._connect()
        answer = self._send(message)
        if answer is None:
            raise UnexpectedResponseError(
                f"{self._url} answered {_UPSERT}, but not with a Pinecone response. Is this host a Pinecone index?"
            )
        if isinstance(answer, _Status):
            raise error_from_status(
                answer.code,
                answer.message,
                answer.metadata,
                reason=answer.reason,
                host=self._url,
                now=time.time(),
                mask=self._mask,
            )
        return answer

    def close(self) -> None:
        """Close the connection, and cancel the calls in flight."""
        with self._lock:
            if self._channel is not None:
                self._channel.close()

    def _connect(self) -> None:
        grpc = _grpc()
        url = httpx.URL(self._url)
        if url.path not in ("", "/"):
            raise SetupError(f"{self._url} has a path, which gRPC has no place for. Use transport='rest'.")
        target = f"dns:///{url.netloc.decode()}"
        if self._settings.grpc_port or url.port is None:
            port = self._settings.grpc_port or _TLS_PORT
            target = f"dns:///{url.copy_with(port=None).netloc.decode()}:{port}"
        if url.scheme == "http":  # a loopback address; a proxy would see the key
            self._channel = grpc.insecure_channel(target, options=self._options())
        else:
            if (options := self._options_of(url.host)) is None:
                raise SetupError(
                    "The proxy is not one of http://, and gRPC can use no other. Use transport='rest', or fix the extra of "
                    "the Airflow connection or HTTPS_PROXY."
                )
            credentials = grpc.ssl_channel_credentials(_root_certificates(self._settings.ca_bundle))
            self._channel = grpc.secure_channel(target, credentials, options=options)
        self._call = self._channel.unary_unary(_UPSERT)
        _keep_freed_memory()

    def _options_of(self, host: str) -> list[tuple[str, str | int]] | None:
        """Return the options with the proxy that REST would use, whose URL may have a password; None if gRPC cannot use it."""
        proxy = self._settings.proxy or ("" if proxy_bypass(host) else _environment_proxy())
        return None if proxy and httpx.URL(proxy).scheme != "http" else self._options(proxy)

    def _options(self, proxy: str = "") -> list[tuple[str, str | int]]:
        return [
            ("grpc.primary_user_agent", USER_AGENT),
            ("grpc.max_send_message_length", MAX_DECODED_REQUEST_BYTES),
            ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),  # another client with another key has connections of its own
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS),
            ("grpc.max_reconnect_backoff_ms", _MAX_RECONNECT_MS),
            ("grpc.min_reconnect_backoff_ms", int(1_000 * min(MAX_CONNECT_S, self._settings.timeout_s))),  # to connect
            *([("grpc.http_proxy", proxy)] if proxy else [("grpc.enable_http_proxy", 0)]),
        ]

    def _send(self, message: bytes) -> UpsertResponse | _Status | None:
        """
        Call, and return what the server confirms, or what is kept of an error: gRPC's has the key in its frames.

        :return: None for a response that is not Pinecone's. It may echo the key, so no frame that raises has it.
        """
        rpc_error: type[Exception] = _grpc().RpcError
        metadata = (
            ("api-key", self._settings.api_key.get_secret_value()),
            ("x-pinecone-api-version", self._settings.api_version),
        )
        try:
            content, call = self._call.with_call(message, timeout=self._settings.shortest_time_out_s, metadata=metadata)
        except rpc_error as exc:
            error: Any = exc
            details = dict(error.trailing_metadata() or ()).get(_DETAILS, b"")
            text = self._mask(error.details() or "")
            return _Status(error.code().name, text, self._metadata(error), _reason(details))
        except ValueError:  # the channel was closed
            return _Status("CANCELLED", "The client is closed", {})
        return _parse(content, self._metadata(call))

    def _metadata(self, call: Any) -> dict[str, str]:
        both = (*(call.initial_metadata() or ()), *(call.trailing_metadata() or ()))
        return {name: self._mask(value) for name, value in both if isinstance(value, str)}


def _parse(content: bytes, metadata: dict[str, str]) -> UpsertResponse | None:
    try:
        counts = [value for number, value in protobuf.fields(content) if number == _UPSERTED_COUNT]
        response = UpsertResponse.model_validate({"upsertedCount": counts[-1] if counts else 0}, strict=True)
    except ValueError:  # pydantic's is one
        return None
    response.note_position(lsn_from_headers(metadata))
    return response


def _reason(status: bytes) -> str | None:
    """Return the machine-readable reason in the details of a status, a ``google.rpc.ErrorInfo``; None if there is none."""
    try:
        for detail in _parts(status, _DETAILS_FIELD):
            for info in _parts(detail, _VALUE_FIELD):
                for reason in _parts(info, _REASON_FIELD):
                    return reason.decode()
    except ValueError:  # also for text that is not UTF-8
        pass
    return None


def _parts(message: bytes, field: int) -> list[bytes]:
    return [part for number, part in protobuf.fields(message) if number == field and isinstance(part, bytes)]


def _keep_freed_memory() -> None:
    """
    Let glibc use the memory of one message again for the next one, instead of returning it to the system in between.

    gRPC copies each message, so that two blocks of up to 2 MB are freed with it. The end of the heap is returned if it is
    larger than twice the largest block with a mapping of its own that was freed so far (``M_MMAP_THRESHOLD`` of
    https://man7.org/linux/man-pages/man3/mallopt.3.html). So such a block is freed here. Its memory is never touched, and
    so never taken. It saves a thousand page faults a message: a seventh of the CPU time, at 1,536 dimensions.
    """
    bytes(2 * MAX_DECODED_REQUEST_BYTES)


def _grpc() -> Any:
    try:
        return importlib.import_module("grpc")
    except ImportError as exc:
        raise SetupError(
            "transport='grpc' needs the package grpcio where the task runs: pip install 'airflow-pinecone-upsert[grpc]'. "
            "Or use transport='rest'."
        ) from exc


def _root_certificates(ca_bundle: str | None) -> bytes:
    """Return the certificates that REST would trust."""
    environment = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
    path = Path(ca_bundle or environment or certifi.where())
    try:
        files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
        return b"\n".join(file.read_bytes() for file in files)
    except OSError as exc:
        raise SetupError(f"The CA bundle {str(path)!r} cannot be read: {exc}. Name a file in PEM format.") from exc


def _environment_proxy() -> str:
    environment = getproxies()
    found = environment.get("https") or environment.get("all") or ""
    return found if not found or "://" in found else f"http://{found}"
