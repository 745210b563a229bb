"""Which engines this agent has: the one place where they are put together."""

from __future__ import annotations

from collections.abc import Sequence

from vespid_agent.config import Pool
from vespid_agent.model_keys import configured_models
from vespid_agent.settings import AgentSettings
from vespid_runtime.egress import GuardedHttp
from vespid_runtime.engines.echo import EchoEngine
from vespid_runtime.engines.engine import Engine
from vespid_runtime.engines.loop import LoopEngine
from vespid_runtime.models.calls import Models
from vespid_runtime.models.registry import Providers


def installed_engines(settings: AgentSettings, pool: Pool, http: GuardedHttp) -> Sequence[Engine]:
    """In the order in which `hello` names them. `http` is for models, and started by its owner."""
    models = Models(Providers(http, configured_models(settings, pool)))
    return (LoopEngine(models), EchoEngine())
