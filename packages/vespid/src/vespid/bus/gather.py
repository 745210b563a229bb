"""Calls of one script on one partition that are made within one turn of the loop, as one call.

Results and requests come in bursts, and what a script does before it looks at its arguments costs as much as the rest.
The script takes `now` and then its arguments per request, and answers `{ an answer of each, handed }`.
"""

import asyncio
from collections.abc import Callable
from functools import partial

from vespid.bus.address import Argument
from vespid.bus.connection import Connection, Reply
from vespid.bus.errors import BusReplyError
from vespid.bus.scripts import Script

# Redis does nothing else while a script runs: more than this is more calls.
CALLS_MAX = 64

# One caller's answer, and what the script handed out: the first caller who is still there gets that.
Gathered = tuple[Reply, Reply]
_Waiting = tuple[tuple[Argument, ...], "asyncio.Future[Gathered]"]


class Gather:
    """See the module. `now` is asked once per call."""

    def __init__(self, connection: Connection, script: Script, now: Callable[[], int]) -> None:
        self._connection = connection
        self._script = script
        self._now = now
        # By key of the partition, in the order they came.
        self._waiting: dict[str, list[_Waiting]] = {}

    def call(self, key: str, *arguments: Argument) -> "asyncio.Future[Gathered]":
        """The future fails with `BusUnavailable` or `BusReplyError`."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._flush)
        future: asyncio.Future[Gathered] = loop.create_future()
        self._waiting.setdefault(key, []).append((arguments, future))
        return future

    def _flush(self) -> None:
        gathered, self._waiting = self._waiting, {}
        for key, waiting in gathered.items():
            for start in range(0, len(waiting), CALLS_MAX):
                self._send("EVALSHA", self._script.digest, key, waiting[start : start + CALLS_MAX])
        self._connection.flush()

    def _send(self, command: str, script: str, key: str, waiting: list[_Waiting]) -> None:
        arguments = [argument for asked, _ in waiting for argument in asked]
        call = self._connection.call(command, script, 1, key, self._now(), *arguments)
        call.add_done_callback(partial(self._answer, key, waiting))

    def _answer(self, key: str, waiting: list[_Waiting], call: "asyncio.Future[Reply]") -> None:
        error = BusReplyError("the call was cancelled") if call.cancelled() else call.exception()
        if isinstance(error, BusReplyError) and str(error).startswith("NOSCRIPT"):
            self._send("EVAL", self._script.source, key, waiting)
            return
        reply = None if error is not None else call.result()
        if error is None and not (isinstance(reply, list) and len(reply) == 2 and _has(reply[0], len(waiting))):
            error = BusReplyError(f"unexpected reply from {self._script.name}: {reply!r}")
        handed = reply[1] if isinstance(reply, list) else None
        for place, (_, future) in enumerate(waiting):
            if future.done():
                continue
            if error is not None:
                future.set_exception(error)
            elif isinstance(reply, list) and isinstance(reply[0], list):
                future.set_result((reply[0][place], handed))
                handed = []


def _has(answers: Reply, count: int) -> bool:
    return isinstance(answers, list) and len(answers) == count
