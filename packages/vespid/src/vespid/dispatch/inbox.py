"""Messages to this process, each given to whoever said that it handles its kind."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import structlog

from vespid.bus.messages import AnyMessage, Message
from vespid.bus.ports import Mail

log = structlog.get_logger("vespid.dispatch.inbox")

Kind = TypeVar("Kind", bound=Message)


class Inbox:
    """A Service. Handlers do not wait, as they may run within a sender's call; they start tasks for what takes time."""

    def __init__(self, mail: Mail) -> None:
        self._mail = mail
        self._handlers: dict[type[Message], Callable[[Any], None]] = {}
        self._task: asyncio.Task[None] | None = None

    def handle(self, kind: type[Kind], handler: Callable[[Kind], None]) -> None:
        """Messages of that kind go to `handler`."""
        self._handlers[kind] = handler

    def take(self, message: AnyMessage) -> None:
        """One message, from wherever it came."""
        handler = self._handlers.get(type(message))
        if handler is None:
            log.warning("message_unhandled", kind=type(message).__name__)
            return
        try:
            handler(message)
        except Exception:
            # One message must not end the reading of all others.
            log.exception("message_failed", kind=type(message).__name__)

    async def start(self) -> None:
        if self._task is None:
            self._mail.hand_over(self.take)
            self._task = asyncio.create_task(self._read(), name="inbox")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _read(self) -> None:
        async for batch in self._mail.receive():
            for message in batch:
                self.take(message)
