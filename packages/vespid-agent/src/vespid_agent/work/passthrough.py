"""Which of the agent's own variables a task may be given: what its node asks for, as far as this agent allows it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from vespid_agent.config import Pool

# Ours, and never a task's.
_OURS = "VESPID_"
# Only where the operator names them, not where a pattern happens to cover them.
_ONLY_BY_NAME = frozenset({"DATABASE_URL", "REDIS_URL"})
# `<uuid>.<three letters>_<random>`: every token that a control plane gives out.
_OUR_TOKEN = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.[a-z]{3}_[A-Za-z0-9_-]{20}", re.IGNORECASE)
_SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD")


@dataclass(frozen=True, slots=True)
class Passed:
    """What becomes of one task's wishes."""

    variables: dict[str, str]
    # Names that were asked for and are not given, whether there is such a variable or not.
    refused: tuple[str, ...]

    @property
    def secrets(self) -> list[str]:
        """Values that no output may show, going by their variables' names."""
        return [value for name, value in self.variables.items() if looks_secret(name)]


class Passthrough:
    """The agent's environment, behind what its operator lets through."""

    def __init__(self, allowed: Sequence[str], environment: Mapping[str, str]) -> None:
        """`allowed`: names and globs."""
        self._allowed = tuple(allowed)
        self._environment = environment

    def choose(self, asked: Iterable[str]) -> Passed:
        variables: dict[str, str] = {}
        refused: list[str] = []
        for name in dict.fromkeys(asked):
            value = self._environment.get(name, "")
            if not self._may_pass(name) or _OUR_TOKEN.search(value):
                refused.append(name)
            elif name in self._environment:
                variables[name] = value
        return Passed(variables, tuple(refused))

    def _may_pass(self, name: str) -> bool:
        if name.upper().startswith(_OURS):
            return False
        if name.upper() in _ONLY_BY_NAME:
            return name in self._allowed
        return any(fnmatchcase(name, pattern) for pattern in self._allowed)


def allowed(named: Sequence[str], pool: Pool) -> Sequence[str]:
    """A managed agent's tasks are strangers': what they get of its environment is named by its operator."""
    return named or (() if pool == "managed" else ("*",))


def looks_secret(name: str) -> bool:
    return any(word in name.upper() for word in _SECRET_WORDS)
