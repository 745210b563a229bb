"""What every provider's module is: one attempt at one call, through the provider's official SDK.

A provider knows the wire and nothing of deadlines, retries or limits: `calls.py` does those for all. It raises
ModelError for whatever goes wrong, and is stopped by cancelling it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Protocol

from vespid_runtime.egress import GuardedHttp
from vespid_runtime.models.types import ModelReply, ModelRequest, Piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request, and where it goes."""

    request: ModelRequest
    base_url: str
    # Empty: the provider's server takes none.
    api_key: str = field(repr=False)
    http: GuardedHttp = field(repr=False)
    # The base URL that the operator set, if this call goes there.
    operator_base: str | None


# More tokens than this nobody has counted.
_TOKENS_MAX = 2**53


def token_count(said: object) -> int:
    """What a server says of its tokens: the SDKs check no shapes, and not every server counts."""
    return said if type(said) is int and 0 <= said < _TOKENS_MAX else 0


class Provider(Protocol):
    """One attempt. Neither retries."""

    async def infer(self, call: Call) -> ModelReply:
        """Raises ModelError."""
        ...

    def stream(self, call: Call) -> AsyncGenerator[Piece, None]:
        """The last piece is `Done`. Raises ModelError."""
        ...
