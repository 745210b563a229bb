"""What a coding assistant can call: each tool is a route of the API by another name.

A tool asks the very handler that answers the route, after the role that the route's guard takes, so there is no second
way to anything; what it adds is the spelling of arguments, and waiting in `read_run_events`. Errors are the route's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

import msgspec
from litestar.handlers import HTTPRouteHandler

from vespid.control import agents, approvals, events, retry, runs, workflows
from vespid.control.body import decode_body
from vespid.control.context import TenantContext, role_for, row_id
from vespid.control.deps import Deps
from vespid.control.events import RunEvent
from vespid.control.idempotency import once_of_tool
from vespid.control.pagination import Page
from vespid.control.stream import REREAD_S, TERMINAL_EVENTS, RunWatch
from vespid.errors import forbidden, unauthorized
from vespid.store.runs import read_progress

MAX_LIMIT = 50
MAX_WAIT_S = 30
# Characters of a node's output that are shown at once: as a text of JSON within JSON they may become twice as many.
OUTPUT_CHARS = 20_000

WorkflowId = Annotated[str, msgspec.Meta(description="The workflow's id (of one revision).")]
ApprovalId = Annotated[str, msgspec.Meta(description="The approval's id.")]
RunId = Annotated[str, msgspec.Meta(description="The run's id.")]
IdempotencyKey = Annotated[
    Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None,
    msgspec.Meta(description="Of your choice. Repeating the call with the same key starts no second run."),
]
Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT, description="How many at most.")]
Cursor = Annotated[str | None, msgspec.Meta(description="The nextCursor of the page before.")]


class Arguments(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Of a tool; a name that it does not know is an error, as it may be a slip."""


class Paged(Arguments, frozen=True):
    limit: Limit = 20
    cursor: Cursor = None


class ListWorkflows(Paged, frozen=True):
    status: Annotated[Literal["draft", "published"] | None, msgspec.Meta(description="Only these.")] = None


class OfWorkflow(Arguments, frozen=True):
    workflow_id: WorkflowId


class RunsOfWorkflow(Arguments, frozen=True):
    workflow_id: WorkflowId
    limit: Limit = 20
    cursor: Cursor = None


class StartRun(Arguments, frozen=True):
    workflow_id: WorkflowId
    input: Annotated[Any, msgspec.Meta(description="What the run is given: any JSON value.")] = None
    idempotency_key: IdempotencyKey = None


class OfRun(Arguments, frozen=True):
    workflow_id: WorkflowId
    run_id: RunId


class RetryRun(Arguments, frozen=True):
    workflow_id: WorkflowId
    run_id: RunId
    from_node_id: Annotated[
        str | None,
        msgspec.Meta(description="This node and what comes after it run again; without it, what has not succeeded."),
    ] = None
    idempotency_key: IdempotencyKey = None


class ReadRunEvents(Arguments, frozen=True):
    workflow_id: WorkflowId
    run_id: RunId
    after_seq: Annotated[int, msgspec.Meta(ge=0, le=2**62, description="Events behind this one.")] = 0
    limit: Limit = 50
    wait_seconds: Annotated[
        int, msgspec.Meta(ge=0, le=MAX_WAIT_S, description="How long to wait where there is nothing new yet.")
    ] = 0


class GetNodeOutput(Arguments, frozen=True):
    workflow_id: WorkflowId
    run_id: RunId
    node_id: Annotated[str, msgspec.Meta(description="The node's id in the workflow.")]
    offset: Annotated[int, msgspec.Meta(ge=0, description="Of a long output, where to go on.")] = 0


class ListApprovals(Paged, frozen=True):
    status: Annotated[
        Literal["pending", "decided"] | None, msgspec.Meta(description="Those that wait, or those that do not.")
    ] = None
    run_id: Annotated[str | None, msgspec.Meta(description="Those of one run.")] = None


class OfApproval(Arguments, frozen=True):
    approval_id: ApprovalId


class DecideApproval(Arguments, frozen=True):
    approval_id: ApprovalId
    decision: Literal["approve", "deny"]
    hash: Annotated[
        str, msgspec.Meta(pattern="^[0-9a-f]{64}$", description="Of what get_approval has shown; of nothing else.")
    ]
    comment: Annotated[
        Annotated[str, msgspec.Meta(max_length=approvals.COMMENT_MAX_CHARS)] | None, msgspec.Meta(description="Why.")
    ] = None


class WorkflowSummary(msgspec.Struct, frozen=True, rename="camel"):
    """A revision without what is in it."""

    id: str
    family_id: str
    revision: int
    name: str
    status: str
    published_at: str | None
    updated_at: str


class WorkflowSummaries(msgspec.Struct, frozen=True, rename="camel"):
    workflows: list[WorkflowSummary]
    next_cursor: str | None


class AgentsPage(msgspec.Struct, frozen=True, rename="camel"):
    agents: list[agents.Agent]
    next_cursor: str | None


class EventsRead(msgspec.Struct, frozen=True, rename="camel"):
    """Go on with `nextAfterSeq`, until `isOver`: then there will be no more."""

    events: list[RunEvent]
    next_after_seq: int
    is_over: bool


class OutputPart(msgspec.Struct, frozen=True, rename="camel"):
    """A piece of an output's JSON text; `nextOffset` null: it is the last."""

    text: str
    offset: int
    next_offset: int | None
    original_length: int


ArgumentsT = TypeVar("ArgumentsT", bound=Arguments)


@dataclass(frozen=True)
class Tool(Generic[ArgumentsT]):
    """One tool. `does` is given the arguments once the caller may call `route`."""

    name: str
    title: str
    description: str
    arguments: type[ArgumentsT]
    route: HTTPRouteHandler
    does: Callable[[TenantContext, Deps, ArgumentsT], Awaitable[msgspec.Struct]]
    is_read: bool = True
    is_destructive: bool = False

    async def call(self, tenant: TenantContext, deps: Deps, given: Mapping[str, Any]) -> msgspec.Struct:
        """Raises ApiError as the route does."""
        role = role_for(self.route)
        if not tenant.has_role(role):
            raise forbidden(f"This takes the role {role}.")
        arguments: ArgumentsT = decode_body(msgspec.json.encode(given), self.arguments)
        return await self.does(tenant, deps, arguments)

    @property
    def input_schema(self) -> dict[str, Any]:
        """JSON Schema of the arguments."""
        _, components = msgspec.json.schema_components([self.arguments])
        # The name of our class is nobody's business.
        return {name: part for name, part in components[self.arguments.__name__].items() if name != "title"}


async def _list_agents(tenant: TenantContext, deps: Deps, given: Paged) -> msgspec.Struct:
    page = await agents.list_agents.fn(tenant, deps, Page(given.limit, given.cursor))
    return AgentsPage(page.agents, page.next_cursor)


async def _list_workflows(tenant: TenantContext, _deps: Deps, given: ListWorkflows) -> msgspec.Struct:
    page = await workflows.list_workflows.fn(tenant, Page(given.limit, given.cursor), given.status)
    summaries = [
        WorkflowSummary(str(w.id), str(w.family_id), w.revision, w.name, w.status, w.published_at, w.updated_at)
        for w in page.workflows
    ]
    return WorkflowSummaries(summaries, page.next_cursor)


async def _get_workflow(tenant: TenantContext, _deps: Deps, given: OfWorkflow) -> msgspec.Struct:
    answer: msgspec.Struct = await workflows.get_workflow.fn(given.workflow_id, tenant)
    return answer


async def _start_run(tenant: TenantContext, deps: Deps, given: StartRun) -> msgspec.Struct:
    body = msgspec.json.encode((given.workflow_id, given.input), order="deterministic")
    once = once_of_tool(deps, tenant, "start_run", given.idempotency_key, body)
    answer = await runs.start_run.fn(given.workflow_id, tenant, deps, once, runs.NewRun(given.input))
    return msgspec.json.decode(answer.content, type=_Answer)


async def _get_run(tenant: TenantContext, deps: Deps, given: OfRun) -> msgspec.Struct:
    answer: msgspec.Struct = await runs.get_run.fn(given.workflow_id, given.run_id, tenant, deps)
    return answer


async def _list_runs(tenant: TenantContext, deps: Deps, given: RunsOfWorkflow) -> msgspec.Struct:
    answer: msgspec.Struct = await runs.list_runs.fn(given.workflow_id, tenant, deps, Page(given.limit, given.cursor))
    return answer


async def _cancel_run(tenant: TenantContext, deps: Deps, given: OfRun) -> msgspec.Struct:
    answer: msgspec.Struct = await runs.cancel_run.fn(given.workflow_id, given.run_id, tenant, deps)
    return answer


async def _retry_run(tenant: TenantContext, deps: Deps, given: RetryRun) -> msgspec.Struct:
    body = msgspec.json.encode((given.workflow_id, given.run_id, given.from_node_id))
    once = once_of_tool(deps, tenant, "retry_run", given.idempotency_key, body)
    what = retry.RetryBody(given.from_node_id)
    answer = await retry.retry_run.fn(given.workflow_id, given.run_id, tenant, deps, once, what)
    return msgspec.json.decode(answer.content, type=_Answer)


async def _get_node_output(tenant: TenantContext, _deps: Deps, given: GetNodeOutput) -> msgspec.Struct:
    answer: runs.NodeOutput = await runs.get_node_output.fn(given.workflow_id, given.run_id, given.node_id, tenant)
    text = msgspec.json.encode(answer.output).decode()
    if len(text) <= OUTPUT_CHARS and not given.offset:
        return answer
    end = given.offset + OUTPUT_CHARS
    return OutputPart(text[given.offset : end], given.offset, end if end < len(text) else None, len(text))


async def _read_run_events(tenant: TenantContext, deps: Deps, given: ReadRunEvents) -> msgspec.Struct:
    loop = asyncio.get_running_loop()
    until = loop.time() + given.wait_seconds
    watch = RunWatch(deps, tenant, row_id(given.run_id))
    async with watch.listening():
        while True:
            if not await watch.may_go_on() and not deps.stopping.is_set():
                raise unauthorized("The credential is not valid any more.")
            page = await events.list_run_events.fn(
                given.workflow_id, given.run_id, tenant, Page(given.limit, None), given.after_seq
            )
            left_s = until - loop.time()
            if page.events or left_s <= 0 or deps.stopping.is_set():
                last = page.events[-1] if page.events else None
                reached = given.after_seq if last is None else last.seq
                is_over = await _is_over(tenant, given) if last is None else last.event_type in TERMINAL_EVENTS
                return EventsRead(page.events, reached, is_over)
            if await _is_over(tenant, given):
                return EventsRead([], given.after_seq, is_over=True)
            # The hint that a run has moved may be lost; streams look again as often.
            await watch.wait(min(left_s, REREAD_S))


async def _is_over(tenant: TenantContext, given: ReadRunEvents) -> bool:
    async with tenant.transaction() as connection:
        progress = await read_progress(connection, UUID(tenant.org_id), row_id(given.workflow_id), row_id(given.run_id))
    return progress is None or (progress.is_finished and progress.event_seq <= given.after_seq)


async def _list_approvals(tenant: TenantContext, _deps: Deps, given: ListApprovals) -> msgspec.Struct:
    page = Page(given.limit, given.cursor)
    answer: msgspec.Struct = await approvals.list_approvals.fn(tenant, page, given.status, given.run_id)
    return answer


async def _get_approval(tenant: TenantContext, _deps: Deps, given: OfApproval) -> msgspec.Struct:
    answer: msgspec.Struct = await approvals.get_approval.fn(given.approval_id, tenant)
    return answer


async def _decide_approval(tenant: TenantContext, deps: Deps, given: DecideApproval) -> msgspec.Struct:
    route = approvals.approve if given.decision == "approve" else approvals.deny
    decision = approvals.Decision(given.hash, given.comment)
    answer: msgspec.Struct = await route.fn(given.approval_id, tenant, deps, decision)
    return answer


class _Answer(msgspec.Struct):
    run: Any


_TOOLS: tuple[Tool[Any], ...] = (
    Tool(
        "list_agents",
        "List agents",
        "The organization's agents (machines that carry work out): status, tags, what they can do, how busy they are.",
        Paged,
        agents.list_agents,
        _list_agents,
    ),
    Tool(
        "list_workflows",
        "List workflows",
        "Revisions of workflows, the newest first, without their content. Only published ones can be run.",
        ListWorkflows,
        workflows.list_workflows,
        _list_workflows,
    ),
    Tool(
        "get_workflow",
        "Read a workflow",
        "One revision of a workflow with its definition (`dsl`): trigger, nodes, what each does.",
        OfWorkflow,
        workflows.get_workflow,
        _get_workflow,
    ),
    Tool(
        "start_run",
        "Start a run",
        "Start a published workflow. Answers at once; follow the run with read_run_events.",
        StartRun,
        runs.start_run,
        _start_run,
        is_read=False,
    ),
    Tool(
        "get_run",
        "Read a run",
        "How far a run is, what it waits for (`blockedNodes`), what its nodes answered, what models took (`usage`).",
        OfRun,
        runs.get_run,
        _get_run,
    ),
    Tool(
        "list_runs",
        "List runs",
        "The runs of one revision of a workflow, the newest first, without outputs of nodes.",
        RunsOfWorkflow,
        runs.list_runs,
        _list_runs,
    ),
    Tool(
        "read_run_events",
        "Follow a run",
        "What happened in a run, oldest first. With waitSeconds it waits for something new; "
        "go on from nextAfterSeq until isOver.",
        ReadRunEvents,
        events.list_run_events,
        _read_run_events,
    ),
    Tool(
        "get_node_output",
        "Read a node's output",
        "What a node of a run answered, uncut; a long one comes in pieces, the next at nextOffset.",
        GetNodeOutput,
        runs.get_node_output,
        _get_node_output,
    ),
    Tool(
        "cancel_run",
        "Cancel a run",
        "End a run; what it has running on agents is stopped there. A finished run stays as it is.",
        OfRun,
        runs.cancel_run,
        _cancel_run,
        is_read=False,
        is_destructive=True,
    ),
    Tool(
        "retry_run",
        "Retry a run",
        "A new run that takes over what a finished one has done and does the rest. Follow it with read_run_events.",
        RetryRun,
        retry.retry_run,
        _retry_run,
        is_read=False,
    ),
    Tool(
        "list_approvals",
        "List approvals",
        "What people are and were asked to allow before it runs, the newest first.",
        ListApprovals,
        approvals.list_approvals,
        _list_approvals,
    ),
    Tool(
        "get_approval",
        "Read an approval",
        "One question to people with all that would run (`what`, cut where it is long), and the hash of the whole.",
        OfApproval,
        approvals.get_approval,
        _get_approval,
    ),
    Tool(
        "decide_approval",
        "Approve or deny",
        "Answer a question that was put to a person. Only when that person has said so, having seen what would run.",
        DecideApproval,
        approvals.approve,
        _decide_approval,
        is_read=False,
        is_destructive=True,
    ),
)

TOOLS: Mapping[str, Tool[Any]] = {tool.name: tool for tool in _TOOLS}
