"""What models took, as it is answered: tokens, and US dollars where the cost is known."""

from collections.abc import Sequence

import msgspec

from vespid.store.usage import NodeUsage, Totals


class Used(msgspec.Struct, frozen=True, rename="camel"):
    """Sums over `tries`: each attempt of a node, and each turn, that told of tokens.

    `costUsd` null: of none of them is the cost known. `unpricedTokens` are those whose cost is not in it.
    """

    tries: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost_usd: float | None
    unpriced_tokens: int


class NodeUsed(msgspec.Struct, frozen=True, rename="camel"):
    """What one node took of one model."""

    node_id: str
    provider: str
    model: str
    used: Used


class RunUsed(msgspec.Struct, frozen=True):
    """What a run took, and where."""

    total: Used
    nodes: list[NodeUsed]


def used(sums: Totals) -> Used:
    """The sums of one row."""
    return Used(
        tries=sums.tries,
        input_tokens=sums.input_tokens,
        output_tokens=sums.output_tokens,
        total_tokens=sums.total_tokens,
        cost_usd=None if sums.cost_micros is None else sums.cost_micros / 1_000_000,
        unpriced_tokens=sums.unpriced_tokens,
    )


def run_used(nodes: Sequence[NodeUsage]) -> RunUsed | None:
    """None where no model was used."""
    if not nodes:
        return None
    costs = [node.cost_micros for node in nodes if node.cost_micros is not None]
    total = Totals(
        tries=sum(node.tries for node in nodes),
        input_tokens=sum(node.input_tokens for node in nodes),
        output_tokens=sum(node.output_tokens for node in nodes),
        total_tokens=sum(node.total_tokens for node in nodes),
        cost_micros=sum(costs) if costs else None,
        unpriced_tokens=sum(node.unpriced_tokens for node in nodes),
    )
    return RunUsed(used(total), [NodeUsed(node.node_id, node.provider, node.model, used(node)) for node in nodes])
