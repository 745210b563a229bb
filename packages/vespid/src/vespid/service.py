"""What everything that lives looks like, and how several of them live together.

`start` returns when the service is started, `stop` blocks until it is stopped, and both may be called twice.
"""

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import AsyncIterator, Sequence
from typing import Protocol, runtime_checkable

import structlog

log = structlog.get_logger("vespid.service")

# What a shell reports for a process that ended by this signal.
EXIT_AFTER_SIGNAL = 128


class StartRefused(Exception):
    """Something cannot start for a reason that somebody can mend; the message is for that person."""


@runtime_checkable
class Service(Protocol):
    """Something that is started, lives, and is stopped."""

    async def start(self) -> None:
        """Return when started; a second call changes nothing."""

    async def stop(self) -> None:
        """Return when stopped; may be called before `start`, during it, and twice."""


class Stack:
    """Several services as one: started in order, stopped in reverse.

    When one fails to start, those before it are stopped before the error is raised. When one fails to stop, the
    others are stopped all the same and the first error is raised at the end.
    """

    def __init__(self, services: Sequence[Service]) -> None:
        self._services = tuple(services)
        # Those started (or half started) so far, in order.
        self._started: list[Service] = []
        # Serialises start and stop, so that a second caller waits for the first and then finds nothing to do.
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Start the services one after the other."""
        async with self._turn:
            if self._started:
                return
            for service in self._services:
                self._started.append(service)
                try:
                    await service.start()
                except BaseException:
                    # The start's own error is the one to tell; a failing stop is logged.
                    await self._stop_started()
                    raise

    async def stop(self) -> None:
        """Stop the services, the last started first."""
        async with self._turn:
            failures = await self._stop_started()
        if failures:
            raise failures[0]

    async def _stop_started(self) -> list[Exception]:
        failures: list[Exception] = []
        while self._started:
            service = self._started.pop()
            try:
                await service.stop()
            except Exception as error:
                log.exception("service_stop_failed", service=type(service).__name__)
                failures.append(error)
        return failures


@contextlib.asynccontextmanager
async def running(service: Service) -> AsyncIterator[None]:
    """Start a service for the length of a block."""
    await service.start()
    try:
        yield
    finally:
        await service.stop()


def settle_memory() -> None:
    """Take what start-up made out of the collector's sight, and let it look less often.

    Modules, settings and routes live as long as the process. What a request makes is freed by its reference count; a
    collector that looks every 700 objects through all of the rest was seen to stop the loop for over 50 ms under load.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def serve_until_signalled(service: Service, *, on_ready: str = "") -> int:
    """Run a service until SIGTERM or SIGINT and answer the exit status.

    The first signal stops gracefully. A second one ends the process at once: whoever sends it has waited long enough.
    """
    loop = asyncio.get_running_loop()
    asked_to_stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if asked_to_stop.is_set():
            os._exit(EXIT_AFTER_SIGNAL + number)
        log.info("stopping", signal=number.name)
        asked_to_stop.set()

    handled = (signal.SIGTERM, signal.SIGINT)
    for number in handled:
        loop.add_signal_handler(number, on_signal, number)
    try:
        starting = asyncio.ensure_future(service.start())
        asked = asyncio.ensure_future(asked_to_stop.wait())
        try:
            await asyncio.wait((starting, asked), return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                await asyncio.wait((starting,))
            elif (error := starting.exception()) is not None:
                raise error
            else:
                settle_memory()
                if on_ready:
                    log.info(on_ready)
                await asked
        finally:
            asked.cancel()
            await service.stop()
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
    return 0
