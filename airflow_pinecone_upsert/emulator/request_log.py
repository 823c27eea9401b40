"""
What clients asked, written down for tests.

What always holds: an entry is in the log before the client has the whole answer, so a test that has its answer finds
the entry; requests that a fault answered or cut off are in it too.
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

from airflow_pinecone_upsert.emulator.bodies import read_body, replay


@dataclass(frozen=True)
class RequestRecord:
    """
    One request.

    :param method: ``POST``, ``GET`` and so on.
    :param path: Without the query string.
    :param body_bytes: Size of the body.
    :param record_count: Records in an upsert, ids in any other request.
    :param ids: The ids that it names, in order.
    :param namespace: As it was sent; ``""`` when absent.
    :param started_at: When its head arrived, by ``time.monotonic()``.
    :param finished_at: When the end of the answer was sent, or the connection cut, on the same clock.
    :param status: The status of the answer; ``None`` when there was none.
    :param http_version: ``1.1`` and so on.
    :param headers: Names in lower case; the API key is left out.
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
        """The client's name for itself."""
        return self.headers.get("user-agent", "")


class RequestLog:
    """A list of requests that grows with every one. Meant for tests: nothing ever shortens it but ``clear()``."""

    def __init__(self) -> None:
        self.entries: list[RequestRecord] = []

    def around(self, app: ASGIApp) -> ASGIApp:
        """
        Write down what goes through an application.

        :param app: The application.
        :return: The application that writes and does the same.
        """

        async def logged(scope: Scope, receive: Receive, send: Send) -> None:
            started_at = time.monotonic()
            try:
                body = await read_body(receive)
            except ClientDisconnect:
                return
            status: int | None = None
            written = False

            def write() -> None:
                nonlocal written
                if not written:
                    written = True
                    self.entries.append(_entry(scope, body, started_at, status))

            async def watch(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    # Before the first byte: an answer without a body is complete with its head, and who has an answer
                    # must find its request here.
                    status = message["status"]
                    write()
                await send(message)

            try:
                await app(scope, replay(body, receive), watch)
            finally:
                write()

        return logged


def max_in_flight(entries: Sequence[RequestRecord]) -> int:
    """
    Count how many requests were open at once.

    :param entries: The requests.
    :return: The largest number of them between their start and their finish at one moment.
    """
    # A finish sorts before a start at the same moment: -1 < 1.
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
        body_bytes=len(body),
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
    """Read what may be anything: a fault may have answered before it was checked."""
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
