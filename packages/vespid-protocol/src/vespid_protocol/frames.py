"""Every frame of the executor socket, as a tagged Struct.

One class per frame, named like the frame's ``type`` in CamelCase; on the wire fields are camelCase. Two unions name
who may send what: `AgentFrame` (agent to gateway) and `GatewayFrame` (gateway to agent). Frames are frozen and take
keyword arguments only. `docs/protocol.md` is the page for people who write their own agent.

The one thing to know: what the gateway only carries is `msgspec.Raw`, a view into the bytes it came in. It is neither
parsed nor checked beyond being JSON, it keeps the whole message alive (`bytes(raw)` or `raw.copy()` lets go of it), and
absent is `UNSET`, which is not the same as JSON ``null``.

Two layers: *base* fields and frames, and *v2* ones, marked below, which go only to a peer known to speak v2.
`base_form` makes what a base peer may see of a frame. Optional fields may be absent or null; unknown ones are ignored.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

# An id that others made and that we look up, store and compare, never interpret.
Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
# Whole numbers that fit both a JavaScript number and a Postgres bigint.
Count: TypeAlias = Annotated[int, Meta(ge=0, le=9_007_199_254_740_991)]
Level: TypeAlias = Literal["info", "warn", "error"]
OnLost: TypeAlias = Literal["fail", "resend", "wait"]
MaybeRaw: TypeAlias = Raw | UnsetType

PROTOCOL_VERSION = 2
MAX_IN_FLIGHT_DEFAULT = 10
MAX_IN_FLIGHT_LIMIT = 200
EVENT_MESSAGE_MAX_CHARS = 500
ALL_KINDS = ("connector.action", "agent.execute", "agent.run")


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel", gc=False):
    """Something inside a frame."""


class Frame(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel", tag_field="type", tag="", gc=False
):
    """Whatever travels on the executor socket. `gc=False`: frames hold no cycles, and there are many."""


# --- parts ---------------------------------------------------------------------------------------------------------


class ToolOffer(Part, frozen=True, kw_only=True):
    """v2: a tool that the agent has of its own: `skill.<id>`, `mcp.<server>.<tool>`."""

    id: Annotated[str, Meta(min_length=1, max_length=256)]
    description: Annotated[str, Meta(max_length=4096)] = ""
    # JSON Schema of an object; left out where all of them together would be too much.
    input_schema: MaybeRaw = UNSET


class ToolProblem(Part, frozen=True, kw_only=True):
    """v2: a skill, an MCP server or one of its tools that does not work, and why, for people."""

    id: Annotated[str, Meta(min_length=1, max_length=256)]
    problem: Annotated[str, Meta(max_length=1024)]


class EngineState(Part, frozen=True, kw_only=True):
    """An engine that needs a program on the agent's machine, and how that is. For people: it routes nothing."""

    # As in `engines`, which lists it where it is available.
    id: str
    available: bool
    version: str | None = None
    # None: nobody knows.
    logged_in: bool | None = None
    # What is wrong with it, and what to do.
    problem: str | None = None
    # Where the program is.
    path: str | None = None


class Capabilities(Part, frozen=True, kw_only=True):
    """What an agent says it can do. None: all (kinds, connectors), or not filtered by it (engines, backends)."""

    kinds: tuple[str, ...] | None = None
    connectors: tuple[str, ...] | None = None
    # Hints for people (`reportedTags`); they never route.
    tags: tuple[str, ...] | None = None
    max_in_flight: int | None = None
    engines: tuple[str, ...] | None = None
    # Sandboxes it can run shell tasks in. A node that names another one is not sent here.
    backends: tuple[str, ...] | None = None
    # v2: what the agent has of its own beside connectors; at most `offers.TOOLS_MAX_BYTES` of them are kept.
    tools: Annotated[tuple[ToolOffer, ...], Meta(max_length=1024)] | None = None
    tool_problems: Annotated[tuple[ToolProblem, ...], Meta(max_length=256)] | None = None
    engine_states: tuple[EngineState, ...] | None = None

    @property
    def room(self) -> int:
        """How many requests at once: 10 unless said, clamped to 1..200."""
        asked = MAX_IN_FLIGHT_DEFAULT if self.max_in_flight is None else self.max_in_flight
        return min(max(asked, 1), MAX_IN_FLIGHT_LIMIT)


class Protocol(Part, frozen=True, kw_only=True):
    """v2: in a `hello`, makes its sender a v2 peer."""

    version: int
    features: tuple[str, ...] = ()


class InFlight(Part, frozen=True, kw_only=True):
    """v2: a request that the agent has accepted and not finished."""

    request_id: Id
    lease_epoch: Count | None = None


class OpenSession(Part, frozen=True, kw_only=True):
    """v2: a session that is open on the agent, and how much of its history and memory is there."""

    session_id: Id
    generation: Count = 0
    history_seq: Count = 0
    memory_version: Count = 0


class Event(Part, frozen=True, kw_only=True):
    """One thing that happened while a request runs.

    `seq` grows per (request, lease epoch); repeats are dropped. Output is kind ``stdout`` or ``stderr`` with the
    payload ``{text, offset}``.
    """

    seq: Count
    ts: Count
    kind: Annotated[str, Meta(min_length=1, max_length=128)]
    level: Level
    message: Annotated[str, Meta(max_length=EVENT_MESSAGE_MAX_CHARS)] | None = None
    payload: MaybeRaw = UNSET


class HistoryEntry(Part, frozen=True, kw_only=True):
    """One message of a session's past. `seq` is that of the user message, for its answer too."""

    seq: Count
    role: Literal["user", "assistant"]
    content: str


class MemoryDocument(Part, frozen=True, kw_only=True):
    """v2: one markdown file of a session's memory; `content` None means that it was deleted."""

    path: str
    sha256: str
    content: str | None
    version: Count | None = None


class TurnPayload(Part, frozen=True, kw_only=True):
    """What our own ends read of `turn_final.payload`; the rest of it passes through."""

    memory: tuple[MemoryDocument, ...] = ()


# --- agent to gateway ------------------------------------------------------------------------------------------------


class Hello(Frame, frozen=True, kw_only=True, tag="hello"):
    """Who I am and what I can do; makes the executor routable. With `protocol` it is a v2 peer's."""

    agent_version: Annotated[str, Meta(max_length=256)]
    name: Annotated[str, Meta(max_length=256)]
    capabilities: Capabilities | None = None
    # v2 from here on.
    protocol: Protocol | None = None
    # New at each start of the agent's process.
    instance_id: Id | None = None
    # The identity of the journal on disk: another one means that what was leased here is gone.
    journal_id: Id | None = None
    in_flight: tuple[InFlight, ...] | None = None
    # requestIds of results and turn ends that were never acknowledged; they follow.
    unacked: tuple[Id, ...] | None = None
    open_sessions: tuple[OpenSession, ...] | None = None

    @property
    def speaks_v2(self) -> bool:
        return self.protocol is not None

    @property
    def room(self) -> int:
        """How many requests at once, 1..200."""
        return MAX_IN_FLIGHT_DEFAULT if self.capabilities is None else self.capabilities.room


class Ping(Frame, frozen=True, kw_only=True, tag="ping"):
    """I live. `ts` is the agent's epoch ms and comes back in the pong."""

    ts: Count


class ExecuteReceived(Frame, frozen=True, kw_only=True, tag="execute_received"):
    """The request is in my journal; stop the accept timer."""

    request_id: Id
    lease_epoch: Count | None = None


class ExecuteEvent(Frame, frozen=True, kw_only=True, tag="execute_event"):
    """Something happened while it runs."""

    request_id: Id
    event: Event
    lease_epoch: Count | None = None


class ExecuteResult(Frame, frozen=True, kw_only=True, tag="execute_result"):
    """How it ended. Resent until `execute_ack`. `error` is an error code; `errorMessage` beside it is for people."""

    request_id: Id
    status: Literal["succeeded", "failed"]
    output: MaybeRaw = UNSET
    error: Annotated[str, Meta(max_length=1024)] | None = None
    error_message: str | None = None
    lease_epoch: Count | None = None


class Draining(Frame, frozen=True, kw_only=True, tag="draining"):
    """v2: give me nothing new, I finish what I have."""

    reason: str
    deadline_ms: Count | None = None


class SessionOpened(Frame, frozen=True, kw_only=True, tag="session_opened"):
    """The session is open here; answers the last `session_open` of its requestId."""

    request_id: Id
    session_id: Id


class TurnDelta(Frame, frozen=True, kw_only=True, tag="turn_delta"):
    """A piece of the answer's text while the turn runs."""

    request_id: Id
    session_id: Id
    content: str


class TurnEvent(Frame, frozen=True, kw_only=True, tag="turn_event"):
    """v2: a tool call or a tool's result of a running turn."""

    request_id: Id
    session_id: Id
    event: Event


class TurnFinal(Frame, frozen=True, kw_only=True, tag="turn_final"):
    """The answer. v2: `payload.memory` carries what the turn changed in memory (`TurnPayload`)."""

    request_id: Id
    session_id: Id
    content: str
    payload: MaybeRaw = UNSET


class TurnError(Frame, frozen=True, kw_only=True, tag="turn_error"):
    """The turn failed."""

    request_id: Id
    session_id: Id
    code: Annotated[str, Meta(max_length=1024)]
    message: str


class MemorySyncResult(Frame, frozen=True, kw_only=True, tag="memory_sync_result"):
    """Answers `memory_sync`."""

    request_id: Id
    session_id: Id
    status: Literal["ok", "failed"]
    details: MaybeRaw = UNSET
    error: str | None = None


class MemoryQueryResult(Frame, frozen=True, kw_only=True, tag="memory_query_result"):
    """Answers `memory_query`."""

    request_id: Id
    session_id: Id
    status: Literal["ok", "failed"]
    results: MaybeRaw = UNSET
    error: str | None = None


# --- gateway to agent ------------------------------------------------------------------------------------------------


class Welcome(Frame, frozen=True, kw_only=True, tag="welcome"):
    """v2: answers `hello` and says by which figures this connection lives. Durations in ms."""

    protocol_version: int
    connection_epoch: Count
    executor_id: str
    # None for a managed executor.
    organization_id: str | None
    server_time: str
    heartbeat_ms: Count
    stale_ms: Count
    lease_ms: Count
    max_frame_bytes: Count
    # What really holds: the smaller of what was asked for and what the control plane allows.
    max_in_flight: Count
    # The control plane's tags, which route; not the reported ones.
    tags: tuple[str, ...]


class Pong(Frame, frozen=True, kw_only=True, tag="pong"):
    """Answers every `ping`, with its `ts`."""

    ts: Count
    server_time: str


class Execute(Frame, frozen=True, kw_only=True, tag="execute"):
    """Do this. Its `repr` shows neither payload nor secrets."""

    request_id: Id
    organization_id: str
    user_id: str
    kind: str
    payload: Raw
    secret: str | None = None
    # v2 from here on.
    lease_epoch: Count | None = None
    timeout_ms: Count | None = None
    on_lost: OnLost | None = None
    # Clear values by secret id, for this one request.
    secrets: dict[str, str] | None = None
    traceparent: str | None = None

    def __repr__(self) -> str:
        return f"Execute(request_id={self.request_id!r}, kind={self.kind!r}, lease_epoch={self.lease_epoch!r})"


class ExecuteAck(Frame, frozen=True, kw_only=True, tag="execute_ack"):
    """The result (v2: or turn end) is committed; forget it."""

    request_id: Id


class ExecuteCancel(Frame, frozen=True, kw_only=True, tag="execute_cancel"):
    """v2: stop it and answer `execute_result failed NODE_EXECUTION_CANCELLED`."""

    request_id: Id
    reason: str


class SessionOpen(Frame, frozen=True, kw_only=True, tag="session_open"):
    """Open the session with this history. Its `repr` shows no config, for that may hold a key."""

    request_id: Id
    organization_id: str
    session_id: Id
    session_key: str
    routed_agent_id: str | None
    user_id: str
    session_config: Raw
    history: tuple[HistoryEntry, ...]
    history_from: Count
    history_seq: Count
    # v2 from here on.
    generation: Count | None = None
    memory: tuple[MemoryDocument, ...] | None = None
    # Another frame with the same requestId follows; answer only the last.
    more: bool | None = None

    def __repr__(self) -> str:
        return f"SessionOpen(request_id={self.request_id!r}, session_id={self.session_id!r}, more={self.more!r})"


class SessionTurn(Frame, frozen=True, kw_only=True, tag="session_turn"):
    """A user's message to answer."""

    request_id: Id
    organization_id: str
    session_id: Id
    session_key: str
    user_id: str
    event_seq: Count
    message: str
    attachments: MaybeRaw = UNSET
    # v2: the tool events of an earlier try of this turn.
    prior: MaybeRaw = UNSET
    # v2: the organization lets models run shell commands now (`tools.shellRunEnabled`).
    shell_run_enabled: bool | UnsetType = UNSET


class SessionCancel(Frame, frozen=True, kw_only=True, tag="session_cancel"):
    """Stop the running turn."""

    request_id: Id
    organization_id: str
    session_id: Id


class MemorySync(Frame, frozen=True, kw_only=True, tag="memory_sync"):
    """Bring the workspace's files and the server's copy together."""

    request_id: Id
    organization_id: str
    session_id: Id
    session_key: str
    provider: str
    workspace_dir: str
    # v2 from here on.
    direction: Literal["pull", "push"] | None = None
    documents: tuple[MemoryDocument, ...] | None = None


class MemoryQuery(Frame, frozen=True, kw_only=True, tag="memory_query"):
    """Search the session's memory."""

    request_id: Id
    organization_id: str
    session_id: Id
    session_key: str
    provider: str
    query: str
    limit: Annotated[int, Meta(ge=1, le=50)] | None = None


class Reconnect(Frame, frozen=True, kw_only=True, tag="reconnect"):
    """v2: this gateway is draining; connect elsewhere, then close."""

    after_ms: Count
    reason: str


class ErrorFrame(Frame, frozen=True, kw_only=True, tag="error"):
    """v2: what you sent is wrong; the message names the field."""

    code: str
    message: str
    request_id: str | None = None


AgentFrame: TypeAlias = (
    Hello
    | Ping
    | ExecuteReceived
    | ExecuteEvent
    | ExecuteResult
    | Draining
    | SessionOpened
    | TurnDelta
    | TurnEvent
    | TurnFinal
    | TurnError
    | MemorySyncResult
    | MemoryQueryResult
)
GatewayFrame: TypeAlias = (
    Welcome
    | Pong
    | Execute
    | ExecuteAck
    | ExecuteCancel
    | SessionOpen
    | SessionTurn
    | SessionCancel
    | MemorySync
    | MemoryQuery
    | Reconnect
    | ErrorFrame
)

# Frames that a base peer does not know.
V2_FRAMES: frozenset[type[Frame]] = frozenset({Draining, TurnEvent, Welcome, ExecuteCancel, Reconnect, ErrorFrame})
# Fields that a base peer does not know, with the value that leaves them out.
V2_FIELDS: dict[type[Frame], dict[str, object]] = {
    Hello: dict.fromkeys(("protocol", "instance_id", "journal_id", "in_flight", "unacked", "open_sessions")),
    Execute: {"lease_epoch": None, "timeout_ms": None, "on_lost": None, "secrets": None, "traceparent": None},
    SessionOpen: {"generation": None, "memory": None, "more": None},
    SessionTurn: {"prior": UNSET, "shell_run_enabled": UNSET},
    MemorySync: {"direction": None, "documents": None},
}


def base_form(frame: GatewayFrame) -> GatewayFrame | None:
    """What a base peer may see of `frame`: without its v2 fields; None where a base peer does not know the frame."""
    if type(frame) in V2_FRAMES:
        return None
    later = V2_FIELDS.get(type(frame))
    return msgspec.structs.replace(frame, **later) if later else frame


def wire_type(frame: Frame | type[Frame]) -> str:
    """The frame's `type` on the wire."""
    return str(frame.__struct_config__.tag)
