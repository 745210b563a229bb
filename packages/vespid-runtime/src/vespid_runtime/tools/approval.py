"""Tools that a person has to allow, call by call.

A call that needs a person is not made: the loop is put away (`Parked`), with what it wants to do shown to people, and
is taken out again when they have decided. Approved is one call in one place with the very arguments that were shown;
another one asks anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

# Who may decide; each includes those before it in `owner > admin > member`.
ApprovalRole: TypeAlias = Literal["owner", "admin", "member"]


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    pass


class ApprovalRule(_Part, frozen=True, kw_only=True):
    """What a workflow says of a node or a tool: who decides, and by when."""

    by: ApprovalRole = "admin"
    timeout_ms: Annotated[int, Meta(ge=1_000, le=30 * 86_400_000)] = 86_400_000


class ApprovalAsked(_Part, frozen=True, kw_only=True):
    """A call that waits for a person."""

    # Its place among all calls that the model asked for, from 0.
    n: int
    tool: str
    arguments: dict[str, object]
    # Of the arguments: what is approved is this and nothing else.
    digest: str
    by: ApprovalRole
    timeout_ms: int


class ApprovalDecided(_Part, frozen=True, kw_only=True):
    """What became of it. `expired`: nobody decided in time."""

    n: int
    tool: str
    digest: str
    decision: Literal["approved", "denied", "expired"]
    # What the person said.
    comment: str | None = None


class Approvals:
    """The rules of one node, and what was decided so far."""

    def __init__(
        self, rules: Mapping[str, ApprovalRule] | None = None, decided: Sequence[ApprovalDecided] = ()
    ) -> None:
        """`rules`: by tool id or glob (`connector.github.*`); the longest that matches holds."""
        self._rules = sorted((rules or {}).items(), key=lambda rule: (-len(rule[0]), rule[0]))
        self._decided = {(each.n, each.tool, each.digest): each for each in decided}

    def rule(self, tool: str) -> ApprovalRule | None:
        """None: nobody has to be asked."""
        return next((rule for pattern, rule in self._rules if fnmatchcase(tool, pattern)), None)

    def decision(self, n: int, tool: str, digest: str) -> ApprovalDecided | None:
        """None: nobody has decided yet."""
        return self._decided.get((n, tool, digest))
