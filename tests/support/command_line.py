"""The program `vespid` as people and scripts run it: a process with a profile file of its own; or at a terminal."""

import asyncio
import json
import os
import pty
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest
from tests.support.processes import BIN

VESPID = str(BIN / "vespid")
WITHIN_S = 60.0
_OWN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@dataclass(frozen=True)
class Said:
    """What a command said, and what it ended with."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout, which holds one document and nothing else."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """stdout of a stream, a document per line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Terminal:
    """A terminal with a program in it."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self.process = process
        self._master = master
        # All that was shown so far, escape sequences included.
        self.shown = ""
        self._news = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    def type(self, text: str) -> None:
        """As from a keyboard: `\\x03` is Ctrl-C, `\\x04` is Ctrl-D."""
        os.write(self._master, text.encode())

    async def shows(self, text: str, times: int = 1) -> None:
        """Wait until it has shown this so often."""
        try:
            async with asyncio.timeout(WITHIN_S):
                while self.shown.count(text) < times:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pytest.fail(f"the terminal did not show {text!r}:\n{self.shown}")

    async def end(self) -> int:
        """Wait for the program's end."""
        async with asyncio.timeout(WITHIN_S):
            return await self.process.wait()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)

    def _read(self) -> None:
        try:
            self.shown += os.read(self._master, 65_536).decode("utf-8", "replace")
        except OSError:
            # Its other side is closed: the program has ended.
            asyncio.get_running_loop().remove_reader(self._master)
        self._news.set()


class CommandLine:
    """One person at one machine."""

    def __init__(self, folder: Path, api_base: str) -> None:
        self.folder = folder
        self.config = folder / "vespid" / "config.json"
        self.env: dict[str, str] = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "VESPID_CONFIG": str(self.config),
            "VESPID_API_BASE": api_base,
            "TZ": "UTC",
            "LANG": "C.UTF-8",
        }

    async def __call__(
        self, *args: str, stdin: str | None = None, status: int | None = 0, env: Mapping[str, str] | None = None
    ) -> Said:
        """Run `vespid <args>` to its end; any other status than `status` fails the test."""
        process = await self.start(*args, env=env)
        async with asyncio.timeout(WITHIN_S):
            out, err = await process.communicate((stdin or "").encode())
        said = Said(process.returncode or 0, out.decode(), err.decode())
        if status is not None and said.status != status:
            pytest.fail(f"vespid {' '.join(args)} ended with {said.status}, not {status}:\n{said.out}\n{said.err}")
        return said

    async def start(self, *args: str, env: Mapping[str, str] | None = None) -> asyncio.subprocess.Process:
        """Begin `vespid <args>`."""
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            VESPID, *args, stdin=pipe, stdout=pipe, stderr=pipe, env={**self.env, **(env or {})}, cwd=self.folder
        )

    @asynccontextmanager
    async def terminal(self, *args: str, columns: int = 100) -> AsyncIterator[Terminal]:
        """Run `vespid <args>` at a terminal."""
        master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        # A shell gives each program the terminal: only so does Ctrl-C reach it.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _OWN_TERMINAL, VESPID, *args),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**self.env, "TERM": "xterm-256color"},
            cwd=self.folder,
            start_new_session=True,
        )
        os.close(slave)
        shown = Terminal(process, master)
        try:
            yield shown
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
                await process.wait()
            shown.close()
