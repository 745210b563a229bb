"""`vespid-agent status`: the lines, the JSON, and what they mean to a script."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import typer

from vespid_agent.config import AgentConfig
from vespid_agent.console import fail, out, plain
from vespid_agent.exit_code import ExitCode
from vespid_agent.status.reading import Reading, Verdict, read
from vespid_agent.status.shown import Line, lines

WATCH_S = 1.0

_CODES = {
    Verdict.RUNNING: ExitCode.STOPPED,
    Verdict.STARTING: ExitCode.STOPPED,
    Verdict.UNLINKED: ExitCode.UNLINKED,
    Verdict.HANGS: ExitCode.HANGS,
    Verdict.STOPPED: ExitCode.NOT_RUNNING,
}


@dataclass(frozen=True)
class Asked:
    """About whom, and how it is to be told."""

    config_file: Path
    # Empty: that of the identity.
    executor_id: str
    identity: AgentConfig | None
    as_json: bool

    def read(self) -> Reading:
        identity = self.identity
        try:
            return read(self.config_file, self.executor_id or (identity.executor_id if identity else ""))
        except OSError as error:
            fail(ExitCode.IDENTITY, f"{error.filename} cannot be read: {error.strerror}. Ask as the agent's user.")


def show(asked: Asked) -> ExitCode:
    """Once."""
    reading = asked.read()
    _print(asked, reading)
    return _CODES[reading.verdict]


def watch(asked: Asked, pause: Callable[[float], None] = time.sleep) -> ExitCode:
    """Again and again, until Ctrl-C: on a terminal in place, elsewhere whenever it has changed."""
    told: str | None = None
    try:
        while True:
            reading = asked.read()
            now = _json(asked, reading)
            if out.is_terminal and not asked.as_json:
                out.clear()
                _print(asked, reading)
            elif now != told:
                told = now
                _print(asked, reading)
            pause(WATCH_S)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def _print(asked: Asked, reading: Reading) -> None:
    if asked.as_json:
        typer.echo(_json(asked, reading))
        return
    for duty, words in (*_identity(asked), *lines(reading)):
        out.print(f"{duty:<12}  {plain(words)}")


def _identity(asked: Asked) -> list[Line]:
    who = asked.identity
    if who is None:
        return [("executor", asked.executor_id)]
    found = [
        ("name", who.name),
        ("executor", who.executor_id),
        ("organization", who.organization_id or ""),
        ("gateway", who.gateway_ws_url),
        ("tags", ", ".join(who.tags)),
        ("config", str(asked.config_file)),
    ]
    return [(what, words) for what, words in found if words]


def _json(asked: Asked, reading: Reading) -> str:
    who = asked.identity
    told = {
        "verdict": reading.verdict.value,
        "problem": reading.problem,
        "pid": reading.pid,
        "name": who.name if who else None,
        "executorId": who.executor_id if who else asked.executor_id,
        "organizationId": who.organization_id if who else None,
        "config": str(asked.config_file),
        "state": reading.state,
    }
    return msgspec.json.encode(told).decode()
