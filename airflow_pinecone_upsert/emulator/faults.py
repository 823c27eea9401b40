"""
Making the index misbehave on demand.

A test scripts what goes wrong; everything else is answered as usual::

    index.faults.next(Fault.status(429, headers={"Retry-After": "0"}), times=2, path="/vectors/upsert")
    index.faults.next(Fault.lost_ack())

or gives each upsert a share of bad luck, the same one for the same seed::

    index.faults.at_random("429:0.05,reset:0.02,lost_ack:0.01", seed=7)

What always holds: a fault of the script is used up by exactly one request, in the order of the script, and comes before
the dice; the body of a request is read to its end before anything happens to it, so a client never fails while it is
still sending.
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

_GRPC_CODES: Final = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 413: 11, 429: 8, 500: 13, 503: 14, 504: 4}
_GRPC_UNKNOWN: Final = 2

_UPSERT: Final = "/vectors/upsert"
_STALL_S: Final = 60.0
"""Of a stall at random: longer than clients wait."""


class HangUp(Exception):  # noqa: N818 - an order to the server, not an error
    """
    End the connection without an answer. The server that runs the application must obey.

    :param reset: Whether to send a TCP reset instead of an orderly end.
    """

    def __init__(self, *, reset: bool) -> None:
        super().__init__(reset)
        self.reset = reset


class Fault(ABC):
    """
    Something that goes wrong with one request. Made by the methods below.

    :ivar path: The only path where it makes sense; ``None`` for any.
    """

    path: ClassVar[str | None] = None

    @abstractmethod
    async def play(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Answer a request wrongly.

        :param app: What would answer it rightly.
        :param scope: As in ASGI.
        :param receive: As in ASGI; gives the whole body in one message.
        :param send: As in ASGI.
        """

    @staticmethod
    def status(status: int, message: str = "injected fault", *, headers: Mapping[str, str] | None = None) -> Fault:
        """
        Refuse with Pinecone's JSON error body. Nothing is written.

        :param status: The HTTP status.
        :param message: The message in the body.
        :param headers: More headers, such as ``Retry-After``.
        :return: The fault.
        """
        error = {"code": _GRPC_CODES.get(status, _GRPC_UNKNOWN), "message": message, "details": []}
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
        Answer with these bytes. Nothing is written.

        :param status: The HTTP status.
        :param content: The body.
        :param content_type: Its type.
        :param headers: More headers.
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
        Write what was sent and close the connection without an answer.

        :return: The fault.
        """
        return _LostAck()

    @staticmethod
    def stall(seconds: float) -> Fault:
        """
        Wait, and then do what was asked, whether or not the client still listens.

        :param seconds: How long.
        :return: The fault.
        """
        return _Stall(seconds)

    @staticmethod
    def short_count(confirmed: int) -> Fault:
        """
        Write only the first records of an upsert and say so in ``upsertedCount``, with status 200.

        :param confirmed: How many.
        :return: The fault.
        """
        return _ShortCount(confirmed)


@dataclass
class _Scripted:
    fault: Fault
    path: str | None
    times: int


@dataclass(frozen=True)
class _Dice:
    """
    Faults by rate.

    :param rates: The share of requests that each one hits.
    :param random: Its state is the only thing that changes.
    """

    rates: Sequence[tuple[Fault, float]]
    random: random.Random

    def throw(self) -> Fault | None:
        thrown = self.random.random()
        for fault, rate in self.rates:
            thrown -= rate
            if thrown < 0:
                return fault
        return None


class Faults:
    """What is to go wrong: by script, and at random. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._script: list[_Scripted] = []
        self._dice: _Dice | None = None

    def next(self, fault: Fault, *, times: int = 1, path: str | None = None) -> None:
        """
        Add to the end of the script.

        :param fault: What is to go wrong.
        :param times: For how many requests.
        :param path: For requests to this path only; others pass by and leave the fault to a later one.
        :raises ValueError: ``times`` is less than 1.
        """
        if times < 1:
            raise ValueError(f"times must be at least 1, not {times}.")
        with self._lock:
            self._script.append(_Scripted(fault, path or fault.path, times))

    def at_random(self, spec: str, seed: int = 0) -> None:
        """
        Let upserts go wrong at random, in place of what was said so before.

        :param spec: The share of upserts that each kind of fault hits, such as ``429:0.05,reset:0.02``. A kind is an
            HTTP status from 400 to 599, ``reset``, ``lost_ack`` or ``stall`` (a minute); see :class:`Fault`.
        :param seed: The n-th upsert has the same luck each time.
        :raises ValueError: The spec has another form, names a kind twice, or its rates are more than 1 together.
        """
        dice = _Dice(_rates(spec), random.Random(seed))  # noqa: S311 - bad luck needs no secrecy
        with self._lock:
            self._dice = dice

    def clear(self) -> None:
        """Let nothing more go wrong."""
        with self._lock:
            self._script.clear()
            self._dice = None

    @property
    def pending(self) -> int:
        """How many requests are still to go wrong by the script."""
        with self._lock:
            return sum(scripted.times for scripted in self._script)

    def take(self, path: str) -> Fault | None:
        """
        Take the next fault for a request out of the script, or throw the dice for it.

        :param path: The request's path.
        :return: The fault; ``None`` when the request is to go well.
        """
        with self._lock:
            for scripted in self._script:
                if scripted.path in (None, path):
                    scripted.times -= 1
                    if not scripted.times:
                        self._script.remove(scripted)
                    return scripted.fault
            return self._dice.throw() if self._dice is not None and path == _UPSERT else None

    def around(self, app: ASGIApp) -> ASGIApp:
        """
        Make an application misbehave by this script.

        :param app: The application.
        :return: The application that misbehaves.
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
    answer_status: int
    content: bytes
    content_type: str
    headers: dict[str, str] = field(default_factory=dict)

    async def play(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        response = Response(self.content, self.answer_status, self.headers, self.content_type)
        await response(scope, receive, send)


@dataclass(frozen=True)
class _Reset(Fault):
    async def play(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        raise HangUp(reset=True)


@dataclass(frozen=True)
class _LostAck(Fault):
    async def play(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        async def lose(message: Message) -> None:
            pass

        await app(scope, receive, lose)
        raise HangUp(reset=False)


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
            # An upsert of nothing would be refused.
            await Response(b'{"upsertedCount":0}', media_type="application/json")(scope, receive, send)
            return
        shorter = orjson.dumps(request)
        # Starlette reads the body by its messages; the declared length stays that of what was sent.
        await app(scope, replay(shorter, receive), send)


def _rates(spec: str) -> list[tuple[Fault, float]]:
    """Read ``429:0.05,reset:0.02``."""
    rates = dict(map(_rate, parts := spec.split(",")))
    if len(rates) < len(parts):
        raise ValueError(f"{spec!r} names a kind of fault twice.")
    if (together := sum(rates.values())) > 1:
        raise ValueError(f"The rates of {spec!r} are {together:g} together; 1 is every request.")
    return [(_fault_of_kind(kind), rate) for kind, rate in rates.items()]


def _rate(part: str) -> tuple[str, float]:
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
