"""Processes as `ps` shows them, where there is no /proc: who belongs to whose task.

macOS shows nobody the environment of the system's own programs (/bin/sh, /usr/bin/…), not even their user: a token is
found only in what was installed besides.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from vespid_agent.sandbox import process_tree

_COLUMNS = "pid=,ppid=,pgid=,stat=,lstart=,command="
# `E` and `e`: the environment after the command. `ww`: however long.
_PS = ("ps", "-axEww", "-o", _COLUMNS) if sys.platform == "darwin" else ("ps", "axeww", "-o", _COLUMNS)
# So that dates are of one form, whatever the agent's locale and time zone.
_PS_ENV = {"PATH": "/bin:/usr/bin:/sbin:/usr/sbin", "LC_ALL": "C", "TZ": "UTC0"}
_PS_TIMEOUT_S = 10.0
# A second is how finely `ps` tells a start; some systems count it back from now, and are off by one more.
_START_TOLERANCE_S = 2


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    parent: int
    group: int
    # Seconds since 1970.
    started: int
    # With its environment, where the system shows it.
    command: str

    def started_at(self, seconds: int) -> bool:
        return abs(self.started - seconds) <= _START_TOLERANCE_S


async def listed() -> list[Process]:
    """All living processes; a zombie is none. Raises OSError."""
    return parse(await _output(*_PS))


def parse(text: str) -> list[Process]:
    found = []
    for line in text.splitlines():
        # The date is five words: Mon Nov 23 13:14:00 2026.
        fields = line.split(None, 9)
        if len(fields) < 9 or fields[3].startswith("Z"):
            continue
        started = datetime.strptime(" ".join(fields[4:9]), "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC)
        command = fields[9] if len(fields) > 9 else ""
        found.append(Process(int(fields[0]), int(fields[1]), int(fields[2]), int(started.timestamp()), command))
    return found


def of_task(processes: Iterable[Process], token: str, group: int | None) -> list[int]:
    """Whoever has the token or is in the group, and all below them; never the agent itself."""
    everyone = list(processes)
    carried = f"{process_tree.TOKEN_VARIABLE}={token}"
    found = {process.pid for process in everyone if process.group == group or carried in process.command}
    grown = True
    while grown:
        below = {process.pid for process in everyone if process.parent in found} - found
        found |= below
        grown = bool(below)
    return sorted(found - {os.getpid()})


async def boot_id() -> str:
    """Another one after each start of the machine."""
    with contextlib.suppress(OSError):
        return process_tree.boot_id()
    with contextlib.suppress(OSError):  # only macOS has it
        return await _output("sysctl", "-n", "kern.bootsessionuuid")
    # `{ sec = 1764000000, usec = 12 } …`: the seconds move a little when the clock is set.
    return await _output("sysctl", "-n", "kern.boottime")


async def _output(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        env=_PS_ENV,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_PS_TIMEOUT_S):
            out, _ = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise OSError(f"`{command[0]}` ended with {process.returncode}")
    return out.decode("utf-8", "replace").strip()
