"""`mcp.<server>.<tool>`: real servers made with the SDK, as programs and over HTTP, and some that mean harm."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.processes import free_port

from vespid_agent.logs import get_logger
from vespid_agent.mcp import server as supervision
from vespid_agent.tools.mcp import McpTools
from vespid_runtime.redaction import MASK
from vespid_runtime.tools.tool import ToolError, ToolUse
from vespid_runtime.tools.toolbox import Toolbox

from ..sandbox.conftest import processes_saying
from .conftest import USE, Ground

SERVER = str(Path(__file__).parents[4] / "tests" / "support" / "mcp_server.py")
CANARY = "canary-of-the-server"

pytestmark = pytest.mark.timeout(90)


class Servers:
    """The tools of some servers, as a request has them."""

    def __init__(self, source: McpTools, ground: Ground) -> None:
        self.source = source
        self._ground = ground

    @property
    def ids(self) -> list[str]:
        return [id for id, _, _ in self.source.offered]

    async def call(self, tool: str, timeout_ms: int = 20_000, **arguments: object) -> str:
        use = ToolUse(n=0, key="run:n1:tool:0", timeout_ms=timeout_ms)
        (found,) = [each for each in self.source.tools(self._ground.scope()) if each.id == f"mcp.{tool}"]
        return str(await found.call(arguments, use))

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(40):
            while not holds():
                await asyncio.sleep(0.02)


Start = Callable[..., Awaitable[Servers]]


@pytest.fixture
async def start(host: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    monkeypatch.setattr(supervision, "FIRST_DELAY_S", 0.05)
    monkeypatch.setattr(supervision, "RELIST_S", 0.01)
    sources: list[McpTools] = []

    async def begin(environment: dict[str, str] | None = None, **servers: Any) -> Servers:
        file = tmp_path / "mcp.json"
        file.write_text(json.dumps({"mcpServers": servers}))
        env = {"PATH": os.environ["PATH"], "HOME": "/root", "SECRET_OF_AGENT": "x", **(environment or {})}
        source = McpTools(file, env, ssl.create_default_context(), get_logger("test"))
        sources.append(source)
        await source.start()
        await source.settled(60)
        return Servers(source, host)

    yield begin
    for source in sources:
        await source.stop()


def program(**more: object) -> dict[str, object]:
    return {"command": sys.executable, "args": [SERVER], **more}


def script(code: str, **more: object) -> dict[str, object]:
    """A server that is not made with the SDK."""
    return {"command": sys.executable, "args": ["-c", HOSTILE + code], **more}


HOSTILE = """
import json, sys, time
def say(**message): print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
def answer(tools, first=True):
    for line in sys.stdin:
        asked = json.loads(line)
        if asked.get("method") == "initialize":
            able = {"tools": {"listChanged": True}}
            info = {"name": "h", "version": "1"}
            say(id=asked["id"], result={"protocolVersion": "2025-06-18", "capabilities": able, "serverInfo": info})
        elif asked.get("method") == "tools/list":
            say(id=asked["id"], result={"tools": tools})
        elif "id" in asked:
            return asked
def tell(text):
    asked = answer([tool])
    say(id=asked["id"], result={"content": [{"type": "text", "text": text or json.dumps(asked["params"])}]})
    answer([])
tool = {"name": "t", "inputSchema": {"type": "object"}}
"""


async def test_a_program_is_asked_for_its_tools_and_called(start: Start) -> None:
    servers = await start(calc=program())
    assert "mcp.calc.add" in servers.ids
    assert await servers.call("calc.add", a=1, b=2) == "3"
    assert servers.source.problems == {}
    schema = next(schema for id, _, schema in servers.source.offered if id == "mcp.calc.add")
    assert sorted(schema["properties"]) == ["a", "b"]  # type: ignore[call-overload]


async def test_its_environment_is_small_and_filled_in(start: Start) -> None:
    servers = await start({"MINE": CANARY}, calc=program(env={"TOKEN": "${MINE}", "WITH": "${NONE:-default}"}))
    said = dict(line.split("=", 1) for line in (await servers.call("calc.environment")).splitlines())
    for own in ("VESPID_TASK_TOKEN", "LC_CTYPE"):
        said.pop(own, None)
    assert said == {"PATH": os.environ["PATH"], "HOME": "/root", "TOKEN": CANARY, "WITH": "default"}


@pytest.mark.promise("P7")
async def test_what_a_server_was_given_is_masked_in_all_it_says(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    leak = f"""
tools = [{{"name": "t", "description": {CANARY!r}, "inputSchema": {{"type": "object", "title": {CANARY!r}}}}}]
asked = answer(tools)
say(id=asked["id"], error={{"code": -1, "message": {CANARY!r}}})
asked = answer(tools)
print({CANARY!r}, file=sys.stderr, flush=True)
sys.exit(1)
"""
    servers = await start(leaky=script(leak, env={"TOKEN": CANARY}), broken=program(env={CANARY: "${MISSING}"}))
    box = Toolbox(servers.source.tools(servers._ground.scope()))
    told = [await box.call("mcp.leaky.t", {}, USE)]
    told.append(await box.call("mcp.leaky.t", {}, USE))
    await servers.until(lambda: "exited" in servers.source.problems.get("mcp.leaky", ""))
    everything = repr([told, servers.source.offered, servers.source.problems, box.infos, *capfd.readouterr()])
    assert CANARY not in everything
    assert MASK in everything
    assert CANARY in box.secrets


async def test_a_tool_that_fails_says_why(start: Start) -> None:
    servers = await start(calc=program())
    with pytest.raises(ToolError) as failed:
        await servers.call("calc.fail")
    assert failed.value.code == "MCP_TOOL_FAILED"
    with pytest.raises(ToolError) as wrong:
        await servers.call("calc.add", a="x")
    assert wrong.value.code == "MCP_TOOL_FAILED"


async def test_a_call_has_its_time_and_the_servers_goes_before_it(start: Start) -> None:
    servers = await start(calc=program(timeoutMs=300))
    with pytest.raises(ToolError) as late:
        await servers.call("calc.hang")
    assert late.value.code == "NODE_EXECUTION_TIMEOUT"
    assert "300 ms" in late.value.message
    assert await servers.call("calc.add", a=1, b=2) == "3"


async def test_a_large_result_comes_whole_and_one_too_large_ends_the_server_alone(start: Start) -> None:
    servers = await start(
        calc=program(),
        flood=script("asked = answer([tool]); sys.stdout.write('x' * 40_000_000); sys.stdout.flush(); time.sleep(600)"),
    )
    assert len(await servers.call("calc.big", size=5_000_000)) == 5_000_000
    with pytest.raises(ToolError) as lost:
        await servers.call("flood.t")
    assert lost.value.code == "MCP_SERVER_UNAVAILABLE"
    assert await servers.call("calc.add", a=1, b=2) == "3"


async def test_one_that_dies_fails_its_call_and_comes_back(start: Start) -> None:
    servers = await start(calc=program())
    before = await servers.call("calc.pid")
    with pytest.raises(ToolError) as lost:
        await servers.call("calc.die")
    assert lost.value.code == "MCP_SERVER_UNAVAILABLE"
    assert "mcp.calc.add" in servers.ids
    assert await servers.call("calc.pid") != before
    assert servers.source.problems == {}


async def test_one_that_keeps_dying_is_told_of_with_its_last_words_and_tried_ever_less(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(supervision, "COMES_BACK_S", 0.1)
    code = f"open({str(tmp_path / 'tries')!r}, 'a').write('x'); print('no licence', file=sys.stderr); sys.exit(7)"
    servers = await start(bad=script(code), calc=program())
    assert servers.source.problems == {"mcp.bad": "the program exited with 7; it said: no licence"}
    assert await servers.call("calc.add", a=1, b=2) == "3"
    await servers.until(lambda: len((tmp_path / "tries").read_text()) >= 3)
    delays = supervision._delays()
    assert [next(delays) for _ in range(12)][-1] == supervision.LONGEST_DELAY_S


async def test_one_that_hangs_at_first_is_told_of_and_holds_up_no_other(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "FIRST_ANSWER_S", 15.0)
    began = asyncio.ensure_future(start(mute=script("time.sleep(600)"), calc=program()))
    servers = await began
    assert "did not answer within 15 s" in servers.source.problems["mcp.mute"]
    assert await servers.call("calc.add", a=1, b=2) == "3"


async def test_starting_waits_for_no_server(host: Ground, tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps({"mcpServers": {"mute": script("time.sleep(600)")}}))
    source = McpTools(file, {"PATH": os.environ["PATH"]}, ssl.create_default_context(), get_logger("test"))
    async with asyncio.timeout(1):
        await source.start()
    await source.stop()


async def test_a_changed_list_is_read_anew(start: Start) -> None:
    servers = await start(calc=program())
    assert await servers.call("calc.grow", name="later") == "grown"
    await servers.until(lambda: "mcp.calc.later" in servers.ids)
    assert await servers.call("calc.later") == "more"


async def test_only_allowed_ones_are_there(start: Start) -> None:
    servers = await start(calc=program(allow=["a*", "pid"]))
    assert sorted(servers.ids) == ["mcp.calc.add", "mcp.calc.pid"]
    off = await start(calc=program(disabled=True))
    assert off.ids == []


async def test_what_cannot_be_offered_is_left_out_and_told_of(start: Start) -> None:
    code = """
tools = [tool, {"name": "with space", "inputSchema": {"type": "object"}}, tool,
  {"name": "large", "inputSchema": {"type": "object", "title": "x" * 70_000}},
  {"name": "wrong", "inputSchema": {"type": "object", "properties": {"a": {"type": "moon"}}}},
  {"name": "far", "inputSchema": {"type": "object", "$ref": "http://127.0.0.1:9/"}}]
answer(tools)
"""
    servers = await start(odd=script(code))
    assert servers.ids == ["mcp.odd.t"]
    told = servers.source.problems["mcp.odd"]
    for name in ("with space", "large", "wrong", "far", "twice"):
        assert name in told


async def test_a_flood_of_tools_is_bounded(start: Start) -> None:
    servers = await start(many=script("answer([{**tool, 'name': f't{n}'} for n in range(5_000)])"))
    assert len(servers.ids) == 128
    assert "more than 128" in servers.source.problems["mcp.many"]


async def test_noise_on_standard_output_is_passed_over(start: Start) -> None:
    code = "print('Welcome!'); print('{'); print('[]'); print(json.dumps({'jsonrpc': '2.0', 'id': 99, 'result': {}}))\n"
    code += "tell('here')"
    servers = await start(noisy=script(code))
    assert await servers.call("noisy.t") == "here"


async def test_an_answer_that_is_none_fails_the_call_alone(start: Start) -> None:
    code = "asked = answer([tool]); say(id=asked['id'], result={'content': 7})\n"
    code += "tell('well')"
    servers = await start(odd=script(code))
    with pytest.raises(ToolError) as bad:
        await servers.call("odd.t")
    assert bad.value.code == "MCP_TOOL_FAILED"
    assert await servers.call("odd.t") == "well"


async def test_pictures_are_told_of_and_structure_is_text(start: Start) -> None:
    code = """
asked = answer([tool])
say(id=asked["id"], result={"content": [{"type": "image", "data": "QUJD", "mimeType": "image/png"},
  {"type": "resource", "resource": {"uri": "file:///x", "text": "inner"}},
  {"type": "resource_link", "uri": "file:///y", "name": "y"}]})
asked = answer([tool])
say(id=asked["id"], result={"content": [], "structuredContent": {"a": 1}, "_": asked["params"].get("_meta")})
answer([])
"""
    servers = await start(odd=script(code))
    said = await servers.call("odd.t")
    assert said == "[image image/png, 3 bytes, not shown]\ninner\n[resource file:///y]"
    assert await servers.call("odd.t") == '{"a":1}'


async def test_it_is_told_the_key_of_the_call(start: Start) -> None:
    servers = await start(echo=script("tell('')"))
    said = json.loads(await servers.call("echo.t", x=1))
    assert said["arguments"] == {"x": 1}
    assert said["_meta"]["vespid/idempotencyKey"] == "run:n1:tool:0"


async def test_a_program_that_is_not_there_is_told_of(start: Start) -> None:
    servers = await start(none={"command": "no-such-program"}, folder=program(cwd="/no/such/folder"))
    assert "no program 'no-such-program'" in servers.source.problems["mcp.none"]
    assert "cwd" in servers.source.problems["mcp.folder"]


async def test_stopped_nothing_is_left_of_them(start: Start) -> None:
    seconds = f"{600 + uuid.uuid4().int % 10**6 / 10**7:.7f}"
    stubborn = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nanswer([tool]); time.sleep(600)  # " + seconds
    )
    servers = await start(calc=program(), deaf=script(stubborn))
    await servers.call("calc.start", seconds=seconds)
    assert len(processes_saying(seconds)) == 2
    await servers.source.stop()
    assert processes_saying(seconds) == []


@pytest.mark.promise("P11")
async def test_killed_the_agent_leaves_none_of_them(tmp_path: Path) -> None:
    seconds = f"{600 + uuid.uuid4().int % 10**6 / 10**7:.7f}"
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": {"calc": program()}}))
    code = f"""
import asyncio, os, ssl
from pathlib import Path
from vespid_agent.logs import get_logger
from vespid_agent.tools.mcp import McpTools
from vespid_runtime.tools.tool import ToolUse
async def main():
    source = McpTools(Path({str(tmp_path / "mcp.json")!r}), os.environ, ssl.create_default_context(), get_logger("t"))
    await source.start()
    await source.settled(60)
    tool = next(tool for tool in source.tools(None) if tool.id == "mcp.calc.start")
    print(await tool.call({{"seconds": {seconds!r}}}, ToolUse(n=0, key="k", timeout_ms=20_000)), flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert agent.stdout is not None
    async with asyncio.timeout(60):
        while not (await agent.stdout.readline()).strip().isdigit():
            pass
    assert processes_saying(f"sleep {seconds}") != []
    agent.send_signal(signal.SIGKILL)
    await agent.wait()
    async with asyncio.timeout(20):
        while processes_saying(f"sleep {seconds}"):
            await asyncio.sleep(0.02)


class Remote:
    """The same server over HTTP, on a port of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, SERVER, "http", str(self.port), stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(30):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return

    async def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    def entry(self, **more: object) -> dict[str, object]:
        return {"url": f"http://127.0.0.1:{self.port}/mcp", **more}


@pytest.fixture
async def remote() -> AsyncIterator[Remote]:
    running = Remote()
    await running.start()
    yield running
    await running.stop()


async def test_a_server_over_http_is_asked_and_called(start: Start, remote: Remote) -> None:
    servers = await start(wiki=remote.entry(headers={"Authorization": "Bearer ${W}"}), environment={"W": CANARY})
    assert await servers.call("wiki.add", a=1, b=2) == "3"
    assert CANARY in servers.source.secrets
    assert await servers.call("wiki.grow", name="later") == "grown"
    await servers.until(lambda: "mcp.wiki.later" in servers.ids)


async def test_one_over_http_that_was_restarted_is_found_again(start: Start, remote: Remote) -> None:
    servers = await start(wiki=remote.entry())
    before = await servers.call("wiki.pid")
    await remote.stop()
    with pytest.raises(ToolError) as lost:
        await servers.call("wiki.add", timeout_ms=3_000, a=1, b=2)
    assert lost.value.code == "MCP_SERVER_UNAVAILABLE"
    await servers.until(lambda: "mcp.wiki" in servers.source.problems)
    await remote.start()
    await servers.until(lambda: "mcp.wiki" not in servers.source.problems)
    assert await servers.call("wiki.pid") != before


async def test_one_over_http_that_forgot_us_is_greeted_again(start: Start, remote: Remote) -> None:
    servers = await start(wiki=remote.entry())
    await remote.stop()
    await remote.start()
    with pytest.raises(ToolError) as lost:
        await servers.call("wiki.add", a=1, b=2)
    assert lost.value.code == "MCP_SERVER_UNAVAILABLE"
    assert await servers.call("wiki.add", a=1, b=2) == "3"


async def test_an_endless_answer_over_http_is_cut_off(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        try:
            while sent < 200_000_000:
                writer.write(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
                sent += 0x100000
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(endless, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    monkeypatch.setattr(supervision, "FIRST_DELAY_S", 60.0)
    servers = await start(flood={"url": f"http://127.0.0.1:{port}/mcp"})
    assert "mcp.flood" in servers.source.problems
    assert sent < 60_000_000
    listening.close()


async def test_without_a_file_there_is_nothing_and_the_sdk_is_not_loaded() -> None:
    code = """
import asyncio, ssl, sys
from vespid_agent.logs import get_logger
from vespid_agent.tools.mcp import McpTools
import vespid_agent.process
async def main():
    source = McpTools(None, {}, ssl.create_default_context(), get_logger("t"))
    await source.start(); await source.settled(1)
    print(list(source.tools(None)), dict(source.problems), "mcp" in sys.modules, "yaml" in sys.modules)
    await source.stop()
asyncio.run(main())
"""
    asked = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    said, _ = await asked.communicate()
    assert said.decode().strip() == "[] {} False False"


async def test_many_calls_at_once_are_told_apart(start: Start) -> None:
    servers = await start(calc=program())
    sums = await asyncio.gather(*(servers.call("calc.add", a=n, b=n) for n in range(50)))
    assert sums == [str(2 * n) for n in range(50)]


async def test_a_cancelled_call_leaves_the_server_as_it_was(start: Start) -> None:
    servers = await start(calc=program())
    calling = asyncio.ensure_future(servers.call("calc.hang"))
    await asyncio.sleep(0)
    began = time.monotonic()
    await servers.call("calc.add", a=1, b=2)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert await servers.call("calc.add", a=1, b=2) == "3"
    assert time.monotonic() - began < 30
