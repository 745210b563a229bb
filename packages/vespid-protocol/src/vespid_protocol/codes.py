"""Error codes and close codes: one enumeration, which is also the table in the docs.

A code on the wire is one of `Code`, some of them followed by ``:<detail>`` (``HOST_EXIT_CODE:3``), or a connector's or
model provider's own (``GITHUB_REQUEST_FAILED:502``). `is_retryable` decides whether trying again can help. The list is
open: an unknown code is terminal.
"""

# ruff: noqa: S105  (codes whose names speak of tokens and secrets)

from __future__ import annotations

import re
from enum import Enum, IntEnum, StrEnum
from typing import NamedTuple


class Family(Enum):
    """What kind of trouble a code tells of."""

    # No executor could take the work.
    PLACEMENT = "placement"
    # The attempt ran, or might have run, and did not succeed.
    EXECUTION = "execution"
    # Between worker and gateway.
    GATEWAY = "gateway"
    # The sandbox or the host under the task.
    SANDBOX = "sandbox"
    # What was asked for cannot be done like this, ever.
    REQUEST = "request"
    # Models and engines.
    ENGINE = "engine"
    # Client sockets and their sessions.
    SESSION = "session"
    # Before the upgrade of the socket: HTTP answers.
    HANDSHAKE = "handshake"


class Entry(NamedTuple):
    """One row of the table."""

    family: Family
    retryable: bool
    description: str
    # What follows the code after a colon, if anything: shown in the table as `CODE:<suffix>`.
    suffix: str | None = None


class Code(StrEnum):
    """Every code that this system itself gives. What each means stands in `CODES`."""

    NO_AGENT_AVAILABLE = "NO_AGENT_AVAILABLE"
    EXECUTOR_OVER_CAPACITY = "EXECUTOR_OVER_CAPACITY"
    ORG_QUOTA_EXCEEDED = "ORG_QUOTA_EXCEEDED"
    PINNED_AGENT_OFFLINE = "PINNED_AGENT_OFFLINE"
    NODE_EXECUTION_FAILED = "NODE_EXECUTION_FAILED"
    NODE_EXECUTION_TIMEOUT = "NODE_EXECUTION_TIMEOUT"
    NODE_EXECUTION_CANCELLED = "NODE_EXECUTION_CANCELLED"
    AGENT_DISCONNECTED = "AGENT_DISCONNECTED"
    GATEWAY_UNAVAILABLE = "GATEWAY_UNAVAILABLE"
    GATEWAY_NOT_CONFIGURED = "GATEWAY_NOT_CONFIGURED"
    GATEWAY_RESPONSE_INVALID = "GATEWAY_RESPONSE_INVALID"
    GATEWAY_DISPATCH_FAILED = "GATEWAY_DISPATCH_FAILED"
    GATEWAY_SHUTDOWN = "GATEWAY_SHUTDOWN"
    GATEWAY_TIMEOUT = "GATEWAY_TIMEOUT"
    DOCKER_FAILED = "DOCKER_FAILED"
    DOCKER_EXIT_CODE = "DOCKER_EXIT_CODE"
    HOST_EXIT_CODE = "HOST_EXIT_CODE"
    HOST_NETWORK_MODE_UNSUPPORTED = "HOST_NETWORK_MODE_UNSUPPORTED"
    SANDBOX_UNAVAILABLE = "SANDBOX_UNAVAILABLE"
    WORKDIR_QUOTA_EXCEEDED = "WORKDIR_QUOTA_EXCEEDED"
    SECRET_REQUIRED = "SECRET_REQUIRED"
    SECRET_NOT_FOUND = "SECRET_NOT_FOUND"
    SECRET_NOT_ALLOWED_FOR_SHELL = "SECRET_NOT_ALLOWED_FOR_SHELL"
    INVALID_EXECUTE_PAYLOAD = "INVALID_EXECUTE_PAYLOAD"
    INVALID_ACTION_PAYLOAD = "INVALID_ACTION_PAYLOAD"
    INVALID_ACTION_INPUT = "INVALID_ACTION_INPUT"
    ACTION_NOT_SUPPORTED = "ACTION_NOT_SUPPORTED"
    RESULT_TOO_LARGE = "RESULT_TOO_LARGE"
    TEMPLATE_VALUE_MISSING = "TEMPLATE_VALUE_MISSING"
    TOOL_NOT_ALLOWED = "TOOL_NOT_ALLOWED"
    TOOL_POLICY_DENIED = "TOOL_POLICY_DENIED"
    INVALID_TOOL_ARGUMENTS = "INVALID_TOOL_ARGUMENTS"
    SKILL_BROKEN = "SKILL_BROKEN"
    SKILL_OUTPUT_INVALID = "SKILL_OUTPUT_INVALID"
    MCP_SERVER_UNAVAILABLE = "MCP_SERVER_UNAVAILABLE"
    MCP_TOOL_FAILED = "MCP_TOOL_FAILED"
    AGENT_MAX_TURNS = "AGENT_MAX_TURNS"
    AGENT_MAX_TOOL_CALLS = "AGENT_MAX_TOOL_CALLS"
    AGENT_MAX_RUNTIME_CHARS = "AGENT_MAX_RUNTIME_CHARS"
    AGENT_NO_PROGRESS = "AGENT_NO_PROGRESS"
    AGENT_OUTPUT_INVALID = "AGENT_OUTPUT_INVALID"
    APPROVAL_REQUIRED = "APPROVAL_REQUIRED"
    APPROVAL_DENIED = "APPROVAL_DENIED"
    APPROVAL_EXPIRED = "APPROVAL_EXPIRED"
    EXECUTOR_UNSUPPORTED_ENGINE = "EXECUTOR_UNSUPPORTED_ENGINE"
    EXECUTOR_CLI_NOT_FOUND = "EXECUTOR_CLI_NOT_FOUND"
    EXECUTOR_CLI_FAILED = "EXECUTOR_CLI_FAILED"
    LLM_TIMEOUT = "LLM_TIMEOUT"
    LLM_AUTH_NOT_CONFIGURED = "LLM_AUTH_NOT_CONFIGURED"
    ENGINE_UNAVAILABLE = "ENGINE_UNAVAILABLE"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    BAD_REQUEST = "BAD_REQUEST"
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    SESSION_BUSY = "SESSION_BUSY"
    TURN_CANCELLED = "TURN_CANCELLED"
    EXECUTOR_TOKEN_INVALID = "EXECUTOR_TOKEN_INVALID"
    EXECUTOR_REVOKED = "EXECUTOR_REVOKED"
    GATEWAY_DRAINING = "GATEWAY_DRAINING"
    PROTOCOL_UNSUPPORTED = "PROTOCOL_UNSUPPORTED"


_P, _X, _G, _B, _R, _E, _S, _H = (
    Family.PLACEMENT,
    Family.EXECUTION,
    Family.GATEWAY,
    Family.SANDBOX,
    Family.REQUEST,
    Family.ENGINE,
    Family.SESSION,
    Family.HANDSHAKE,
)

CODES: dict[Code, Entry] = {
    Code.NO_AGENT_AVAILABLE: Entry(_P, False, "No connected agent could take it within the time it may wait."),
    Code.EXECUTOR_OVER_CAPACITY: Entry(
        _P, False, "The agent has no room. As an answer to `execute` a decline: the request goes elsewhere."
    ),
    Code.ORG_QUOTA_EXCEEDED: Entry(_P, False, "The organization has as much in flight as it may."),
    Code.PINNED_AGENT_OFFLINE: Entry(_P, False, "The one agent that was asked for is not connected."),
    Code.NODE_EXECUTION_FAILED: Entry(_X, True, "The work failed for a reason without a code of its own."),
    Code.NODE_EXECUTION_TIMEOUT: Entry(_X, True, "No result within the node's time."),
    Code.NODE_EXECUTION_CANCELLED: Entry(_X, False, "It was cancelled."),
    Code.AGENT_DISCONNECTED: Entry(_X, True, "The agent was lost, or restarted, while it had the work."),
    Code.GATEWAY_UNAVAILABLE: Entry(_G, True, "The gateway could not be reached."),
    Code.GATEWAY_NOT_CONFIGURED: Entry(_G, True, "The worker was started without the gateway's address or token."),
    Code.GATEWAY_RESPONSE_INVALID: Entry(_G, True, "The gateway answered with something else than its contract says."),
    Code.GATEWAY_DISPATCH_FAILED: Entry(_G, True, "The gateway refused the dispatch."),
    Code.GATEWAY_SHUTDOWN: Entry(_G, True, "The gateway stopped while it held the work."),
    Code.GATEWAY_TIMEOUT: Entry(_G, True, "The gateway could not say in time; the result can still be read later."),
    Code.DOCKER_FAILED: Entry(_B, True, "Docker could not create or start the container."),
    Code.DOCKER_EXIT_CODE: Entry(_B, True, "The task in the container exited with this code.", "n"),
    Code.HOST_EXIT_CODE: Entry(_B, True, "The task exited with this code.", "n"),
    Code.HOST_NETWORK_MODE_UNSUPPORTED: Entry(_B, False, "`network: none` cannot be enforced without a sandbox."),
    Code.SANDBOX_UNAVAILABLE: Entry(_B, False, "This agent cannot run that sandbox backend.", "backend"),
    Code.WORKDIR_QUOTA_EXCEEDED: Entry(_B, False, "The task wrote more than its work folder may hold."),
    Code.SECRET_REQUIRED: Entry(_R, False, "The work needs a secret and none was given."),
    Code.SECRET_NOT_FOUND: Entry(_R, False, "The secret that is named does not exist."),
    Code.SECRET_NOT_ALLOWED_FOR_SHELL: Entry(_R, False, "The organization does not let shell tasks read secrets."),
    Code.INVALID_EXECUTE_PAYLOAD: Entry(_R, False, "The `execute` payload has a bad shape."),
    Code.INVALID_ACTION_PAYLOAD: Entry(_R, False, "The connector action's payload has a bad shape."),
    Code.INVALID_ACTION_INPUT: Entry(_R, False, "The connector action's input does not fit its schema."),
    Code.ACTION_NOT_SUPPORTED: Entry(_R, False, "No such connector, or no such action of it.", "connector>:<action"),
    Code.RESULT_TOO_LARGE: Entry(_R, False, "The result is larger than a frame may be."),
    Code.TEMPLATE_VALUE_MISSING: Entry(_R, False, "A template names a value that is not there and has no default."),
    Code.TOOL_NOT_ALLOWED: Entry(_R, False, "The model asked for a tool that the node does not allow.", "tool"),
    Code.TOOL_POLICY_DENIED: Entry(_R, False, "The organization's settings forbid the tool.", "tool"),
    Code.INVALID_TOOL_ARGUMENTS: Entry(_R, False, "The arguments of a tool call do not fit the tool's schema."),
    Code.SKILL_BROKEN: Entry(_R, False, "The skill's files are not as they have to be."),
    Code.SKILL_OUTPUT_INVALID: Entry(_R, False, "The skill did not print the JSON that its manifest promises."),
    Code.MCP_SERVER_UNAVAILABLE: Entry(_E, True, "The MCP server does not run, or cannot be reached."),
    Code.MCP_TOOL_FAILED: Entry(_E, False, "The MCP server's tool says that it failed."),
    Code.AGENT_MAX_TURNS: Entry(_E, False, "The model used up its turns without an answer."),
    Code.AGENT_MAX_TOOL_CALLS: Entry(_E, False, "The model used up its tool calls without an answer."),
    Code.AGENT_MAX_RUNTIME_CHARS: Entry(_E, False, "What the model has to be given is longer than it may be."),
    Code.AGENT_NO_PROGRESS: Entry(_E, False, "The model said nothing, or asked for the same calls, again and again."),
    Code.AGENT_OUTPUT_INVALID: Entry(
        _E, False, "The model's answer is not the JSON that is wanted, also after repairs."
    ),
    Code.APPROVAL_REQUIRED: Entry(_R, False, "The attempt waits for a person; it goes on when one has decided."),
    Code.APPROVAL_DENIED: Entry(_R, False, "A person did not allow it."),
    Code.APPROVAL_EXPIRED: Entry(_R, False, "Nobody allowed it in time."),
    Code.EXECUTOR_UNSUPPORTED_ENGINE: Entry(_E, False, "The agent does not have that engine."),
    Code.EXECUTOR_CLI_NOT_FOUND: Entry(_E, False, "The engine's command line program is not installed on the agent."),
    Code.EXECUTOR_CLI_FAILED: Entry(_E, True, "The engine's command line program failed."),
    Code.LLM_TIMEOUT: Entry(_E, True, "The model provider did not answer in time."),
    Code.LLM_AUTH_NOT_CONFIGURED: Entry(_E, False, "There are no credentials for the model provider."),
    Code.ENGINE_UNAVAILABLE: Entry(_E, True, "The engine cannot be reached just now."),
    Code.INTERNAL_ERROR: Entry(_X, False, "A fault of this system's own; the log has the request id."),
    Code.BAD_REQUEST: Entry(_S, False, "The frame has a bad shape; the message names the field."),
    Code.SESSION_NOT_FOUND: Entry(_S, False, "No such session in this organization."),
    Code.SESSION_BUSY: Entry(_S, False, "A turn is running and the session takes no second message meanwhile."),
    Code.TURN_CANCELLED: Entry(_S, False, "The turn was cancelled."),
    Code.EXECUTOR_TOKEN_INVALID: Entry(_H, False, "401: the agent's token is unknown or malformed."),
    Code.EXECUTOR_REVOKED: Entry(_H, False, "403: the agent was revoked."),
    Code.GATEWAY_DRAINING: Entry(_H, True, "503: this gateway is stopping; Retry-After says when to come again."),
    Code.PROTOCOL_UNSUPPORTED: Entry(_H, False, "426: `?protocol=` asks for a version that is not spoken here."),
}

# A connector's or provider's own: what it was, and the HTTP status or the kind of network trouble.
_REQUEST_FAILED = re.compile(r"[A-Z][A-Z0-9_]*_(?:REQUEST|SEND|QUERY)_FAILED(?::(?P<detail>.*))?", re.DOTALL)
_NETWORK_TROUBLE = frozenset({"", "0", "NETWORK", "NETWORK_ERROR", "TIMEOUT", "DNS", "CONNECT", "TLS"})


def base_code(code: str) -> str:
    """The code without its ``:<detail>``."""
    return code.partition(":")[0]


def describe(code: str) -> Entry | None:
    """The row of the table for a code, with or without its detail; None for a code that is not ours."""
    name = base_code(code)
    return CODES[Code(name)] if name in Code.__members__ else None


def is_retryable(code: str) -> bool:
    """Whether trying the same again can help.

    Of a connector's errors (``<NAME>_REQUEST_FAILED:<detail>``) it can for a status of 429 or 5xx and for trouble of
    the network (no detail, ``0``, ``NETWORK``, ``TIMEOUT``, ``DNS``, ``CONNECT``, ``TLS``). Unknown codes: no.
    """
    entry = describe(code)
    if entry is not None:
        return entry.retryable
    if code.startswith("GATEWAY_"):
        return True
    failed = _REQUEST_FAILED.fullmatch(code)
    if failed is None:
        return False
    detail = (failed["detail"] or "").upper()
    if detail.isascii() and detail.isdigit() and len(detail) == 3:
        return detail == "429" or detail.startswith("5")
    return detail in _NETWORK_TROUBLE


class CloseCode(IntEnum):
    """Why a socket was closed, as the other end reads it."""

    NORMAL = 1000
    GOING_AWAY = 1001
    POLICY = 1008
    TOO_BIG = 1009
    SLOW_READER = 1013
    TOKEN_INVALID = 4401
    REVOKED = 4403
    STALE = 4408
    SUPERSEDED = 4409
    PROTOCOL_UNSUPPORTED = 4426


CLOSE_CODES: dict[CloseCode, str] = {
    CloseCode.NORMAL: "A newer socket of the same agent process took over, or the work is done.",
    CloseCode.GOING_AWAY: "The other end stops or drains. Reconnect.",
    CloseCode.POLICY: "Twenty bad frames within a minute. Reconnect.",
    CloseCode.TOO_BIG: "A frame beyond four times the agreed limit. Reconnect, with something smaller.",
    CloseCode.SLOW_READER: "The reader was too far behind. Reconnect.",
    CloseCode.TOKEN_INVALID: "The token is no longer valid. Final.",
    CloseCode.REVOKED: "The agent was revoked, or the client's login or key ended. Final.",
    CloseCode.STALE: "Nothing was heard for the whole stale window, or work was not taken in time. Reconnect.",
    CloseCode.SUPERSEDED: "Another process uses this credential. Wait 30 to 60 s; the third in ten minutes is final.",
    CloseCode.PROTOCOL_UNSUPPORTED: "This protocol version is not spoken here. Final.",
}

# After these the agent stops, exits non-zero and says why.
FINAL_CLOSE_CODES = frozenset({CloseCode.TOKEN_INVALID, CloseCode.REVOKED, CloseCode.PROTOCOL_UNSUPPORTED})
