"""What every tool is: something that a model may have called, with a schema of what it takes.

    answer = await tool.call(arguments, use)

A tool is given arguments that fit its schema, and answers a JSON value. What it says is cut, redacted and told by its
caller. It is stopped by cancelling it, and then ends what it began. The one thing to know: a call may come again after
a crash, with the same key, so whatever a tool does for the outside world it does under that key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class ToolError(Exception):
    """The call failed, with a code of the contract. The message is for the model and for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """One call."""

    # Its place among all calls that the model asked for, from 0.
    n: int
    # `<runId>:<nodeId>:tool:<n>`, or the turn's key with the same behind it: the same for this call in every try.
    key: str
    # What the call may take at most.
    timeout_ms: int


class Tool(Protocol):
    """One that the host has."""

    @property
    def id(self) -> str:
        """As in `tools.allow`: `memory.search`, `connector.github.issue.create`."""
        ...

    @property
    def description(self) -> str:
        """For the model."""
        ...

    @property
    def input_schema(self) -> dict[str, object]:
        """JSON Schema of an object."""
        ...

    @property
    def secrets(self) -> Sequence[str]:
        """Values that the tool uses and nobody may see, the model least of all."""
        ...

    async def call(self, arguments: dict[str, object], use: ToolUse) -> object:
        """A JSON value; text is told as it is. Raises ToolError."""
        ...
