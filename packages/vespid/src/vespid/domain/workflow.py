"""Parsing and validating a workflow's DSL, versions v2 and v3, into a `Workflow` with its `Plan`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from vespid.domain.plan import Plan


class Issue(msgspec.Struct, frozen=True, rename="camel"):
    """One thing that is wrong: where (a dotted path into the DSL), and how to put it right."""

    code: str
    path: str
    message: str


class WorkflowInvalid(ValueError):
    """The DSL is not a workflow; `issues` says all that was found."""

    def __init__(self, issues: list[Issue]) -> None:
        super().__init__("; ".join(f"{issue.path}: {issue.message}" for issue in issues))
        self.issues = issues

    def details(self) -> dict[str, object]:
        """`details` of the 400: `fieldErrors {path:[message]}`, and `issues` where the graph is at fault."""
        raise NotImplementedError


class Trigger(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """How runs start. `cron` and `timezone` are set for `trigger.cron` only."""

    type: Literal["trigger.manual", "trigger.webhook", "trigger.cron"]
    cron: str | None = None
    timezone: str = "UTC"


class Workflow(msgspec.Struct, frozen=True):
    """A valid workflow."""

    version: Literal["v2", "v3"]
    trigger: Trigger
    plan: Plan


# What is known of connectors: (connectorId, actionId) → None where it exists, else a message that says what does.
ConnectorCheck = Callable[[str, str], str | None]


def parse(dsl: object, *, check_connector: ConnectorCheck | None = None) -> Workflow:
    """The workflow of a decoded DSL document (or its JSON as bytes). Raises WorkflowInvalid with every issue found.

    `check_connector` is asked at the edge where a workflow is written; stored revisions are parsed without it.
    """
    raise NotImplementedError
