"""The engines over programs of this machine's user, and which of them can be offered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from vespid_agent.config import Pool
from vespid_agent.engines.claude import ClaudeCode
from vespid_agent.engines.cli import Cli
from vespid_agent.engines.codex import Codex
from vespid_agent.engines.folders import Folders
from vespid_agent.engines.probe import Probe
from vespid_agent.engines.turn import CliEngine
from vespid_agent.logs import Logger
from vespid_agent.settings import AgentSettings
from vespid_protocol.frames import EngineState


class Programs:
    """Each answers turns whether it is offered or not: then it says what is missing."""

    def __init__(self, engines: tuple[CliEngine, ...], probe: Probe) -> None:
        self.engines = engines
        self._probe = probe

    def recall(self) -> None:
        """Before the first hello: what was known when this agent last ran. Blocks on the disk."""
        self._probe.recall()

    async def look(self) -> bool:
        """Try each once, for who does not `watch`. Whether anything is other than before."""
        return await self._probe.look()

    @property
    def states(self) -> tuple[EngineState, ...] | None:
        """For hello; None: not known yet."""
        return self._probe.states

    def offered(self, engine_ids: Iterable[str]) -> tuple[str, ...]:
        """For hello: of these engines all but those whose program is not known to work."""
        ours = {engine.id for engine in self.engines}
        return tuple(name for name in engine_ids if name not in ours or name in self._probe.usable)

    async def watch(self, changed: Callable[[], None]) -> None:
        """The task that looks at them, soon and then now and then; `changed` is told what hello does not say yet."""
        await self._probe.watch(changed)


def programs_of(
    settings: AgentSettings, pool: Pool, root: Path, environment: Mapping[str, str], log: Logger
) -> Programs:
    """`root`: where these engines keep what is theirs. `environment`: the agent's own."""
    folders = Folders(root)
    grace_ms = settings.host_kill_grace_ms
    claude = Cli("claude", "VESPID_CLAUDE_CODE_PATH", settings.claude_code_path, environment, grace_ms)
    codex = Cli("codex", "VESPID_CODEX_PATH", settings.codex_path, environment, grace_ms)
    lends_login = pool != "managed" or settings.managed_model_keys == "on"
    engines = (
        CliEngine(ClaudeCode(), claude, folders, lends_login=lends_login),
        CliEngine(Codex(folders), codex, folders, lends_login=lends_login),
    )
    return Programs(engines, Probe(engines, folders, log))
