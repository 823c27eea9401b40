"""
What all triggers share: the hook, a poll every few seconds, and the event that ends it.

A triggerer runs hundreds of triggers in one event loop, so each poll runs in a thread of its own, one at a time for each
trigger. That needs no asynchronous copy of the client.

Invariants: the serialized form contains names and numbers, and no secret: the hook reads the connection where the trigger
runs. It is all that a trigger needs, so a trigger continues in another triggerer, or after a restart of its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, ClassVar, Final, TypeVar

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_pinecone_upsert import exceptions
from airflow_pinecone_upsert.exceptions import PineconeUpsertError, TransientError
from airflow_pinecone_upsert.hooks.pinecone import PineconeHook

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_ERROR: Final = "error"


class PineconeBaseTrigger(BaseTrigger):
    """
    The base of the triggers of this package. A subclass implements :meth:`poll`.

    :param pinecone_conn_id: The Airflow connection.
    :param index_host: As for :class:`PineconeHook`.
    :param index_name: Likewise.
    :param check_index_host: Likewise.
    :param poll_interval_s: Seconds between two polls.
    """

    parameters: ClassVar[tuple[str, ...]] = (
        "pinecone_conn_id",
        "index_host",
        "index_name",
        "check_index_host",
        "poll_interval_s",
    )
    """The parameters, each of which is an attribute. A subclass adds its own."""

    def __init__(
        self,
        *,
        pinecone_conn_id: str,
        index_host: str | None = None,
        index_name: str | None = None,
        check_index_host: bool = False,
        poll_interval_s: float,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pinecone_conn_id = pinecone_conn_id
        self.index_host = index_host
        self.index_name = index_name
        self.check_index_host = check_index_host
        self.poll_interval_s = poll_interval_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and its parameters. See the invariants of this module."""
        kind = type(self)
        return f"{kind.__module__}.{kind.__qualname__}", {name: getattr(self, name) for name in self.parameters}

    def hook(self) -> PineconeHook:
        """Create a hook."""
        return PineconeHook(
            self.pinecone_conn_id,
            index_host=self.index_host,
            index_name=self.index_name,
            check_index_host=self.check_index_host,
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until there is an event."""
        hook = self.hook()
        try:
            event = await in_thread(lambda: self._event(hook))
            while event is None:
                await asyncio.sleep(self.poll_interval_s)
                event = await in_thread(lambda: self._event(hook))
        finally:
            hook.close()
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    def _event(self, hook: PineconeHook) -> dict[str, Any] | None:
        try:
            return self.poll(hook)
        except TransientError as exc:
            log.warning("%s", exc)
            return self.failed(exc)
        except PineconeUpsertError as exc:
            return {_ERROR: type(exc).__name__, "message": str(exc)}

    @abstractmethod
    def poll(self, hook: PineconeHook) -> dict[str, Any] | None:
        """
        Ask once. Runs in a thread.

        :param hook: The same one each time.
        :return: The event that ends the trigger; None to poll again.
        """

    def failed(self, error: TransientError) -> dict[str, Any] | None:  # noqa: ARG002 - for subclasses
        """Return the event for a poll that failed; None to poll again."""
        return None


def raise_error(event: dict[str, Any]) -> None:
    """
    Raise the error that a poll has met, in the task that resumes.

    :raises PineconeUpsertError: Of the class that the trigger has caught.
    """
    if _ERROR in event:
        kind = getattr(exceptions, event[_ERROR], PineconeUpsertError)
        raise kind(event["message"])


async def in_thread(call: Callable[[], _T]) -> _T:
    """
    Await a call in a thread.

    Unlike a thread of ``asyncio.to_thread``, it is a daemon: a request that hangs does not keep a triggerer from ending.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()
    context = contextvars.copy_context()  # Airflow's logging finds the task in it

    def settle(set_outcome: Callable[[Any], None], outcome: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: None if future.done() else set_outcome(outcome))

    def run() -> None:
        try:
            result = context.run(call)
        except BaseException as exc:  # noqa: BLE001 - raised again where it is awaited
            settle(future.set_exception, exc)
        else:
            settle(future.set_result, result)

    threading.Thread(target=run, name="pinecone-upsert-trigger", daemon=True).start()
    return await future
