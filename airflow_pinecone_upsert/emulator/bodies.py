"""Reading the body of an ASGI request in a middleware, and passing it on."""

from __future__ import annotations

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive


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
