"""The tools as the official MCP SDK serves them. Nobody but `mcp_endpoint` imports this: the SDK is heavy."""

import asyncio
from importlib.metadata import version
from typing import Any

import mcp_types as types
import msgspec
import structlog
from litestar.types import Receive, Scope, Send
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError

from vespid.control.body import MAX_BODY_BYTES
from vespid.control.context import provide_tenant
from vespid.control.errors import DATABASE_AWAY
from vespid.control.mcp_fit import fit
from vespid.control.mcp_tools import TOOLS, Tool
from vespid.control.request_id import request_id_of
from vespid.errors import ApiError, unavailable

log = structlog.get_logger("vespid.control.mcp")

Context = ServerRequestContext[Any, Any]

_INSTRUCTIONS = """\
Vespid runs an organization's workflows and agents on machines that it controls. Find a workflow with list_workflows
(only published ones run), start it with start_run, follow it with read_run_events (wait with waitSeconds, go on from
nextAfterSeq until isOver), and read get_run or get_node_output for what came of it."""


class McpSpeaker:
    """Answers requests of the protocol between the start and the end of `run`."""

    def __init__(self) -> None:
        server: Server[Any] = Server(
            "vespid",
            version=version("vespid"),
            title="Vespid",
            instructions=_INSTRUCTIONS,
            on_list_tools=_list_tools,
            on_call_tool=_call_tool,
        )
        self._sessions = StreamableHTTPSessionManager(
            server, json_response=True, stateless=True, max_request_body_size=MAX_BODY_BYTES
        )

    async def run(self, ready: asyncio.Event, ended: asyncio.Event) -> None:
        """Set `ready`, and answer until `ended`."""
        async with self._sessions.run():
            ready.set()
            await ended.wait()

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        await self._sessions.handle_request(scope, receive, send)  # type: ignore[arg-type]


async def _list_tools(_context: Context, _params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[_shown(tool) for tool in TOOLS.values()])


async def _call_tool(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    tool = TOOLS.get(params.name)
    if tool is None:
        raise MCPError(code=types.INVALID_PARAMS, message=f"There is no tool {params.name[:100]!r}.")
    if context.request is None:
        raise RuntimeError("the SDK has not handed the request over")
    scope = context.request.scope
    tenant, deps = provide_tenant(scope), scope["litestar_app"].state.deps
    try:
        answer = await tool.call(tenant, deps, params.arguments or {})
    except ApiError as error:
        return _refused(error)
    except DATABASE_AWAY as error:
        log.warning("neighbour_unavailable", tool=tool.name, error=repr(error))
        return _refused(unavailable("A part of the system is away at the moment. Try again."))
    except Exception as error:
        request_id = request_id_of(scope)
        log.error("unforeseen_error", tool=tool.name, request_id=request_id, exc_info=error)
        message = "Something went wrong on our side."
        return _refused(ApiError(500, "INTERNAL_ERROR", message, {"requestId": request_id}))
    return _told(fit(answer))


def _refused(error: ApiError) -> types.CallToolResult:
    """A refusal as the HTTP routes give it, status and envelope."""
    return _told({"status": error.status, **error.envelope()}, is_error=True)


def _told(content: dict[str, Any], *, is_error: bool = False) -> types.CallToolResult:
    text = types.TextContent(type="text", text=msgspec.json.encode(content).decode())
    return types.CallToolResult(content=[text], structured_content=content, is_error=is_error)


def _shown(tool: Tool[Any]) -> types.Tool:
    hints = types.ToolAnnotations(
        title=tool.title,
        read_only_hint=tool.is_read,
        destructive_hint=tool.is_destructive,
        idempotent_hint=tool.is_read,
        open_world_hint=False,
    )
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.input_schema,
        annotations=hints,
    )
