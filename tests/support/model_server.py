"""A model provider on loopback, in the wire of OpenAI (chat completions, responses), Anthropic (messages) and Gemini.

    async with ModelServer() as server:
        server.will(Say("Hello"), call_tools(Tool("add", {"a": 1})), Fail(429, headers=(("Retry-After", "1"),)))

Each request takes the next step of the script, whatever wire it speaks, and is kept in `server.requests`. A step that
waits does so until the test says `server.go_on()` or the client is gone: nothing here sleeps.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from aiohttp import web
from tests.support import model_wire

Wire = Literal["chat", "responses", "messages", "gemini"]


@dataclass(frozen=True)
class Tool:
    """One call of a tool. `arguments` as a string goes out as it is: no JSON, if the test wants that."""

    name: str
    arguments: dict[str, Any] | str = field(default_factory=dict)
    # Of the responses wire alone: Codex has the tools of each MCP server in a namespace of its own.
    namespace: str | None = None

    @property
    def text(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass(frozen=True)
class Say:
    """Text, then perhaps calls of tools."""

    text: str = ""
    tools: tuple[Tool, ...] = ()
    # How the wire spells it is found out there.
    stop: Literal["stop", "length", "refusal"] = "stop"
    input_tokens: int = 11
    output_tokens: int = 7
    # How the text is cut when it is streamed.
    pieces: int = 3


def call_tools(*tools: Tool, text: str = "") -> Say:
    return Say(text, tools)


@dataclass(frozen=True)
class Fail:
    """An error instead of an answer, in the wire's own shape."""

    status: int
    message: str = "no"
    # The wire's own word for it: `insufficient_quota`, `overloaded_error`.
    kind: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Midway:
    """A stream that says so much of the answer, and then this happens."""

    answer: Say
    then: Literal["cut", "end", "error", "wait"]
    kind: str = "overloaded_error"
    # How many events of the answer come before.
    after: int = 3


@dataclass(frozen=True)
class Wait:
    """Nothing is answered until the test says so."""

    then: Say | Fail


@dataclass(frozen=True)
class Raw:
    """An answer of the test's own."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


Step = Say | Fail | Midway | Wait | Raw


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    wire: Wire
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def key(self) -> str:
        """However the wire carries it."""
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
        return self.headers.get("x-api-key") or self.headers.get("x-goog-api-key") or bearer


class ModelServer:
    """`key`: what requests must present, else they get the wire's 401. None: anything will do."""

    def __init__(self, *, key: str | None = None) -> None:
        self.requests: list[Asked] = []
        self.key = key
        # Set when a step waits for the test, and when a client left before its answer had ended.
        self.waiting = asyncio.Event()
        self.left = asyncio.Event()
        # How many answers were being given at once, at most.
        self.at_once = 0
        self._now = 0
        self._script: deque[Step] = deque()
        self._decide: Callable[[Asked], Step] = lambda asked: Fail(500, "the script has no more steps")
        self._go_on = asyncio.Event()
        self._came = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    def will(self, *steps: Step) -> None:
        """What the next requests get."""
        self._script.extend(steps)

    def decides(self, by: Callable[[Asked], Step]) -> None:
        """Once the script is over, each request gets what this says of it: the same for the same, however often."""
        self._decide = by

    async def got(self, count: int) -> None:
        """Returns once so many requests have come, all told."""
        async with self._came:
            await self._came.wait_for(lambda: len(self.requests) >= count)

    def go_on(self) -> None:
        """Let everything go that waits, now and later."""
        self._go_on.set()

    @property
    def origin(self) -> str:
        assert self._runner is not None
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    @property
    def openai_url(self) -> str:
        """What the OpenAI SDK, and Codex, want as their base URL; the others want `origin`."""
        return f"{self.origin}/v1"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._route("chat"))
        app.router.add_post("/v1/responses", self._route("responses"))
        app.router.add_post("/v1/messages", self._route("messages"))
        app.router.add_post("/{version:v1(?:beta)?}/models/{model:[^:/]+}:{method}", self._route("gemini"))
        # A client that leaves ends its handler: that is how we see it.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        self.go_on()
        await self._runner.cleanup()

    def _route(self, wire: Wire) -> Any:
        async def answer(request: web.Request) -> web.StreamResponse:
            self._now += 1
            self.at_once = max(self.at_once, self._now)
            try:
                return await self._answer(wire, request)
            except (asyncio.CancelledError, ConnectionResetError):
                self.left.set()
                raise
            finally:
                self._now -= 1

        return answer

    async def _answer(self, wire: Wire, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        asked = Asked(wire, request.path_qs, headers, await request.json())
        async with self._came:
            self.requests.append(asked)
            self._came.notify_all()
        if self.key is not None and asked.key != self.key:
            return _failure(wire, Fail(401, f"Incorrect API key provided: {asked.key}.", "authentication_error"))
        step = self._script.popleft() if self._script else self._decide(asked)
        if isinstance(step, Wait):
            await self._pause()
            step = step.then
        streams = asked.body.get("stream") or request.match_info.get("method") == "streamGenerateContent"
        match step:
            case Raw():
                return web.Response(
                    body=step.body, status=step.status, content_type=step.content_type, headers=dict(step.headers)
                )
            case Fail():
                return _failure(wire, step)
            case Say() if not streams:
                return web.json_response(model_wire.whole(wire, step, asked.body))
            case Say():
                return await self._stream(request, model_wire.events(wire, step, asked.body))
            case Midway():
                return await self._break(wire, request, step, asked.body)

    async def _pause(self) -> None:
        self.waiting.set()
        await self._go_on.wait()

    async def _stream(self, request: web.Request, events: Sequence[bytes]) -> web.StreamResponse:
        response = await _opened(request)
        for event in events:
            await response.write(event)
        await response.write_eof()
        return response

    async def _break(self, wire: Wire, request: web.Request, step: Midway, body: dict[str, Any]) -> web.StreamResponse:
        events = model_wire.events(wire, step.answer, body)
        response = await _opened(request)
        for event in events[: step.after]:
            await response.write(event)
        match step.then:
            case "cut":
                assert request.transport is not None
                request.transport.abort()
            case "error":
                await response.write(model_wire.error_event(wire, step.kind))
                await response.write_eof()
            case "wait":
                await self._pause()
                for event in events[step.after :]:
                    await response.write(event)
                await response.write_eof()
            case "end":
                await response.write_eof()
        return response


async def _opened(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    return response


def _failure(wire: Wire, step: Fail) -> web.Response:
    body = model_wire.error(wire, step.status, step.kind, step.message)
    return web.json_response(body, status=step.status, headers=dict(step.headers))
