"""
A log of the requests that an index received, for tests.

Invariants:

* A request is logged before the client has the whole response, so a test that has the response finds the request.
* Requests that a fault answered or dropped are logged too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import orjson
from starlette.datastructures import Headers, QueryParams
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_pinecone_upsert.emulator.bodies import read_body, replay, sent_bytes


@dataclass(frozen=True)
class RequestRecord:
    """
    One request.

    :param method: ``POST``, ``GET`` and so on; of a gRPC request, that of the same operation over REST.
    :param path: The path without the query string.
    :param body_bytes: The size of the body; over gRPC, of the message.
    :param record_count: The number of records of an upsert, or of ids of any other request.
    :param ids: The ids in the request, in order.
    :param namespace: The namespace as it was sent; ``""`` when absent.
    :param started_at: When the request's headers arrived, by ``time.monotonic()``.
    :param finished_at: When the response started or the connection was dropped, by ``time.monotonic()``.
    :param status: The status of the response; ``None`` when there was none.
    :param http_version: ``1.1`` and so on.
    :param headers: The headers with lower-case names, without the API key.
    """

    method: str
    path: str
    body_bytes: int
    record_count: int
    ids: tuple[str, ...]
    namespace: str
    started_at: float
    finished_at: float
    status: int | None
    http_version: str
    headers: Mapping[str, str]

    @property
    def user_agent(self) -> str:
        """The ``User-Agent`` header."""
        return self.headers.get("user-agent", "")


class RequestLog:
    """The list of all requests. It grows without bound."""

    def __init__(self) -> None:
        self.entries: list[RequestRecord] = []

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """
        Log the requests of an application.

        :param app: The application.
        :return: The application with the log around it.
        """

        async def logged(scope: Scope, receive: Receive, send: Send) -> None:
            started_at = time.monotonic()
            try:
                body = await read_body(receive)
            except ClientDisconnect:
                return
            status: int | None = None
            is_logged = False

            def log() -> None:
                nonlocal is_logged
                if not is_logged:
                    is_logged = True
                    self.entries.append(_entry(scope, body, started_at, status))

            async def send_logged(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    # Before the first byte is sent: a response without a body is complete after its headers, and the
                    # client may look for its request from then on.
                    status = message["status"]
                    log()
                await send(message)

            try:
                await app(scope, replay(body, receive), send_logged)
            finally:
                log()

        return logged


def max_in_flight(entries: Sequence[RequestRecord]) -> int:
    """
    Count how many requests were in flight at once.

    :param entries: The requests.
    :return: The largest number of requests that had started and not finished at one moment.
    """
    # At the same moment a finish sorts before a start: -1 < 1.
    moments = sorted([(e.started_at, 1) for e in entries] + [(e.finished_at, -1) for e in entries])
    return max(accumulate(step for _, step in moments), default=0)


def _entry(scope: Scope, body: bytes, started_at: float, status: int | None) -> RequestRecord:
    headers = Headers(scope=scope)
    parameters = QueryParams(scope["query_string"])
    message = _parse(body)
    ids = tuple(_ids(message)) or tuple(parameters.getlist("ids"))
    return RequestRecord(
        method=scope["method"],
        path=scope["path"],
        body_bytes=sent_bytes(scope, body),
        record_count=len(ids),
        ids=ids,
        namespace=str(message.get("namespace") or parameters.get("namespace", "")),
        started_at=started_at,
        finished_at=time.monotonic(),
        status=status,
        http_version=scope["http_version"],
        headers={name: value for name, value in headers.items() if name != "api-key"},
    )


def _parse(body: bytes) -> dict[str, Any]:
    """Parse a body that may be anything: the log sees it whether or not the request is valid."""
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return message if isinstance(message, dict) else {}


def _ids(message: dict[str, Any]) -> list[str]:
    if isinstance(vectors := message.get("vectors"), list):
        return [str(vector.get("id")) if isinstance(vector, dict) else "" for vector in vectors]
    if isinstance(ids := message.get("ids"), list):
        return [str(record_id) for record_id in ids]
    return [message["id"]] if isinstance(message.get("id"), str) else []
