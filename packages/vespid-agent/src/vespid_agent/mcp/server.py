"""One server: kept connected, its tools known, its calls made.

    connecting ──initialize, tools/list──▶ up ──it ends, or cannot be spoken to──▶ down ──backoff──▶ connecting

The one thing to know: while it is down, what it had is still offered, and a call waits a little for it to come back. A
server that hangs, floods or lies harms itself alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

import mcp_types as types
from mcp.client.session import ClientSession, IncomingMessage
from mcp.shared.exceptions import MCPError

from vespid_agent import __version__
from vespid_agent.logs import Logger
from vespid_agent.mcp.answer import text_of
from vespid_agent.mcp.config import ServerConfig
from vespid_agent.mcp.connect import Connect
from vespid_agent.mcp.ends import ServerEnded
from vespid_agent.mcp.listing import Listing, Said, listing_of
from vespid_protocol.codes import Code
from vespid_runtime.redaction import Redactor
from vespid_runtime.tools.tool import ToolError

# For it to answer who it is, and what it has.
FIRST_ANSWER_S = 30.0
# How long a call waits for a server that is down.
COMES_BACK_S = 10.0
FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 60.0
# One that was up for so long has not failed again, but anew.
STEADY_S = 60.0
# Between two lists that it says have changed.
RELIST_S = 1.0
PROBLEM_MAX_CHARS = 500
_PAGES_MAX = 64


class Server:
    """`run` is its whole life; the rest is asked meanwhile."""

    def __init__(self, config: ServerConfig, connect: Connect, log: Logger) -> None:
        self.config = config
        # Of the last time that it was up.
        self.listing = Listing()
        # Why it is not up; None while it is.
        self.problem: str | None = "it has not answered yet"
        # Once it was up, or has failed to be.
        self.tried = asyncio.Event()
        self._connect = connect
        self._log = log
        self._redactor = Redactor(config.secrets)
        self._session: ClientSession | None = None
        self._up = asyncio.Event()
        self._relist = asyncio.Event()
        self._lost = asyncio.Event()
        self._over = False

    async def run(self) -> None:
        """Until cancelled; its process is gone then."""
        delays = _delays()
        while not self._over:
            since = time.monotonic()
            try:
                await self._live()
            except Exception as error:  # noqa: BLE001  (a stranger's doing, whatever it raises: told, and tried again)
                self._tell(error)
            finally:
                self._forget()
            if time.monotonic() - since > STEADY_S:
                delays = _delays()
            await asyncio.sleep(next(delays))

    def end(self) -> None:
        """It is not to be started again, whatever becomes of a cancellation on its way through the SDK."""
        self._over = True

    async def call(self, tool: str, arguments: dict[str, object], key: str, timeout_ms: int) -> str:
        """Its answer as text. Raises ToolError."""
        timeout_s = min(timeout_ms, self.config.timeout_ms) / 1000
        try:
            async with asyncio.timeout(timeout_s):
                session = await self._connected(timeout_s)
                meta: types.RequestParamsMeta = {"vespid/idempotencyKey": key}  # type: ignore[typeddict-unknown-key]
                params = types.CallToolRequestParams(name=tool, arguments=arguments, _meta=meta)
                result = await session.send_request(types.CallToolRequest(params=params), types.CallToolResult)
        except TimeoutError:
            raise ToolError(Code.NODE_EXECUTION_TIMEOUT, f"no answer within {int(timeout_s * 1000)} ms") from None
        except MCPError as error:
            raise self._failed(error) from None
        except ValueError:
            raise ToolError(Code.MCP_TOOL_FAILED, "the server answered with something that is no result") from None
        text = text_of(result)
        if result.is_error:
            raise ToolError(Code.MCP_TOOL_FAILED, text or "it does not say why")
        return text

    async def _connected(self, within_s: float) -> ClientSession:
        """Raises ToolError."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(within_s * 0.9, COMES_BACK_S)):
                await self._up.wait()
        if self._session is None:
            message = f"the server {self.config.name} does not run: {self.problem}"
            raise ToolError(Code.MCP_SERVER_UNAVAILABLE, message)
        return self._session

    def _failed(self, error: MCPError) -> ToolError:
        # Over HTTP nothing else tells that it has forgotten us.
        forgotten = bool(self.config.url) and error.error.code == types.INVALID_REQUEST
        if error.error.code == types.CONNECTION_CLOSED or forgotten:
            self._lost.set()
            self._forget()
            message = f"the server {self.config.name} was lost during the call"
            return ToolError(Code.MCP_SERVER_UNAVAILABLE, message)
        return ToolError(Code.MCP_TOOL_FAILED, error.error.message)

    def _forget(self) -> None:
        """Calls wait from now on."""
        self._session = None
        self._up.clear()

    async def _live(self) -> None:
        """From connecting to the end of it."""
        self._lost.clear()
        info = types.Implementation(name="vespid-agent", version=__version__)
        async with (
            self._connect(self.config) as (incoming, outgoing),
            ClientSession(incoming, outgoing, message_handler=self._heard, client_info=info) as session,
        ):
            async with asyncio.timeout(FIRST_ANSWER_S):
                await session.initialize()
                self._relist.clear()
                self.listing = await self._list(session)
            self._session, self.problem = session, None
            self._up.set()
            self.tried.set()
            self._log.info("mcp_server", name=self.config.name, tools=len(self.listing.tools))
            while not self._lost.is_set():
                await self._until_news()
                if self._relist.is_set():
                    await asyncio.sleep(RELIST_S)
                    self._relist.clear()
                    async with asyncio.timeout(FIRST_ANSWER_S):
                        self.listing = await self._list(session)
        raise ServerEnded("it does not know this connection any more")

    async def _until_news(self) -> None:
        waiting = [asyncio.ensure_future(event.wait()) for event in (self._relist, self._lost)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()

    async def _heard(self, message: IncomingMessage) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self._relist.set()

    async def _list(self, session: ClientSession) -> Listing:
        said: list[Said] = []
        cursor: str | None = None
        for _ in range(_PAGES_MAX):
            params = types.PaginatedRequestParams(cursor=cursor) if cursor else None
            page = await session.send_request(types.ListToolsRequest(params=params), types.ListToolsResult)
            said += [Said(tool.name, tool.description or "", tool.input_schema) for tool in page.tools]
            cursor = page.next_cursor
            if not cursor:
                break
        return listing_of(said, self.config)

    def _tell(self, error: BaseException) -> None:
        why, said = _why(error)
        problem = self._redactor.redact(f"{why}; it said: {said}" if said else why)[:PROBLEM_MAX_CHARS]
        if self.problem != problem:
            # What a program says of itself is no word of ours for a log.
            self._log.error("mcp_server_down", name=self.config.name, reason=self._redactor.redact(why))
        self.problem = problem
        self.tried.set()


def _why(error: BaseException) -> tuple[str, str]:
    """What happened, and what the server said; of several errors the one that tells most."""
    if isinstance(error, BaseExceptionGroup):
        found = [_why(inner) for inner in error.exceptions]
        ended = [_why(inner) for inner in error.exceptions if isinstance(inner, ServerEnded)]
        return (ended or found)[0]
    if isinstance(error, ServerEnded):
        return error.message, error.said
    if isinstance(error, TimeoutError):
        return f"it did not answer within {FIRST_ANSWER_S:g} s", ""
    if isinstance(error, MCPError):
        return "it refused to be asked what it has", error.error.message
    if isinstance(error, OSError):
        return f"it could not be started or reached: {error.strerror or type(error).__name__}", ""
    return f"it cannot be spoken to ({type(error).__name__})", ""


def _delays() -> Iterator[float]:
    delay = FIRST_DELAY_S
    while True:
        yield delay
        delay = min(delay * 2, LONGEST_DELAY_S)
