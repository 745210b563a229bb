"""What it takes to have the agent run as a service: files to write, and commands for the system's own manager.

    systemd (Linux) · launchd (macOS) · Task Scheduler (Windows)

The one thing to know: a plan is made without looking at the machine, so it can be shown, and be tested on any system;
`install.py` carries it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Scope: TypeAlias = Literal["user", "system"]
Verb: TypeAlias = Literal["install", "uninstall", "status", "start", "stop"]

# Stands in each file of ours. What lacks it was made by somebody else, and is neither replaced nor removed.
MARK = "Made by `vespid-agent service install`"
# Beyond the drain: acknowledgements of the last results (5 s), the end of work that did not stop (10 s), and some air.
STOP_AIR_S = 30


class ServiceInvalid(ValueError):
    """It cannot be made into a service; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """What is to run, as whom."""

    name: str = "vespid-agent"
    scope: Scope
    # Its beginning: the executable, and what it needs ahead of our own words.
    program: tuple[str, ...]
    config: Path
    env_file: Path
    # As whom a system's service runs; on Windows also a user's.
    user: str = ""
    # Of the user on macOS, whose launchd domain it is.
    uid: int = 0
    home: Path
    drain_ms: int = 30_000
    # Tasks run in sandboxes only, so that the service itself may be held tighter.
    is_walled: bool = False

    def __post_init__(self) -> None:
        for word in (self.name, self.user, *self.command):
            if not all(c.isprintable() for c in word):
                raise ServiceInvalid(f"{word!r} cannot be in the definition of a service")
        if not self.name or not all(c.isalnum() or c in "-_." for c in self.name):
            raise ServiceInvalid(f"--name is {self.name!r}; letters, digits, '-', '_' and '.' are possible")

    @property
    def command(self) -> tuple[str, ...]:
        """What the manager runs."""
        return (*self.program, "start", "--config", str(self.config), "--env-file", str(self.env_file))

    @property
    def stop_s(self) -> int:
        """How long it has for its end."""
        return -(-self.drain_ms // 1000) + STOP_AIR_S


@dataclass(frozen=True)
class File:
    """One that is written, and removed again."""

    path: Path
    content: bytes


@dataclass(frozen=True)
class Command:
    """One for the system's manager. `may_fail`: what it undoes may not be there."""

    words: tuple[str, ...]
    may_fail: bool = False


@dataclass(frozen=True)
class Plan:
    """Of one service, with the manager of one system."""

    files: tuple[File, ...]
    # By verb. Of `install` after the files are written; of `uninstall` before they are removed, the rest after it.
    commands: dict[Verb, tuple[Command, ...]]
    after_removal: tuple[Command, ...] = ()
    # For people, once it is installed.
    hints: tuple[str, ...] = ()
