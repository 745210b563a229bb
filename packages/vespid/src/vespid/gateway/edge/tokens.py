"""Sockets outlive the token that let them in: when it is rotated, how long each of them may stay.

The database is asked once per rotation and socket, since only it knows whether a socket came by the new token, by the
one of before, or by a still older one; the end itself is on the wheel.
"""

import asyncio

import structlog

from vespid.gateway.edge.connection import Connection
from vespid.gateway.edge.registry import AGAIN_S, Registry
from vespid.store.connections import authenticate
from vespid.store.failure import STORE_AWAY
from vespid.store.pool import Database
from vespid.tasks import Tasks
from vespid_protocol.ids import ExecutorId

log = structlog.get_logger("vespid.gateway.edge.tokens")


class Tokens:
    """Judges the tokens of open sockets."""

    def __init__(self, db: Database, registry: Registry, tasks: Tasks) -> None:
        self._db = db
        self._registry = registry
        self._tasks = tasks
        # Rotations heard of so far. A socket that was let in before one of them and is known here only after it has
        # to be judged as it is opened.
        self.rotations = 0

    def rotated(self, executor_id: ExecutorId) -> None:
        """It has a new token."""
        self.rotations += 1
        for socket in self._registry.sockets_of(executor_id):
            self.judge(socket)

    def judge(self, socket: Connection) -> None:
        """Find out how long it may stay."""
        self._tasks.start(self._judge(socket))

    async def _judge(self, socket: Connection) -> None:
        while not socket.is_over:
            try:
                known = await authenticate(self._db, socket.token_sha256)
            except STORE_AWAY as error:
                # Nobody else would ever close it.
                log.warning("rotated_token_not_judged", executor_id=socket.executor_id, error=repr(error))
                await asyncio.sleep(AGAIN_S)
            else:
                socket.token_lasts(0 if known is None else known.token_left_ms)
                return
