"""What the tests of tools share: the scope of one request in a folder of its own, and the sandboxes of this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vespid_agent.backends import Backends
from vespid_agent.logs import get_logger
from vespid_agent.sandbox.bubblewrap import BubblewrapBackend
from vespid_agent.sandbox.host import HostBackend
from vespid_agent.sandbox.limits import Limits
from vespid_agent.sandbox.task import Backend
from vespid_agent.sandbox.workdir import Workdirs
from vespid_agent.settings import AgentSettings
from vespid_agent.tools.sandboxed import Sandboxed
from vespid_agent.tools.scope import ToolScope
from vespid_agent.work.shells import Shells
from vespid_runtime.tools.tool import ToolUse

USE = ToolUse(n=3, key="run:n1:tool:3", timeout_ms=20_000)


@dataclass
class Told:
    """What a request's tools streamed and marked."""

    events: list[tuple[str, str, str | None, object]] = field(default_factory=list)
    marks: list[tuple[str, str]] = field(default_factory=list)

    def emit(self, kind: str, level: str, message: str | None, payload: object) -> None:
        self.events.append((kind, level, message, payload))

    async def mark(self, key: str, mark: str) -> None:
        self.marks.append((key, mark))


@dataclass
class Ground:
    """One agent's sandboxes, and a way to make requests."""

    workdirs: Workdirs
    shells: Shells
    told: Told = field(default_factory=Told)

    @property
    def sandboxed(self) -> Sandboxed:
        return Sandboxed(self.shells)

    def scope(self, node: str = "n1", **more: object) -> ToolScope:
        return ToolScope(
            organization_id="org",
            user_id="user",
            request_id=f"run:{node}:1",
            run_id="run",
            node_id=node,
            workdir=self.workdirs.open("run", node),
            emit=self.told.emit,
            mark=self.told.mark,
            **more,  # type: ignore[arg-type]
        )


MakeGround = Callable[..., Ground]


@pytest.fixture
def make_ground() -> Iterator[MakeGround]:
    # Not tmp_path: its parents are closed to other users.
    with tempfile.TemporaryDirectory(prefix="vespid-test-") as folder:

        def make(backend: Backend | None, **settings: object) -> Ground:
            workdirs = Workdirs(Path(folder) / "work")
            name = "docker" if backend is None else backend.name
            backends = Backends([], get_logger("test"), defaults=(name,), refused={})
            if backend is not None:
                backends.found[backend.name] = backend
            return Ground(workdirs, Shells(AgentSettings(**settings), backends, workdirs))  # type: ignore[arg-type]

        yield make


def backend_called(name: str) -> Backend:
    if name == "host":
        return HostBackend(kill_grace_ms=200)
    return BubblewrapBackend(limits=Limits(memory_mb=256, cpus=1, pids=64), kill_grace_ms=200)


@pytest.fixture(params=["host", "bubblewrap"])
def ground(request: pytest.FixtureRequest, make_ground: MakeGround) -> Ground:
    """On each of the sandboxes that need nothing but this machine."""
    return make_ground(backend_called(request.param))


@pytest.fixture
def host(make_ground: MakeGround) -> Ground:
    return make_ground(backend_called("host"))


@pytest.fixture
def walled(make_ground: MakeGround) -> Ground:
    return make_ground(backend_called("bubblewrap"))
