"""Whether the programs behind engines are there, work and are logged in: looked at when the agent starts, and again.

    present ──▶ says a version ──▶ has the options that it is driven by ──▶ logged in?

The one thing to know: nobody waits for this. The agent says hello with what was known when it last ran, and again when
it knows better; a program that hangs is given up. One that is not logged in is offered all the same, for a turn may
bring a key.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence

from vespid_agent.engines.cli import Start
from vespid_agent.engines.folders import Folders
from vespid_agent.engines.turn import CliEngine, Login
from vespid_agent.logs import Logger
from vespid_protocol.frames import EngineState
from vespid_runtime.engines.engine import EngineError

# How long it takes at most to notice that a program was installed, updated or logged in.
LOOK_S = 600.0
# For one question.
PATIENCE_MS = 30_000
# Of what a program answers.
_ANSWER_MAX_CHARS = 200_000
_PROBLEM_MAX_CHARS = 500

_VERSION = re.compile(r"\d+\.\d+\.\d+[\w.+-]*")


def _path(engine: CliEngine) -> str | None:
    try:
        return str(engine.cli.find())
    except EngineError:
        return None


class Unusable(Exception):
    """Why the program cannot be used; for people."""


class Probe:
    """What is known of the programs. `look` and `watch` from one task."""

    def __init__(self, engines: Sequence[CliEngine], folders: Folders, log: Logger) -> None:
        self._engines = tuple(engines)
        self._folders = folders
        self._log = log
        # None: not looked at yet.
        self.states: tuple[EngineState, ...] | None = None

    def recall(self) -> None:
        """What an earlier process of this agent found, where the programs are where they were. Blocks on the disk."""
        known = {state.id: state for state in self._folders.states()}
        found = [known[engine.id] for engine in self._engines if engine.id in known]
        paths = {engine.id: _path(engine) for engine in self._engines}
        self.states = tuple(state for state in found if state.path == paths[state.id]) or None

    @property
    def usable(self) -> tuple[str, ...]:
        """The engines that may be given work."""
        return tuple(state.id for state in self.states or () if state.available)

    async def look(self) -> bool:
        """Whether anything is other than before."""
        states = tuple(await asyncio.gather(*(self._state(engine) for engine in self._engines)))
        if states == self.states:
            return False
        for state in states:
            self._log.info("engine", engine=state.id, available=state.available, problem=state.problem)
        self.states = states
        await asyncio.to_thread(self._folders.keep_states, states)
        return True

    async def watch(self, changed: Callable[[], None]) -> None:
        """The task that looks, now and then; `changed` is told when something is other than before."""
        await asyncio.to_thread(self._folders.sweep)
        while True:
            if await self.look():
                changed()
            await asyncio.sleep(LOOK_S)

    async def _state(self, engine: CliEngine) -> EngineState:
        path = version = None
        try:
            path = str(await asyncio.to_thread(engine.cli.find))
            login = await asyncio.to_thread(engine.dialect.login, engine.cli.environment)
            version = await self._version(engine, login)
            await self._check_options(engine, login)
            logged_in, problem = await self._login(engine, login)
        except (Unusable, EngineError, OSError) as reason:
            problem = reason.message if isinstance(reason, EngineError) else str(reason)
            return EngineState(
                id=engine.id, available=False, version=version, problem=problem[:_PROBLEM_MAX_CHARS], path=path
            )
        return EngineState(
            id=engine.id, available=True, version=version, logged_in=logged_in, problem=problem, path=path
        )

    async def _version(self, engine: CliEngine, login: Login) -> str:
        said, status = await self._say(engine, ("--version",), login.env)
        found = _VERSION.search(said)
        if status != 0 or found is None:
            raise Unusable(f"`{engine.cli.name} --version` ended with status {status} and said: {said.strip()[:200]!r}")
        return found[0]

    async def _check_options(self, engine: CliEngine, login: Login) -> None:
        said, _ = await self._say(engine, engine.dialect.help_arguments, login.env)
        missing = [option for option in engine.dialect.needed if option not in said]
        if missing:
            raise Unusable(f"this version of `{engine.cli.name}` has no {', '.join(missing)}: update it")

    async def _login(self, engine: CliEngine, login: Login) -> tuple[bool, str | None]:
        if login.known:
            return True, None
        _, status = await self._say(engine, login.arguments, login.env)
        return (True, None) if status == 0 else (False, login.advice)

    async def _say(self, engine: CliEngine, arguments: tuple[str, ...], env: Mapping[str, str]) -> tuple[str, int]:
        """What it answers, and its status. Raises Unusable where it does not end."""
        said: list[str] = []
        size = 0

        def take(text: str) -> None:
            nonlocal size
            if size < _ANSWER_MAX_CHARS:
                said.append(text)
            size += len(text)

        workdir = await asyncio.to_thread(self._folders.workdir, "probe")
        start = Start(arguments=arguments, env=env, workdir=workdir, timeout_ms=PATIENCE_MS)
        ended = await engine.cli.run(start, take)
        if ended.exit_code is None:
            words = " ".join((engine.cli.name, *arguments))
            raise Unusable(f"`{words}` did not end within {PATIENCE_MS / 1000:.0f} s")
        return "".join(said)[:_ANSWER_MAX_CHARS], ended.exit_code
