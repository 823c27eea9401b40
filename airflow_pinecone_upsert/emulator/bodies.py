"""
Reading the body of an ASGI request in a middleware, and passing it on.

Invariant: no part of the emulator reads more than ``MAX_READ_BYTES`` of one request, even if its body never ends.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_pinecone_upsert.emulator.rules import ApiError

MAX_READ_BYTES: Final = 64_000_000
"""
Bytes of one body that the emulator reads. A body above the limit of the service is read to its end nevertheless, because
most clients lose a response that arrives while they send.
"""


def bound_bodies(app: ASGIApp) -> ASGIApp:
    """
    Reject a request whose body is longer than ``MAX_READ_BYTES``.

    :param app: An application that responds to an ``ApiError``, also if reading the body raises it.
    :return: The application with the bound. ``receive`` raises ``ApiError`` at the bound, and the server then closes the
        connection.
    """

    async def bounded(scope: Scope, receive: Receive, send: Send) -> None:
        read_bytes = 0

        async def receive_bounded() -> Message:
            nonlocal read_bytes
            message = await receive()
            read_bytes += len(message.get("body", b""))
            if read_bytes > MAX_READ_BYTES:
                megabytes = MAX_READ_BYTES // 1_000_000
                raise ApiError(f"Request size exceeds {megabytes}MB, the rest was not read", status=413, code=None)
            return message

        await app(scope, receive_bounded, send)

    return bounded


async def read_body(receive: Receive) -> bytes:
    """
    Read the whole body of a request.

    :param receive: The ASGI receive channel of the request.
    :return: The body.
    :raises ClientDisconnect: The client disconnected before the end of the body.
    """
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def replay(body: bytes, receive: Receive) -> Receive:
    """
    Make a receive channel that delivers a body which was already read.

    :param body: The body that was read, or a replacement.
    :param receive: The original channel, for all later messages.
    :return: The channel to pass to the application.
    """
    delivered = False

    async def replayed() -> Message:
        nonlocal delivered
        if delivered:
            return await receive()
        delivered = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def sent_bytes(scope: Scope, body: bytes) -> int:
    """
    Return the size of a body as the client sent it.

    :param scope: As in ASGI; of a gRPC request it has the size of the message, of which the body is the JSON form.
    :param body: The body.
    :return: Bytes.
    """
    size: int = scope.get("extensions", {}).get("grpc", {}).get("message_bytes", len(body))
    return size
