"""
The network streams below httpx: a request ends in bounded time, and a response belongs to the request before it.

httpx bounds the silence of a server, not the whole request, so a server that sends one byte a second would never end it.
And it would read bytes that are left over after a response, such as a second copy of that response, as the response to the
next request on the same connection, and so confirm records that no server has stored.

Invariants: no read or write waits beyond the deadline of its request; a connection with bytes left over after a response
is not used again.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import httpcore
import httpx

ANSWERED_EARLY: Final = "answered_early"
"""The extra info of a stream that says whether the response came before the whole request was sent."""

_ArgumentT = TypeVar("_ArgumentT")
_ResultT = TypeVar("_ResultT")

_READ_BYTES: Final = 65_536
_STATUS_OFFSET: Final = len("HTTP/1.1 ")


def guard_connections(client: httpx.Client, max_request_s: float) -> None:
    """
    Make a new client use these streams, also for its proxies.

    httpx does not pass httpcore's ``network_backend`` on, hence the private attributes. One that is missing is an error.

    :param client: Not yet used.
    :param max_request_s: Longest time of one request, from its first byte to the last one of its response.
    """
    for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001
        if isinstance(transport, httpx.HTTPTransport):
            pool = transport._pool  # noqa: SLF001
            pool._network_backend = _Backend(pool._network_backend, max_request_s)  # noqa: SLF001


class _Backend(httpcore.NetworkBackend):
    """
    Opens guarded streams.

    :param inner: Opens the streams that are guarded.
    :param max_request_s: See :func:`guard_connections`.
    """

    def __init__(self, inner: httpcore.NetworkBackend, max_request_s: float) -> None:
        self._inner = inner
        self._max_request_s = max_request_s

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Open a connection."""
        stream = self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return GuardedStream(stream, self._max_request_s)


class GuardedStream(httpcore.NetworkStream):
    """
    One connection.

    Its last byte read is withheld until the parser asks for more. If the response ends with that byte, the parser asks for
    it. If it does not, the response ended earlier, and the byte is left over. That needs no knowledge of HTTP's framing.

    :param inner: The stream that is guarded.
    :param max_request_s: See :func:`guard_connections`.
    :param clock: Monotonic seconds.
    """

    def __init__(
        self, inner: httpcore.NetworkStream, max_request_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._inner = inner
        self._max_request_s = max_request_s
        self._clock = clock
        self._deadline = clock() + max_request_s
        self._responding = True
        self._answered_early = False
        self._arrived = b""

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what arrived, but for its last byte, or that byte."""
        self._responding = True
        if not self._arrived:
            self._arrived = self._within_deadline(self._inner.read, max_bytes, timeout, httpcore.ReadTimeout)
        end = max(1, len(self._arrived) - 1)
        data, self._arrived = self._arrived[:end], self._arrived[end:]
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send a part of a request. The first one after a response begins the next request."""
        if not buffer:
            return
        if self._responding:
            self._responding = self._answered_early = False
            self._deadline = self._clock() + self._max_request_s
        else:
            self._look_for_an_early_answer()
        self._within_deadline(self._inner.write, buffer, timeout, httpcore.WriteTimeout)

    def _look_for_an_early_answer(self) -> None:
        """Read, without waiting, what arrives before the request is sent: an error, or what belongs to an earlier one."""
        if self._arrived or not self._inner.get_extra_info("is_readable"):
            return
        try:
            self._arrived = self._inner.read(_READ_BYTES, 0.0)
        except (httpcore.ReadError, httpcore.ReadTimeout):  # TLS's own messages, or a reset that the next call reports
            return
        # "HTTP/1.1 100 Continue" and its like are not the response.
        self._answered_early = bool(self._arrived) and self._arrived[_STATUS_OFFSET:][:1] != b"1"

    def _within_deadline(
        self,
        call: Callable[[_ArgumentT, float], _ResultT],
        argument: _ArgumentT,
        timeout: float | None,
        error: type[httpcore.TimeoutException],
    ) -> _ResultT:
        """
        Read or write, and wait no longer than until the deadline.

        :raises httpcore.TimeoutException: With a message that says so if it is the deadline that has passed.
        """
        remaining = self._deadline - self._clock()
        if remaining > 0:
            try:
                return call(argument, remaining if timeout is None else min(timeout, remaining))
            except error:
                if self._clock() < self._deadline:
                    raise
        raise error(f"the request and its response took more than {self._max_request_s:g} s")

    def close(self) -> None:
        """Close the connection."""
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Return a guarded stream that is encrypted."""
        return GuardedStream(
            self._inner.start_tls(ssl_context, server_hostname, timeout), self._max_request_s, self._clock
        )

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore asks for: it closes an idle connection that is readable, instead of using it again."""
        if info == ANSWERED_EARLY:
            return self._answered_early
        if info == "is_readable" and self._arrived:
            return True
        return self._inner.get_extra_info(info)
