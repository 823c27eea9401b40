"""
Fault injection: requests that fail on demand.

A test scripts faults for the next requests; all other requests succeed as usual::

    index.faults.next(Fault.status(429, headers={"Retry-After": "0"}), times=2, path="/vectors/upsert")
    index.faults.next(Fault.lost_ack())

or makes upserts fail at random, in the same way for the same seed::

    index.faults.at_random("429:0.05,reset:0.02,lost_ack:0.01", seed=7)

Invariants:

* A scripted fault applies to exactly one request, in the order of the script, and takes precedence over random faults.
* The body of a request is read to its end before the fault applies, so a client never fails while it is still sending.
"""

from __future__ import annotations

import asyncio
import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_pinecone_upsert.emulator.bodies import read_body, replay
from airflow_pinecone_upsert.emulator.responses import grpc_code

_UPSERT: Final = "/vectors/upsert"
_STALL_S: Final = 60.0
"""How long a random stall lasts: longer than a client waits."""


class DropConnection(Exception):  # noqa: N818 - a command to the server, not an error
    """
    Close the connection without a response. The server that runs the application must handle it.

    :param reset: Whether to send a TCP reset instead of closing the connection cleanly.
    """

    def __init__(self, *, reset: bool) -> None:
        super().__init__(reset)
        self.reset = reset


class Fault(ABC):
    """
    A failure of one request. Create one with the static methods below.

    :ivar path: The only path that the fault can apply to; ``None`` for any path.
    """

    path: ClassVar[str | None] = None

    @abstractmethod
    async def play(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Handle a request instead of the application.

        :param app: The application, which handles the request correctly.
        :param scope: As in ASGI.
        :param receive: As in ASGI; it delivers the whole body in one message.
        :param send: As in ASGI.
        """

    @staticmethod
    def status(status: int, message: str = "injected fault", *, headers: Mapping[str, str] | None = None) -> Fault:
        """
        Respond with an error status and Pinecone's JSON error body. Nothing is written.

        :param status: The HTTP status.
        :param message: The message in the body.
        :param headers: Additional headers, such as ``Retry-After``.
        :return: The fault.
        """
        error = {"code": grpc_code(status), "message": message, "details": []}
        return Fault.body(status, orjson.dumps(error), "application/json", headers=headers)

    @staticmethod
    def body(
        status: int,
        content: bytes,
        content_type: str = "text/plain",
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Fault:
        """
        Respond with these bytes. Nothing is written.

        :param status: The HTTP status.
        :param content: The body.
        :param content_type: The content type of the body.
        :param headers: Additional headers.
        :return: The fault.
        """
        return _CannedResponse(status, content, content_type, dict(headers or {}))

    @staticmethod
    def reset() -> Fault:
        """
        Reset the connection. Nothing is written.

        :return: The fault.
        """
        return _Reset()

    @staticmethod
    def lost_ack() -> Fault:
        """
        Process the request and close the connection without a response.

        :return: The fault.
        """
        return _LostAck()

    @staticmethod
    def stall(seconds: float) -> Fault:
        """
        Wait, and then process the request, even if the client has disconnected.

        :param seconds: How long to wait.
        :return: The fault.
        """
        return _Stall(seconds)

    @staticmethod
    def short_count(confirmed: int) -> Fault:
        """
        Write only the first records of an upsert and report their number as ``upsertedCount``, with status 200.

        :param confirmed: The number of records to write.
        :return: The fault.
        """
        return _ShortCount(confirmed)


@dataclass
class _ScriptedFault:
    fault: Fault
    path: str | None
    times: int


@dataclass(frozen=True)
class _RandomFaults:
    """
    Faults by rate.

    :param rates: Each fault, with the share of requests that it applies to.
    :param random: The source of randomness.
    """

    rates: Sequence[tuple[Fault, float]]
    random: random.Random

    def draw(self) -> Fault | None:
        drawn = self.random.random()
        for fault, rate in self.rates:
            drawn -= rate
            if drawn < 0:
                return fault
        return None


class Faults:
    """The faults of an index: scripted and random ones. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._script: list[_ScriptedFault] = []
        self._random: _RandomFaults | None = None

    def next(self, fault: Fault, *, times: int = 1, path: str | None = None) -> None:
        """
        Add a fault to the end of the script.

        :param fault: The fault.
        :param times: The number of requests it applies to.
        :param path: Apply it only to requests to this path.
        :raises ValueError: ``times`` is less than 1.
        """
        if times < 1:
            raise ValueError(f"times must be at least 1, not {times}.")
        with self._lock:
            self._script.append(_ScriptedFault(fault, path or fault.path, times))

    def at_random(self, spec: str, seed: int = 0) -> None:
        """
        Make upserts fail at random. This replaces the previous random faults.

        :param spec: The kinds of faults, each with the share of upserts that it applies to, such as
            ``429:0.05,reset:0.02``. A kind is an HTTP status from 400 to 599, ``reset``, ``lost_ack`` or ``stall`` (a
            minute); see :class:`Fault`.
        :param seed: With the same seed, the n-th upsert gets the same fault.
        :raises ValueError: The spec is malformed, contains a kind twice, or its rates add up to more than 1.
        """
        random_faults = _RandomFaults(_parse_spec(spec), random.Random(seed))  # noqa: S311 - not for cryptography
        with self._lock:
            self._random = random_faults

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._script.clear()
            self._random = None

    @property
    def pending(self) -> int:
        """The number of requests that scripted faults still apply to."""
        with self._lock:
            return sum(scripted.times for scripted in self._script)

    def take(self, path: str) -> Fault | None:
        """
        Take the next scripted fault for a request, or draw a random one.

        :param path: The path of the request.
        :return: The fault; ``None`` if the request is to succeed.
        """
        with self._lock:
            for scripted in self._script:
                if scripted.path in (None, path):
                    scripted.times -= 1
                    if not scripted.times:
                        self._script.remove(scripted)
                    return scripted.fault
            return self._random.draw() if self._random is not None and path == _UPSERT else None

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """
        Apply the faults to an application.

        :param app: The application.
        :return: The application with the faults.
        """

        async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
            fault = self.take(scope["path"])
            if fault is None:
                await app(scope, receive, send)
                return
            try:
                body = await read_body(receive)
            except ClientDisconnect:
                return
            await fault.play(app, scope, replay(body, receive), send)

        return faulty


@dataclass(frozen=True)
class _CannedResponse(Fault):
    status_code: int
    content: bytes
    content_type: str
    headers: dict[str, str] = field(default_factory=dict)

    async def play(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        response = Response(self.content, self.status_code, self.headers, self.content_type)
        await response(scope, receive, send)


@dataclass(frozen=True)
class _Reset(Fault):
    async def play(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        raise DropConnection(reset=True)


@dataclass(frozen=True)
class _LostAck(Fault):
    async def play(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        async def discard(message: Message) -> None:
            pass

        await app(scope, receive, discard)
        raise DropConnection(reset=False)


@dataclass(frozen=True)
class _Stall(Fault):
    seconds: float

    async def play(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(self.seconds)
        await app(scope, receive, send)


@dataclass(frozen=True)
class _ShortCount(Fault):
    path = _UPSERT
    confirmed: int

    async def play(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        request: dict[str, Any] = orjson.loads(await read_body(receive))
        request["vectors"] = request["vectors"][: self.confirmed]
        if not request["vectors"]:
            # The application rejects an upsert without records.
            await Response(b'{"upsertedCount":0}', media_type="application/json")(scope, receive, send)
            return
        # Content-Length stays that of the original body; Starlette reads the body from its messages.
        await app(scope, replay(orjson.dumps(request), receive), send)


def _parse_spec(spec: str) -> list[tuple[Fault, float]]:
    """Parse ``429:0.05,reset:0.02``."""
    rates = dict(map(_parse_rate, parts := spec.split(",")))
    if len(rates) < len(parts):
        raise ValueError(f"{spec!r} names a kind of fault twice.")
    if (total := sum(rates.values())) > 1:
        raise ValueError(f"The rates of {spec!r} add up to {total:g}; the maximum is 1, which is every request.")
    return [(_fault_of_kind(kind), rate) for kind, rate in rates.items()]


def _parse_rate(part: str) -> tuple[str, float]:
    kind, _, rate_text = map(str.strip, part.partition(":"))
    try:
        rate = float(rate_text)
    except ValueError:
        raise ValueError(f"{part!r} is not a fault with a rate; write it as in 429:0.05.") from None
    if not 0 <= rate <= 1:
        raise ValueError(f"The rate of {part!r} must be between 0 and 1.")
    return kind, rate


def _fault_of_kind(kind: str) -> Fault:
    faults = {"reset": Fault.reset(), "lost_ack": Fault.lost_ack(), "stall": Fault.stall(_STALL_S)}
    if kind in faults:
        return faults[kind]
    if kind.isdecimal() and int(kind) in range(400, 600):
        return Fault.status(int(kind))
    raise ValueError(f"{kind!r} is not a kind of fault; choose a status from 400 to 599, {', '.join(faults)}.")
