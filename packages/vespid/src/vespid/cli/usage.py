"""`vespid usage`: what models took."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vespid.cli import moments
from vespid.cli.caller import Caller, command
from vespid.cli.groups import OPERATOR, add
from vespid.cli.output import Cell

if TYPE_CHECKING:
    from vespid_client.models import UsageGroup, Used

By = Literal["day", "model", "workflow", "session"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "usage", usage, "vespid usage --by model --days 7", rich_help_panel=OPERATOR)


@command
async def usage(
    caller: Caller,
    by: Annotated[By, typer.Option("--by", help="What is summed up.")] = "day",
    days: Annotated[int, typer.Option("--days", min=1, max=366, help="How far back.")] = 30,
) -> None:
    """Tokens that models took, and their cost where it is known."""
    begin = datetime.now(UTC) - timedelta(days=days)
    report = await caller.client.usage.report(begin=begin, group_by=by)
    if caller.out.as_json:
        caller.out.document(report.to_json())
        return
    rows = [(_named(group), *_used(group.used)) for group in report.usage]
    if rows:
        rows.append((("total", "bold"), *_used(report.total)))
    caller.out.table(
        (by, "tries", "input", "output", "total", "usd"),
        rows,
        empty=f"No model was used since {moments.stamp(begin)}.",
    )


def _named(group: "UsageGroup") -> Cell:
    if group.day is not None:
        return group.day
    if group.model is not None:
        return f"{group.provider}/{group.model}"
    return group.workflow_name or group.title or group.family_id or group.session_id or "other"


def _used(used: "Used") -> tuple[Cell, ...]:
    cost = "unknown" if used.cost_usd is None else f"{used.cost_usd:.4f}" + ("+" if used.unpriced_tokens else "")
    return (str(used.tries), f"{used.input_tokens:,}", f"{used.output_tokens:,}", f"{used.total_tokens:,}", cost)
