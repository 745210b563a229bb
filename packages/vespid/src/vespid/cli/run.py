"""`vespid run`: started, looked at, followed, cancelled, tried again."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vespid.cli import exit_codes, moments
from vespid.cli.caller import Caller, command
from vespid.cli.groups import add, group
from vespid.cli.lists import Cursor, Limit, document, say_more, some
from vespid.cli.output import status

if TYPE_CHECKING:
    from vespid_client import RunHandle

Id = Annotated[str, typer.Argument(help="The run's id.")]


def _complete(incomplete: str) -> list[str]:
    from vespid.cli.completion import names_of

    return names_of("workflows", incomplete)


def register(app: typer.Typer) -> None:
    """Add the group."""
    commands = group(app, "run", "Runs: started, followed, cancelled, tried again.")
    add(commands, "start", start, 'vespid run start nightly --input \'{"name": "ann"}\' --follow')
    add(commands, "ls", ls, "vespid run ls --status failed")
    add(commands, "show", show, "vespid run show 01a20a8a-2977-7b90-9f25-4e04af061c2a")
    add(commands, "logs", logs, "vespid run logs -f 01a20a8a-2977-7b90-9f25-4e04af061c2a")
    add(commands, "cancel", cancel, "vespid run cancel 01a20a8a-2977-7b90-9f25-4e04af061c2a")
    add(commands, "retry", retry, "vespid run retry 01a20a8a-2977-7b90-9f25-4e04af061c2a --from build --follow")


Follow = Annotated[bool, typer.Option("--follow", "-f", help="Tell what happens, to the end.")]


@command
async def start(
    caller: Caller,
    workflow: Annotated[str, typer.Argument(help="The workflow's name, or a revision's id.", autocompletion=_complete)],
    input: Annotated[
        str | None, typer.Option("--input", "-i", metavar="JSON|@FILE", help="What the run is given.")
    ] = None,
    follow: Follow = False,
    key: Annotated[
        str | None, typer.Option("--idempotency-key", help="Repeats with the same key start one run.")
    ] = None,
) -> int | None:
    """Start the published revision of a workflow."""
    from vespid.cli.files import read_value
    from vespid.cli.workflow import find_family, newest_published

    given = None if input is None else read_value(input)
    found = newest_published(await find_family(caller.client, workflow), workflow)
    handle = await caller.client.runs.start(found.id, given, idempotency_key=key)
    return await _begun(caller, handle, follow)


@command
async def ls(
    caller: Caller,
    workflow: Annotated[
        str | None,
        typer.Option("--workflow", "-w", help="Of this workflow's newest revision.", autocompletion=_complete),
    ] = None,
    state: Annotated[
        Literal["queued", "running", "succeeded", "failed", "cancelled"] | None,
        typer.Option("--status", help="Only these."),
    ] = None,
    trigger: Annotated[
        Literal["manual", "webhook", "cron", "api"] | None, typer.Option("--trigger", help="Only those started so.")
    ] = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> None:
    """Runs, the newest first."""
    from vespid.cli.workflow import find_family

    workflow_id = None if workflow is None else (await find_family(caller.client, workflow))[0].id
    listing = caller.client.runs.list(workflow_id=workflow_id, status=state, trigger_type=trigger)
    page = await some(listing, limit, cursor)
    if caller.out.as_json:
        document(caller.out, "runs", page)
        return
    caller.out.table(
        ("id", "workflow", "status", "trigger", "started", "took", "error"),
        [
            (
                run.id,
                run.workflow_name or run.workflow_id,
                status("waiting" if run.blocked is not None and run.blocked.kind == "approval" else run.status),
                run.trigger_type,
                moments.stamp(run.started_at or run.created_at),
                moments.between(run.started_at, run.finished_at),
                (run.error or "", "red"),
            )
            for run in page.items
        ],
        empty="There is no such run. vespid run start begins one",
        give=("workflow", "error"),
    )
    say_more(caller.out, page)


@command
async def show(
    caller: Caller,
    run: Id,
    outputs: Annotated[bool, typer.Option("--output", "-o", help="What the nodes answered, too.")] = False,
) -> None:
    """A run as it stands: its nodes with how long each took, and what it waits for."""
    from vespid.cli.run_tree import say_run

    handle = caller.client.runs.handle(run)
    found = await handle.get()
    if caller.out.as_json:
        caller.out.document({"run": found.to_json()})
        return
    workflow = await caller.client.workflows.get(found.workflow_id)
    # How long a node took is known by its events alone.
    events = [event async for event in handle.events()]
    say_run(caller.out, found, workflow, events, with_outputs=outputs)


@command
async def logs(
    caller: Caller,
    run: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on to the end of the run.")] = False,
) -> int | None:
    """What happened in a run. With -f as it happens, and the exit code says how the run ended."""
    handle = caller.client.runs.handle(run)
    if follow:
        return await _followed(caller, handle)
    from vespid.cli.run_story import RunStory

    story = RunStory(caller.out)
    async for event in handle.events():
        if caller.out.as_json:
            caller.out.event(event.to_json())
        else:
            story.tell(event)
    story.end()
    return None


@command
async def cancel(caller: Caller, run: Id) -> None:
    """Stop a run; what it has running on agents is cancelled there. A finished run stays as it is."""
    found = await caller.client.runs.cancel(run)
    if caller.out.as_json:
        caller.out.document({"run": found.to_json()})
    is_over = found.status in ("succeeded", "failed", "cancelled")
    caller.out.note(f"The run is over: {found.status}" if is_over else "The run is being cancelled")


@command
async def retry(
    caller: Caller,
    run: Id,
    from_node: Annotated[
        str | None, typer.Option("--from", metavar="NODE", help="Run this node and what comes after it again.")
    ] = None,
    follow: Follow = False,
) -> int | None:
    """A new run of the same revision and input that takes over what had succeeded."""
    handle = await caller.client.runs.retry(run, from_node_id=from_node)
    return await _begun(caller, handle, follow)


async def _begun(caller: Caller, handle: "RunHandle", follow: bool) -> int | None:
    if not follow:
        run = handle.accepted or await handle.get()
        if caller.out.as_json:
            caller.out.document({"run": run.to_json()})
        else:
            caller.out.line(run.id)
            caller.out.note(f"vespid run logs -f {run.id} tells what happens")
        return None
    caller.out.note(f"Run {handle.id}")
    return await _followed(caller, handle)


async def _followed(caller: Caller, handle: "RunHandle") -> int:
    """Tell the run to its end, and answer what the process is to end with."""
    from vespid.cli.run_story import RunStory

    out, story = caller.out, RunStory(caller.out)
    async for event in handle.follow():
        if out.as_json:
            out.event(event.to_json())
        else:
            story.tell(event)
    story.end()
    ended: Any = await handle.get()
    return exit_codes.DONE if ended.status == "succeeded" else exit_codes.FAILED
