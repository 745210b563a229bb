"""A server program as a child of ours: started, watched, started again when it dies, stopped by a signal."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog

from vespid.local.account import Account, becoming
from vespid.service import StartRefused

log = structlog.get_logger("vespid.local.child")

READY_POLL_S = 0.01
RESTART_PAUSE_S = 0.5
RESTART_PAUSE_CAP_S = 10.0
LOG_TAIL_BYTES = 2_000


class StartFailed(StartRefused):
    """A server did not become ready; the message carries the end of its log."""


class Child:
    """One server program, kept running between `start` and `stop`."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        account: Account | None,
        log_file: Path,
        is_ready: Callable[[], Awaitable[bool]],
        stop_signal: signal.Signals,
        ready_within_s: float,
        stop_within_s: float,
    ) -> None:
        self._name = name
        self._argv = [str(part) for part in argv]
        self._account = account
        self._log_file = log_file
        self._is_ready = is_ready
        self._stop_signal = stop_signal
        self._ready_within_s = ready_within_s
        self._stop_within_s = stop_within_s
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Start the program and wait until it is ready. Raises StartFailed."""
        if self._watching is not None:
            return
        await self._launch()
        self._watching = asyncio.get_running_loop().create_task(self._keep_running(), name=f"{self._name}-watch")

    async def stop(self) -> None:
        """Ask the program to stop; end it when it has not stopped in time."""
        if self._watching is not None:
            watching, self._watching = self._watching, None
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        await self._end()

    async def _launch(self) -> None:
        with self._log_file.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env={"PATH": os.defpath, "LANG": "C.UTF-8", "TZ": "UTC"},
                # A Ctrl-C in the terminal is for us; we stop our children in order.
                start_new_session=True,
                preexec_fn=becoming(self._account, when_orphaned=self._stop_signal),
            )
        try:
            async with asyncio.timeout(self._ready_within_s):
                while not await self._is_ready():
                    if self._process.returncode is not None:
                        raise StartFailed(f"{self._name} ended with status {self._process.returncode}{self._tail()}")
                    await asyncio.sleep(READY_POLL_S)
        except TimeoutError:
            await self._end()
            raise StartFailed(f"{self._name} was not ready after {self._ready_within_s:.0f} s{self._tail()}") from None
        except BaseException:
            await self._end()
            raise

    async def _keep_running(self) -> None:
        pause_s = RESTART_PAUSE_S
        while True:
            if self._process is not None:
                status = await self._process.wait()
                log.error("embedded_server_died", server=self._name, status=status, log_file=str(self._log_file))
                self._process = None
            try:
                await self._launch()
            except (StartFailed, OSError) as error:
                log.error("embedded_server_restart_failed", server=self._name, error=str(error))
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RESTART_PAUSE_CAP_S)
            else:
                log.warning("embedded_server_restarted", server=self._name)
                pause_s = RESTART_PAUSE_S

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.send_signal(self._stop_signal)
        try:
            async with asyncio.timeout(self._stop_within_s):
                await process.wait()
        except TimeoutError:
            log.warning("embedded_server_killed", server=self._name)
            process.kill()
            await process.wait()

    def _tail(self) -> str:
        with contextlib.suppress(OSError):
            end = self._log_file.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
            return f"; the end of {self._log_file}:\n{end}" if end else ""
        return ""
