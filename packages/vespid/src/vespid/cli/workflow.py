"""`vespid workflow`: written in files, kept as revisions, published."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer

from vespid.cli import exit_codes, moments
from vespid.cli.caller import Caller, command
from vespid.cli.groups import add, group
from vespid.cli.lists import Cursor, Limit, document, say_more, some
from vespid.cli.names import pick
from vespid.cli.output import status
from vespid.cli.problem import Problem, missing, wrong_usage

if TYPE_CHECKING:
    from vespid_client import AsyncClient
    from vespid_client.models import Published, Workflow


def _complete(incomplete: str) -> list[str]:
    from vespid.cli.completion import names_of

    return names_of("workflows", incomplete)


Which = Annotated[str, typer.Argument(help="The workflow's name, or the id of a revision.", autocompletion=_complete)]
File = Annotated[Path, typer.Option("--file", "-f", help="JSON or YAML, `{name, dsl}`; `-` is stdin.", allow_dash=True)]


class WorkflowFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file holds."""

    name: str
    dsl: dict[str, Any]


def register(app: typer.Typer) -> None:
    """Add the group."""
    commands = group(app, "workflow", "Workflows: from a file to a published revision.")
    add(commands, "ls", ls, "vespid workflow ls --status published")
    add(commands, "show", show, "vespid workflow show nightly --json")
    add(commands, "apply", apply, "vespid workflow apply -f nightly.yaml --publish")
    add(commands, "validate", validate, "vespid workflow validate -f nightly.yaml")
    add(commands, "publish", publish, "vespid workflow publish nightly")
    add(commands, "diff", diff, "vespid workflow diff -f nightly.yaml")
    add(commands, "revisions", revisions, "vespid workflow revisions nightly")


@command
async def ls(
    caller: Caller,
    state: Annotated[Literal["draft", "published"] | None, typer.Option("--status", help="Only these.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> None:
    """Revisions, the newest first."""
    page = await some(caller.client.workflows.list(status=state), limit, cursor)
    if caller.out.as_json:
        document(caller.out, "workflows", page)
        return
    _table(caller, page.items, "There is no workflow. vespid workflow apply -f makes one")
    say_more(caller.out, page)


@command
async def show(
    caller: Caller,
    workflow: Which,
    published: Annotated[
        bool, typer.Option("--published", help="The published revision, where there is a draft.")
    ] = False,
) -> None:
    """A workflow as it stands: its draft, else what is published."""
    family = await find_family(caller.client, workflow)
    shown = newest_published(family, workflow) if published else family[0]
    if caller.out.as_json:
        caller.out.document({"workflow": shown.to_json()})
        return
    caller.out.fields(
        [
            ("name", (shown.name, "bold")),
            ("status", status(shown.status)),
            ("revision", str(shown.revision)),
            ("changed", moments.stamp(shown.updated_at)),
            ("published", moments.stamp(shown.published_at)),
            ("id", shown.id),
        ]
    )
    caller.out.exact(_pretty(shown.dsl))


@command
async def apply(
    caller: Caller,
    file: File,
    publish: Annotated[bool, typer.Option("--publish", help="Publish it as well.")] = False,
) -> None:
    """Make the workflow of that name what the file says. Applying a file twice changes nothing."""
    wanted = _read(file)
    current = await _family_called(caller.client, wanted.name)
    workflow, done = await _applied(caller.client, wanted, current)
    answer = None
    if publish and workflow.status == "draft":
        answer = await caller.client.workflows.publish(workflow.id)
        workflow, done = answer.workflow, f"{done}, published"
    if caller.out.as_json:
        caller.out.document({"done": done, **_told(workflow, answer)})
        return
    caller.out.line(
        (wanted.name, "bold"), f"  {done}  (revision {workflow.revision}, {workflow.status}, {workflow.id})"
    )
    _say_webhook(caller, answer)


@command
async def validate(caller: Caller, file: File) -> None:
    """Whether the file could be published, and what would run; nothing is kept."""
    wanted = _read(file)
    graph = await caller.client.workflows.validate(wanted.dsl)
    if caller.out.as_json:
        caller.out.document({"ok": True, "graph": graph.to_json()})
        return
    count = len(graph.nodes)
    caller.out.line((wanted.name, "bold"), f"  is valid: {count} node{'' if count == 1 else 's'}")
    before: dict[str, list[str]] = {}
    for edge in graph.edges:
        before.setdefault(edge.to, []).append(edge.from_)
    caller.out.table(
        ("node", "type", "after"),
        [(node.id, node.type, ", ".join(before.get(node.id, []))) for node in graph.nodes],
        empty="It has no node.",
    )


@command
async def publish(caller: Caller, workflow: Which) -> None:
    """Publish the draft of a workflow: it can be run, and its trigger begins to fire."""
    family = await find_family(caller.client, workflow)
    draft = next((each for each in family if each.status == "draft"), None)
    if draft is None:
        raise Problem(
            f"{family[0].name} has no draft: revision {family[0].revision} is published",
            "vespid workflow apply -f makes one",
        )
    answer = await caller.client.workflows.publish(draft.id)
    if caller.out.as_json:
        caller.out.document(_told(answer.workflow, answer))
        return
    caller.out.line((answer.workflow.name, "bold"), f"  published (revision {answer.workflow.revision})")
    _say_webhook(caller, answer)


@command
async def diff(
    caller: Caller,
    file: File,
    against: Annotated[
        Literal["draft", "published"] | None,
        typer.Option("--against", help="What the file is compared with: the draft, else what is published."),
    ] = None,
) -> int:
    """What applying the file would change. Ends with 1 where there is a difference, as diff does."""
    wanted = _read(file)
    current = await _family_called(caller.client, wanted.name)
    if not current:
        raise missing(f"There is no workflow {wanted.name!r}", f"vespid workflow apply -f {file} makes it")
    base = next((each for each in current if against in (None, each.status)), None)
    if base is None:
        raise missing(f"{wanted.name} has no {against} revision")
    is_same = base.dsl == wanted.dsl
    if caller.out.as_json:
        caller.out.document({"same": is_same, "workflowId": base.id, "revision": base.revision, "dsl": base.dsl})
    elif is_same:
        caller.out.note(f"No difference to revision {base.revision} ({base.status})")
    else:
        _say_diff(caller, base, wanted, file)
    return exit_codes.DONE if is_same else exit_codes.FAILED


@command
async def revisions(caller: Caller, workflow: Which, limit: Limit = 50, cursor: Cursor = None) -> None:
    """The revisions of one workflow, the newest first."""
    family = await find_family(caller.client, workflow)
    page = await some(caller.client.workflows.revisions(family[0].id), limit, cursor)
    if caller.out.as_json:
        document(caller.out, "workflows", page)
        return
    _table(caller, page.items, "There is no revision.")
    say_more(caller.out, page)


async def find_family(client: "AsyncClient", wanted: str) -> "list[Workflow]":
    """The revisions of the workflow that is meant, the newest first; of an id: that one alone. Raises Problem."""
    families = await _families(client)
    by_id = [each for family in families for each in family if each.id == wanted.lower()]
    if by_id:
        return by_id
    return pick(
        families,
        wanted,
        "workflow",
        id_of=lambda family: family[0].id,
        name_of=lambda family: family[0].name,
        told=lambda family: f"revision {family[0].revision}, {family[0].status}",
    )


def newest_published(family: "list[Workflow]", wanted: str) -> "Workflow":
    """The revision that runs. Raises Problem."""
    for workflow in family:
        if workflow.status == "published":
            return workflow
    raise Problem(f"{family[0].name} is not published", f"vespid workflow publish {wanted}")


async def _families(client: "AsyncClient") -> "list[list[Workflow]]":
    families: dict[str, list[Workflow]] = {}
    async for workflow in client.workflows.list():
        families.setdefault(workflow.family_id, []).append(workflow)
    return [sorted(family, key=lambda one: -one.revision) for family in families.values()]


async def _family_called(client: "AsyncClient", name: str) -> "list[Workflow]":
    """Revisions of the workflow of exactly that name, the newest first; none where it is not there. Raises Problem."""
    named = [family for family in await _families(client) if family[0].name == name]
    if len(named) > 1:
        ids = "\n".join(f"{family[0].id}  revision {family[0].revision}, {family[0].status}" for family in named)
        raise wrong_usage(f"{len(named)} workflows are called {name!r}:\n{ids}", "Give all but one another name")
    return named[0] if named else []


async def _applied(client: "AsyncClient", wanted: WorkflowFile, current: "list[Workflow]") -> "tuple[Workflow, str]":
    """The revision that is as wanted, and what was done for it."""
    if not current:
        return await client.workflows.create(wanted.name, wanted.dsl), "created"
    newest = current[0]
    if newest.dsl == wanted.dsl:
        return newest, "unchanged"
    if newest.status == "draft":
        return await client.workflows.update(newest.id, dsl=wanted.dsl, version=newest.version), "draft updated"
    draft = await client.workflows.new_draft(newest.id)
    return await client.workflows.update(draft.id, dsl=wanted.dsl), f"new draft of revision {newest.revision}"


def _read(path: Path) -> WorkflowFile:
    from vespid.cli.files import read_document

    try:
        return msgspec.convert(read_document(path), WorkflowFile)
    except msgspec.ValidationError as error:
        raise wrong_usage(f"{path}: {error}", "A workflow's file is {name, dsl}: see docs/workflows.md") from None


def _told(workflow: "Workflow", answer: "Published | None") -> dict[str, Any]:
    told: dict[str, Any] = {"workflow": workflow.to_json()}
    if answer is not None and answer.webhook is not None:
        told["webhook"] = answer.webhook.to_json()
    return told


def _say_webhook(caller: Caller, answer: "Published | None") -> None:
    if answer is not None and answer.webhook is not None:
        caller.out.token("webhook  ", answer.webhook.url)
        caller.out.note("The webhook's address is shown this once")


def _say_diff(caller: Caller, base: "Workflow", wanted: WorkflowFile, file: Path) -> None:
    import difflib

    lines = difflib.unified_diff(
        _pretty(base.dsl).split("\n"),
        _pretty(wanted.dsl).split("\n"),
        f"{base.name} revision {base.revision} ({base.status})",
        str(file),
        lineterm="",
    )
    for line in lines:
        styles = {"+": "green", "-": "red", "@": "cyan"}
        style = "bold" if line.startswith(("+++", "---")) else styles.get(line[:1], "")
        caller.out.line((line, style))


def _pretty(dsl: object) -> str:
    """As YAML, in which a script is lines."""
    import yaml

    class Lines(yaml.SafeDumper):
        pass

    def represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)

    Lines.add_representer(str, represent)
    return yaml.dump(dsl, Dumper=Lines, sort_keys=True, allow_unicode=True, width=10_000).rstrip("\n")


def _table(caller: Caller, workflows: "list[Workflow]", empty: str) -> None:
    caller.out.table(
        ("name", "revision", "status", "changed", "id"),
        [
            (
                (each.name, "bold"),
                str(each.revision),
                status(each.status),
                moments.ago(each.updated_at),
                (each.id, "dim"),
            )
            for each in workflows
        ],
        empty=empty,
    )
