"""A fault that waits for what a test needs to have happened, so that no test depends on how fast a machine is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from airflow_pinecone_upsert.emulator import Fault

POLL_INTERVAL_S = 0.005


@dataclass(frozen=True)
class Held(Fault):
    """
    A request that is held, and then goes wrong.

    :param fault: What goes wrong with it.
    :param until: Whether it has been held for long enough.
    """

    fault: Fault
    until: Callable[[], bool]

    async def play(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        while not self.until():  # noqa: ASYNC110 - what it waits for happens in other threads
            await asyncio.sleep(POLL_INTERVAL_S)
        await self.fault.play(app, scope, receive, send)
