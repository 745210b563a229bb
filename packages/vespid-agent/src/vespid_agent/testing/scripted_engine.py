"""`vespid.scripted.v1`: does what the message says, for tests of sessions. Only an agent started with it has it.

`python -m vespid_agent.testing.scripted_agent start …` is an agent that has it; in a test's own process,
`InProcessAgent(…, engines=[ScriptedEngine()])`.

The message is a JSON list of steps, done in order; any other text is answered like an echo. Each step is an object with
one of these keys:

    {"say": "text"}              a piece of the answer; "afterMs": n: after a pause; "words": true: word by word
    {"pauseMs": n}               wait
    {"tool": "name", "input": …, "result": …}
                                 a tool_call and, after "afterMs", its tool_result
    {"remember": "path.md", "content": "text"}
                                 write a document of the memory; "content": null removes it; "append": true adds to it
    {"recall": "path.md"}        say the document, or "(nothing)"
    {"search": "words"}          say the paths that a search of the memory finds, one per line
    {"history": true}            say, as JSON, the history that came with the turn: [[seq, role, content], …]
    {"seen": true}               say the same in short: the first 12 hex digits of each content's SHA-256 instead of it
    {"request": true}            say the requestId
    {"prior": true}              say, as JSON, the tool events of an earlier try: [[kind, payload], …]
    {"config": true}             say, as JSON, model, toolsAllow, authMode, and whether there is an inline key
    {"key": true}                say the inline key, which nobody may see
    {"touch": "/a/file"}         append the requestId as a line to a file outside of the memory
    {"until": "/a/file"}         wait until the file exists
    {"fail": "CODE", "message": "text"}
                                 end the turn with that error
    {"raise": "text"}            end it with an exception that is no EngineError
    {"deaf": seconds}            take no notice of being cancelled for so long, from now on
    {"payload": {…}}             what the answer's payload is to hold

The answer is all that was said.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from pathlib import Path
from typing import Any

import msgspec

from vespid_runtime.engines.engine import EngineError, TurnAnswer, TurnOutput, TurnRequest
from vespid_runtime.tools.event import TOOL_CALL, TOOL_RESULT

SCRIPTED = "vespid.scripted.v1"

_WORDS = re.compile(r"\s*\S+\s*|\s+")
_LOOK_S = 0.02


class ScriptedEngine:
    """Keeps nothing between turns."""

    id = SCRIPTED

    async def turn(self, request: TurnRequest, output: TurnOutput) -> TurnAnswer:
        turn = _Script(request, output)
        for step in _steps(request.message):
            await turn.do(step)
        return TurnAnswer("".join(turn.said), turn.payload)


class _Script:
    """One turn on its way."""

    def __init__(self, request: TurnRequest, output: TurnOutput) -> None:
        self.said: list[str] = []
        self.payload: dict[str, object] | None = None
        self._request = request
        assert request.memory is not None, "only sessions are scripted"
        self._memory = request.memory
        self._output = output
        self._deaf_until = 0.0

    async def do(self, step: dict[str, Any]) -> None:
        work = asyncio.ensure_future(self._do(step))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            deaf_s = self._deaf_until - time.monotonic()
            if deaf_s > 0:
                await asyncio.wait((work,), timeout=deaf_s)
            raise
        finally:
            work.cancel()

    async def _do(self, step: dict[str, Any]) -> None:
        request = self._request
        await asyncio.sleep(step.get("afterMs", 0) / 1000 if "tool" not in step else 0)
        match step:
            case {"say": str(text)}:
                for piece in _WORDS.findall(text) if step.get("words") else [text]:
                    self._say(piece)
                    await asyncio.sleep(0)
            case {"pauseMs": pause}:
                await asyncio.sleep(pause / 1000)
            case {"tool": str(name)}:
                await self._tool(name, step)
            case {"remember": str(path)}:
                await asyncio.to_thread(self._remember, path, step)
            case {"recall": str(path)}:
                content = await asyncio.to_thread(self._memory.read, path)
                self._say("(nothing)" if content is None else content)
            case {"search": str(words)}:
                found = await asyncio.to_thread(self._memory.search, words)
                self._say("\n".join(each.path for each in found))
            case {"history": _}:
                self._say_json([[entry.seq, entry.role, entry.content] for entry in request.history])
            case {"seen": _}:
                self._say_json([[entry.seq, entry.role, digest(entry.content)] for entry in request.history])
            case {"request": _}:
                self._say(request.request_id)
            case {"prior": _}:
                self._say_json([[event.kind, event.payload] for event in request.prior])
            case {"config": _}:
                self._say_json(self._config())
            case {"key": _}:
                auth = request.config.engine.auth
                self._say(auth.api_key if auth is not None else "(none)")
            case {"touch": str(file)}:
                await asyncio.to_thread(self._touch, Path(file))
            case {"until": str(file)}:
                while not await asyncio.to_thread(Path(file).exists):  # noqa: ASYNC110  (a file tells nobody)
                    await asyncio.sleep(_LOOK_S)
            case {"fail": str(code)}:
                raise EngineError(code, str(step.get("message", "as told")))
            case {"raise": str(text)}:
                raise RuntimeError(text)
            case {"deaf": seconds}:
                self._deaf_until = time.monotonic() + seconds
            case {"payload": dict(payload)}:
                self.payload = payload
            case _:
                raise EngineError("BAD_REQUEST", f"no such step: {msgspec.json.encode(step).decode()[:200]}")

    def _say(self, text: str) -> None:
        self.said.append(text)
        self._output.delta(text)

    def _say_json(self, value: object) -> None:
        self._say(msgspec.json.encode(value).decode())

    async def _tool(self, name: str, step: dict[str, Any]) -> None:
        self._output.event(TOOL_CALL, "info", name, {"tool": name, "input": step.get("input")})
        await asyncio.sleep(step.get("afterMs", 0) / 1000)
        self._output.event(TOOL_RESULT, "info", name, {"tool": name, "result": step.get("result")})

    def _remember(self, path: str, step: dict[str, Any]) -> None:
        memory, content = self._memory, step.get("content")
        if content is None:
            memory.remove(path)
        elif step.get("append"):
            memory.append(path, content)
        else:
            memory.write(path, content)

    def _config(self) -> dict[str, object]:
        config = self._request.config
        engine = config.engine
        return {
            "model": engine.model,
            "authMode": engine.auth_mode,
            "hasKey": engine.auth is not None,
            "toolsAllow": config.tools_allow,
            "idempotencyKey": self._request.idempotency_key,
            "attachments": self._request.attachments,
        }

    def _touch(self, file: Path) -> None:
        with file.open("a") as lines:
            lines.write(f"{self._request.request_id}\n")


def digest(content: str) -> str:
    """What `seen` says of a content."""
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _steps(message: str) -> list[dict[str, Any]]:
    try:
        return msgspec.json.decode(message, type=list[dict[str, Any]])
    except msgspec.DecodeError:
        return [{"say": message, "words": True}]
