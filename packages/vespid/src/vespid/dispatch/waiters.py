"""Callers that wait for a result: woken by the message that it is there, and by a slow look for lost ones.

The look is one statement over all of them, for those that have waited longer than it takes; a message that comes makes
it needless.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator

import msgspec
import structlog

from vespid.bus.messages import OfferAnswered, OfferRefused, ResultReady
from vespid.store.executions import ExecutionStore
from vespid.store.failure import STORE_FAILED
from vespid_protocol.ids import RequestId

log = structlog.get_logger("vespid.dispatch.waiters")

LOOK_S = 2.0


class Ended(msgspec.Struct, frozen=True):
    """The request is terminal. `output` None: there is none."""

    status: str
    output: bytes | None
    error: str | None


class Unanswered(msgspec.Struct, frozen=True):
    """The edge that was offered the request has not said a word."""


Notice = Ended | OfferRefused | OfferAnswered | Unanswered


class Waiters:
    """A Service."""

    def __init__(self, executions: ExecutionStore) -> None:
        self._executions = executions
        self._waiting: defaultdict[RequestId, list[asyncio.Future[Notice]]] = defaultdict(list)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._look(), name="waiters")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @contextlib.contextmanager
    def wait(self, request_id: RequestId) -> "Iterator[asyncio.Future[Notice]]":
        """A future for the next notice about the request, kept until the block ends."""
        future: asyncio.Future[Notice] = asyncio.get_running_loop().create_future()
        self._waiting[request_id].append(future)
        try:
            yield future
        finally:
            waiting = self._waiting[request_id]
            waiting.remove(future)
            if not waiting:
                del self._waiting[request_id]

    def result(self, ready: ResultReady) -> None:
        """A result is there."""
        if ready.is_whole:
            output = bytes(ready.output) if isinstance(ready.output, msgspec.Raw) else None
            error = msgspec.json.decode(ready.error, type=str) if isinstance(ready.error, msgspec.Raw) else None
            self._tell(ready.request_id, Ended(ready.status, output, error))
        else:
            self._tell(ready.request_id, OfferAnswered(ready.request_id, "exists"))

    def refused(self, notice: OfferRefused) -> None:
        self._tell(notice.request_id, notice)

    def answered(self, notice: OfferAnswered) -> None:
        self._tell(notice.request_id, notice)

    def _tell(self, request_id: RequestId, notice: Notice) -> None:
        for future in self._waiting.get(request_id, ()):
            if not future.done():
                future.set_result(notice)

    async def _look(self) -> None:
        before: set[RequestId] = set()
        while True:
            await asyncio.sleep(LOOK_S)
            # Only those that were there at the last look: the others' messages are on their way.
            old = [request_id for request_id in self._waiting if request_id in before]
            before = set(self._waiting)
            try:
                for row in await self._executions.read_ended(old) if old else ():
                    self._tell(RequestId(row.request_id), Ended(row.state, row.output, row.error))
            except STORE_FAILED as error:
                log.warning("results_not_read", error=repr(error))
