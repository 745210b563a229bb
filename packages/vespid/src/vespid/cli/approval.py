"""`vespid approve` and `vespid approval`: what a person has to allow before it runs."""

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vespid.cli import moments
from vespid.cli.asking import confirm
from vespid.cli.caller import Caller, command
from vespid.cli.groups import OPERATOR, add, group
from vespid.cli.lists import Cursor, Limit, document, say_more, some
from vespid.cli.output import Output, status
from vespid.cli.plain import visible
from vespid.cli.problem import Problem, missing, wrong_usage

if TYPE_CHECKING:
    from vespid_client.models import ApprovalInFull

Id = Annotated[str, typer.Argument(help="The approval's id.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needs --hash.")]
Hash = Annotated[str | None, typer.Option("--hash", help="The hash of what was seen; anything else is not decided.")]
Comment = Annotated[str | None, typer.Option("--comment", "-m", help="Told to whoever asked, and kept.")]


def register(app: typer.Typer) -> None:
    """Add the command and the group."""
    add(app, "approve", approve_any, "vespid approve", rich_help_panel=OPERATOR)
    commands = group(app, "approval", "Approvals: what waits for a person.")
    add(commands, "ls", ls, "vespid approval ls")
    add(commands, "show", show, "vespid approval show 01a20a8a-2d35-7771-ac9f-5463c4145817")
    add(commands, "approve", approve, "vespid approval approve 01a20a8a-2d35-7771-ac9f-5463c4145817")
    add(commands, "deny", deny, 'vespid approval deny 01a20a8a-2d35-7771-ac9f-5463c4145817 -m "not today"')


@command
async def ls(
    caller: Caller,
    state: Annotated[
        Literal["pending", "decided", "all"], typer.Option("--status", help="Those that wait, or do not.")
    ] = "pending",
    run: Annotated[str | None, typer.Option("--run", help="Those of one run.")] = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> None:
    """What waits for people, the newest first."""
    listing = caller.client.approvals.list(status=None if state == "all" else state, run_id=run)
    page = await some(listing, limit, cursor)
    if caller.out.as_json:
        document(caller.out, "approvals", page)
        return
    caller.out.table(
        ("id", "status", "what", "takes", "asked", "until", "run"),
        [
            (
                each.id,
                status(each.status),
                f"{each.node_id}: {each.tool or each.node_type}",
                each.by,
                moments.ago(each.requested_at),
                moments.ago(each.expires_at),
                (each.run_id, "dim"),
            )
            for each in page.items
        ],
        empty="Nothing waits for people." if state == "pending" else "There is none.",
    )
    say_more(caller.out, page)


@command
async def show(caller: Caller, approval: Id) -> None:
    """All that would run, and its hash."""
    found = await caller.client.approvals.get(approval)
    if caller.out.as_json:
        caller.out.document({"approval": found.to_json()})
    else:
        say_approval(caller.out, found)


@command
async def approve(caller: Caller, approval: Id, yes: Yes = False, hash: Hash = None, comment: Comment = None) -> None:
    """Show exactly what will run, ask, and allow it."""
    await _decide(caller, approval, "approve", yes, hash, comment)


@command
async def deny(caller: Caller, approval: Id, yes: Yes = False, hash: Hash = None, comment: Comment = None) -> None:
    """Show what would run, ask, and do not allow it."""
    await _decide(caller, approval, "deny", yes, hash, comment)


@command
async def approve_any(
    caller: Caller,
    approval: Annotated[str | None, typer.Argument(help="The approval's id; the one that waits, if it is one.")] = None,
    yes: Yes = False,
    hash: Hash = None,
    comment: Comment = None,
) -> None:
    """Allow what waits: shows exactly what will run, and asks."""
    if approval is None:
        approval = await _the_one_that_waits(caller)
    await _decide(caller, approval, "approve", yes, hash, comment)


async def _the_one_that_waits(caller: Caller) -> str:
    waiting = [each for each in await caller.client.approvals.list(status="pending").all() if each.may_decide]
    if not waiting:
        raise missing("nothing waits for you", "vespid approval ls shows what waits for others")
    if len(waiting) > 1:
        lines = "\n".join(
            f"{each.id}  {each.node_id}: {each.tool or each.node_type}  (run {each.run_id})" for each in waiting
        )
        raise wrong_usage(f"{len(waiting)} wait for you:\n{lines}", "Say which: vespid approve <id>")
    return waiting[0].id


async def _decide(
    caller: Caller,
    approval_id: str,
    verdict: Literal["approve", "deny"],
    yes: bool,
    seen: str | None,
    comment: str | None,
) -> None:
    if yes and seen is None:
        raise wrong_usage(
            "--yes decides about something that was seen before", "Give its --hash, as `approval show` says it"
        )
    if not yes and not sys.stdin.isatty():
        raise wrong_usage("there is no terminal to ask at", "Say it beforehand: --yes --hash <of what was seen>")
    found = await caller.client.approvals.get(approval_id)
    if seen is not None and seen != found.hash:
        raise Problem(
            f"this is not what was seen: its hash is {found.hash}", f"Look at it again: vespid approval show {found.id}"
        )
    if not yes:
        # The question goes to stderr, and so has what it is about, where stdout is for JSON.
        say_approval(Output(as_json=False, stdout=sys.stderr, env={}) if caller.out.as_json else caller.out, found)
        if found.status != "pending":
            raise Problem(f"there is nothing left to decide: {found.status}")
        word = "Allow" if verdict == "approve" else "Deny"
        confirm(f"{word} exactly this?", "--yes --hash <of what was seen>")
    decide = caller.client.approvals.approve if verdict == "approve" else caller.client.approvals.deny
    decided = await decide(found.id, found.hash, comment=comment)
    if caller.out.as_json:
        caller.out.document({"approval": decided.to_json()})
    caller.out.note(f"{decided.status.capitalize()}: {decided.node_id} of run {decided.run_id}")


def say_approval(out: Output, found: "ApprovalInFull") -> None:
    """Everything that the hash covers, nothing of it hidden."""
    out.fields(
        [
            ("approval", (found.id, "bold")),
            ("status", status(found.status)),
            ("asks for", f"a call of {found.tool}" if found.tool else f"node {found.node_id} ({found.node_type})"),
            ("run", f"{found.run_id} (vespid run show)"),
            ("takes", f"{found.by}{'' if found.may_decide or found.status != 'pending' else ', which you are not'}"),
            ("asked", moments.ago(found.requested_at)),
            ("until", moments.ago(found.expires_at)),
            ("comment", found.comment or ""),
            ("hash", found.hash),
        ]
    )
    leaves = list(_leaves(found.what))
    if any(visible(text) != text for _, text in leaves):
        out.line(("It holds characters that cannot be seen; they are spelled <U+…> below.", "red bold"))
    out.line(("what will run", "dim"))
    for path, text in leaves:
        if "\n" in text:
            out.line("  ", (f"{path}:", "cyan"))
            out.exact(text, indent="    │ ")
        else:
            out.exact(f"{path}: {text}", indent="  ")


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every value with the path to it: nothing is left out, and a long script is shown as lines."""
    import json

    if isinstance(value, Mapping) and value:
        for name, below in value.items():
            yield from _leaves(below, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and value:
        for at, below in enumerate(value):
            yield from _leaves(below, f"{path}[{at}]")
    else:
        # A line of text as JSON, so that its end can be seen.
        shown = value if isinstance(value, str) and "\n" in value else json.dumps(value, ensure_ascii=False)
        yield path, shown
