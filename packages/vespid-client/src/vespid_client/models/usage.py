"""What models took: tokens, and US dollars where the cost is known."""

import msgspec

from vespid_client.models.model import Model


class Used(Model, frozen=True, kw_only=True):
    """Sums over `tries`. `cost_usd` None: of none of them is the cost known; `unpriced_tokens`: not in it."""

    tries: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost_usd: float | None
    unpriced_tokens: int


class NodeUsed(Model, frozen=True, kw_only=True):
    """What one node took of one model."""

    node_id: str
    provider: str
    model: str
    used: Used


class RunUsed(Model, frozen=True, kw_only=True):
    """What a run took, and where."""

    total: Used
    nodes: list[NodeUsed]


class UsageGroup(Model, frozen=True, kw_only=True):
    """One group, named by what it was grouped by."""

    used: Used
    day: str | None = None
    provider: str | None = None
    model: str | None = None
    family_id: str | None = None
    workflow_name: str | None = None
    session_id: str | None = None
    title: str | None = None


class UsagePage(Model, frozen=True, kw_only=True):
    """From `from_` until just before `to`; `total` is of all groups of all pages."""

    from_: str = msgspec.field(name="from")
    to: str
    group_by: str
    total: Used
    usage: list[UsageGroup]
    next_cursor: str | None
