"""Templates in configs: `{{ input.x }}`, `{{ steps.<node>.output.y }}`, `{{ … | default("…") }}`, `{{secrets.<id>}}`."""

from __future__ import annotations

import msgspec


class Template(msgspec.Struct, frozen=True):
    """A config value taken apart once; filled when its node starts."""

    source: object
