"""The engines that a process has, by name."""

from __future__ import annotations

from collections.abc import Iterable

from vespid_protocol.codes import Code
from vespid_runtime.engines.engine import Engine, EngineError
from vespid_runtime.engines.names import SPELLINGS


class Engines:
    """Asked by any accepted spelling."""

    def __init__(self, engines: Iterable[Engine]) -> None:
        self._engines = {engine.id: engine for engine in engines}

    @property
    def ids(self) -> tuple[str, ...]:
        """What `hello.capabilities.engines` says."""
        return tuple(self._engines)

    def get(self, engine_id: str) -> Engine:
        """Raises EngineError EXECUTOR_UNSUPPORTED_ENGINE."""
        engine = self._engines.get(SPELLINGS.get(engine_id, engine_id))
        if engine is None:
            had = ", ".join(self._engines) or "none"
            raise EngineError(
                Code.EXECUTOR_UNSUPPORTED_ENGINE, f"there is no engine {engine_id[:64]} here; it has {had}"
            )
        return engine
