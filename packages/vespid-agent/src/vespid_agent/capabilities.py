"""What this agent says it can do, in `hello` and when it pairs."""

from __future__ import annotations

from collections.abc import Iterable

from vespid_agent.settings import AgentSettings
from vespid_agent.work import action, agent_run, execute
from vespid_protocol.frames import Capabilities, EngineState, ToolOffer, ToolProblem
from vespid_runtime.connectors import Registry, registry
from vespid_runtime.engines.names import ECHO, LOOP

# Those of every agent.
OWN_ENGINES = (LOOP, ECHO)
KINDS = (action.KIND, execute.KIND, agent_run.KIND)


def describe(
    settings: AgentSettings,
    tags: tuple[str, ...],
    connectors: Registry | None = None,
    backends: Iterable[str] | None = None,
    engines: Iterable[str] = OWN_ENGINES,
    engine_states: Iterable[EngineState] | None = None,
    tools: tuple[ToolOffer, ...] | None = None,
    tool_problems: tuple[ToolProblem, ...] | None = None,
) -> Capabilities:
    """`connectors`: the registry in use, loaded here where there is none yet. `backends`, `engine_states` and `tools`:
    None while not known."""
    loaded = connectors if connectors is not None else registry()
    return Capabilities(
        kinds=KINDS,
        connectors=tuple(loaded.ids()),
        tags=tags,
        max_in_flight=settings.max_in_flight,
        engines=tuple(engines),
        engine_states=None if engine_states is None else tuple(engine_states),
        backends=None if backends is None else tuple(backends),
        tools=tools,
        tool_problems=tool_problems,
    )
