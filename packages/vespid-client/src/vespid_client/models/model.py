"""What all models have in common: camelCase on the wire, snake_case here; fields of newer servers are passed over.

Ids and moments are text, as the API spells them (`2026-01-02T03:04:05.678Z`; `datetime.fromisoformat` reads that).
"""

from typing import Any

import msgspec


class Model(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Something that the API answered."""

    def to_json(self) -> Any:
        """In the API's own spelling, as dicts and lists."""
        return msgspec.to_builtins(self)
