"""Reading the body of an ASGI request once and giving it on."""

from __future__ import annotations

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive


async def read_body(receive: Receive) -> bytes:
    """
    Read a body to its end.

    :param receive: The request's ASGI channel.
    :return: The body.
    :raises ClientDisconnect: The client left in the middle.
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
    Give a body that was read already as if it just arrived.

    :param body: The body, or another one in its place.
    :param receive: The channel it came from, for whatever comes after it.
    :return: The channel to hand on.
    """
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
