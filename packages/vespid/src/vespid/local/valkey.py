"""The embedded Valkey: soft state only, nothing on disk, on a loopback port behind a password of this start."""

import asyncio
import os
import secrets
import signal
import socket
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from vespid.local.binaries import Binaries
from vespid.local.child import Child, StartFailed
from vespid.local.folder import DataFolder

LOOPBACK = "127.0.0.1"
READY_WITHIN_S = 20.0
STOP_WITHIN_S = 5.0
# Somebody else may take the port between our choosing it and the server's binding it.
PORT_TRIES = 5


class EmbeddedValkey:
    """A Valkey of our own, empty at every start."""

    def __init__(self, folder: DataFolder, binaries: Binaries) -> None:
        self._folder = folder
        self._program = binaries.valkey_server
        self._password = secrets.token_urlsafe(24)
        self._port = 0
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """The URL, once started."""
        return f"redis://:{self._password}@{LOOPBACK}:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._child.pid if self._child is not None else None

    async def start(self) -> None:
        """Start on a free port."""
        if self._child is not None:
            return
        for attempt in range(1, PORT_TRIES + 1):
            self._port = free_port()
            child = self._describe_child(await asyncio.to_thread(self._write_config))
            try:
                await child.start()
            except StartFailed:
                if attempt == PORT_TRIES:
                    raise
            else:
                self._child = child
                return

    async def stop(self) -> None:
        """Stop; what it knew is forgotten."""
        if self._child is not None:
            child, self._child = self._child, None
            await child.stop()

    def _write_config(self) -> Path:
        # In a file and not among the arguments: every user of the machine can read those.
        config = self._folder.run / "valkey.conf"
        lines = [
            f"bind {LOOPBACK}",
            f"port {self._port}",
            f"requirepass {self._password}",
            'save ""',
            "appendonly no",
            "daemonize no",
            "maxmemory-policy noeviction",
            f"dir {_quoted(self._folder.run)}",
        ]
        config.touch(mode=0o600)
        config.write_text("\n".join(lines) + "\n")
        return config

    def _describe_child(self, config: Path) -> Child:
        if (account := self._folder.account) is not None:
            os.chown(config, account.uid, account.gid)
        return Child(
            "valkey",
            [self._program, config],
            account=account,
            log_file=self._folder.log / "valkey.log",
            is_ready=self._answers,
            stop_signal=signal.SIGTERM,
            ready_within_s=READY_WITHIN_S,
            stop_within_s=STOP_WITHIN_S,
        )

    async def _answers(self) -> bool:
        client = Redis.from_url(self.url, socket_connect_timeout=1, socket_timeout=1)
        try:
            return bool(await client.ping())
        except (OSError, RedisError):
            return False
        finally:
            await client.aclose()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
