"""The downloaded agent in a place without Python, against a running installation: what people do, and signals."""

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from tests.support.agent_binary import AgentBinary
from tests.support.bare_root import BareRoot
from tests.support.local_server import LocalServer
from tests.support.model_server import ModelServer, Say, Tool, call_tools
from tests.support.organization import Organization, shell, until
from tests.support.processes import Processes, RunningProcess, free_port

from vespid_agent import __version__

# One process makes the binary: others would wait for it. Making it takes a minute and more.
pytestmark = [pytest.mark.xdist_group("agent_binary"), pytest.mark.timeout(600)]

KEY = "sk-own-1d0c5b7e44"
MCP_SERVER = Path(__file__).parents[1] / "support" / "mcp_server.py"
WITHIN_S = 90.0


class Downloaded:
    """The agent in its bare place, started as `Organization` starts any."""

    def __init__(self, root: BareRoot, binary: AgentBinary, organization: Organization) -> None:
        self.root = root
        self.organization = organization
        self.program = root.program(root.put(binary.executable))
        self.env: dict[str, str] = {}

    async def connect(self, **env: str) -> RunningProcess:
        self.env = {"HOME": "/home", **env}
        process, _ = await self.organization.pair(program=self.program, **self.env)
        return process

    async def start(self) -> RunningProcess:
        return await self.organization.restart_agent(program=self.program, **self.env)

    def left(self) -> list[int]:
        """Processes that live in the place: the agent, and whatever it started."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and entry.joinpath("root").readlink() == self.root.folder:
                    found.append(int(entry.name))
        return found

    async def is_empty(self) -> None:
        await until(lambda: not self.left(), "nothing runs in the place any more")


@pytest.fixture
async def downloaded(
    bare_root: BareRoot, agent_binary: AgentBinary, organization: Organization
) -> AsyncIterator[Downloaded]:
    place = Downloaded(bare_root, agent_binary, organization)
    yield place
    for pid in place.left():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer(key=KEY) as server:
        yield server


@pytest.fixture
async def tickets() -> AsyncIterator[LocalServer]:
    server = LocalServer()
    app = web.Application()
    app.router.add_get("/ticket", server.echo)
    app.router.add_get("/slow", server.slow)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", server.port).start()
    yield server
    await runner.cleanup()


def connector(node_id: str, url: str) -> dict[str, object]:
    action = {"connectorId": "http", "actionId": "request", "input": {"method": "GET", "url": url}}
    return {
        "id": node_id,
        "type": "connector.action",
        "config": {**action, "execution": {"mode": "executor"}},
    }


def prompt(node_id: str, instructions: str, provider: str, *tools: str) -> dict[str, object]:
    config = {
        "engine": {"id": "vespid.loop.v1", "provider": provider, "model": "some-model"},
        "prompt": {"instructions": instructions},
        "tools": {"allow": list(tools)},
        "execution": {"mode": "executor"},
    }
    return {"id": node_id, "type": "agent.run", "config": config, "timeoutMs": 60_000}


def keys(model: ModelServer) -> dict[str, str]:
    return {
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": model.openai_url,
        "ANTHROPIC_API_KEY": KEY,
        "ANTHROPIC_BASE_URL": model.origin,
        "GEMINI_API_KEY": KEY,
        "GEMINI_BASE_URL": model.origin,
    }


async def finish(organization: Organization, *nodes: Mapping[str, object]) -> dict[str, object]:
    """The outputs of a run that succeeds, by node."""
    workflow = (await organization.publish(*nodes))["workflow"]
    run = await organization.finished(workflow["id"], await organization.start_run(workflow["id"]), WITHIN_S)
    assert (run["status"], run["error"]) == ("succeeded", None)
    return {step["nodeId"]: step["output"] for step in run["output"]["steps"]}


def test_the_archive_holds_one_executable_file_and_the_checksums_are_its(agent_binary: AgentBinary) -> None:
    with tarfile.open(agent_binary.archive) as archive:
        (member,) = archive.getmembers()
    assert (member.name, member.isfile(), oct(member.mode)) == ("vespid-agent", True, "0o755")
    digest = hashlib.sha256(agent_binary.archive.read_bytes()).hexdigest()
    sums = (agent_binary.dist / "vespid-agent-checksums.txt").read_text()
    assert sums == f"{digest}  vespid-agent-linux-x64.tar.gz\n"


def test_it_starts_where_there_is_no_python_and_unpacks_where_it_may(
    bare_root: BareRoot, agent_binary: AgentBinary
) -> None:
    program = bare_root.put(agent_binary.executable)
    assert bare_root.run(program, "--version").stdout.strip() == __version__
    (unpacked,) = (bare_root.home / ".cache" / "vespid-agent").glob("*/vespid-agent")
    # What is missing or damaged, by a tidy-up of the folder or a full disk, is mended by the next start.
    library = next(unpacked.parent.glob("_internal/libpython3*"))
    library.write_bytes(b"")
    unpacked.unlink()
    assert bare_root.run(program, "--version").stdout.strip() == __version__
    refused = bare_root.run(program, "--version", VESPID_AGENT_UNPACK_DIR="/tmp/agent")
    assert (refused.returncode, "noexec" in refused.stderr) == (126, True)
    assert bare_root.run(program, "--version", HOME="").stdout.strip() == __version__


@pytest.mark.promise("P1")
async def test_the_downloaded_agent_pairs_and_does_every_kind_of_work_without_python(
    downloaded: Downloaded, model: ModelServer, tickets: LocalServer
) -> None:
    organization = downloaded.organization
    server = await organization.processes.run(
        [sys.executable, str(MCP_SERVER), "http", str(port := free_port())], "tools", {"PATH": os.environ["PATH"]}
    )
    await server.has_printed("Uvicorn running")
    servers = {"here": {"url": f"http://127.0.0.1:{port}/mcp"}}
    (downloaded.root.home / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
    agent = await downloaded.connect(VESPID_AGENT_MCP_CONFIG="/home/mcp.json", **keys(model))

    add = Tool("mcp_here_add", {"a": 19, "b": 23})
    model.will(call_tools(add), Say("It is 42."), Say("By Anthropic."), Say("By Google."))
    passed = {"envPassthroughAllowlist": ["LD_LIBRARY_PATH", "_PYI_ARCHIVE_FILE", "VESPID_AGENT_STARTED_AS"]}
    outputs = await finish(
        organization,
        shell("env; test -e /usr/bin/python3 || echo no python", "sh", sandbox=passed),
        connector("http", f"{tickets.url}/ticket"),
        prompt("openai", "Add.", "openai", "mcp.here.add"),
        prompt("anthropic", "Say.", "anthropic"),
        prompt("gemini", "Say.", "gemini"),
    )
    said = str(outputs["sh"])
    assert "no python" in said
    assert not [word for word in ("LD_LIBRARY", "_PYI", "STARTED_AS", "_internal") if word in said], said
    assert tickets.calls == 1
    assert "42" in str(model.requests[1].body["input" if model.requests[1].wire == "responses" else "messages"][-1])
    texts = [outputs[node]["text"] for node in ("openai", "anthropic", "gemini")]  # type: ignore[index]
    assert texts == ["It is 42.", "By Anthropic.", "By Google."]

    # SIGTERM: what runs is finished and reported, then it is over, and nothing is left.
    started = downloaded.root.home / "started"
    workflow = await organization.publish(shell("touch /home/started; while ! test -e /home/go; do sleep 0.1; done"))
    run_id = await organization.start_run(workflow["workflow"]["id"])
    await until(started.exists, "the task runs")
    agent.signal(signal.SIGTERM)
    await agent.has_printed("drain")
    (downloaded.root.home / "go").touch()
    assert await agent.wait(WITHIN_S) == 0, agent.log()
    assert (await organization.finished(workflow["workflow"]["id"], run_id))["status"] == "succeeded"
    await downloaded.is_empty()


@pytest.mark.promise("P1")
async def test_kill_9_leaves_nothing_behind_and_start_goes_on_where_the_work_was(
    downloaded: Downloaded, model: ModelServer, tickets: LocalServer
) -> None:
    organization = downloaded.organization
    agent = await downloaded.connect(**keys(model))
    # The process that was started is the agent itself.
    assert agent.pid in downloaded.left()
    asleep = downloaded.root.home / "asleep"
    lost = (
        await organization.publish(shell("test -e /home/asleep && echo again && exit; touch /home/asleep; sleep 600"))
    )["workflow"]
    lost_run = await organization.start_run(lost["id"])
    urls = [f"{tickets.url}{path}" for path in ("/ticket", "/slow")]
    model.will(*(call_tools(Tool("connector_http_request", {"method": "GET", "url": url})) for url in urls))
    workflow = (await organization.publish(prompt("n1", "Do both.", "openai", "connector.http.request")))["workflow"]
    run_id = await organization.start_run(workflow["id"])
    await tickets.called.wait()
    await until(asleep.exists, "the task runs")

    await agent.kill()
    await downloaded.is_empty()
    tickets.let.set()
    model.will(Say("Both are done."))
    again = await downloaded.start()
    run = await organization.finished(workflow["id"], run_id, WITHIN_S)
    assert (run["status"], run["output"]["steps"][0]["output"]["text"]) == ("succeeded", "Both are done.")
    assert (tickets.calls, len(model.requests)) == (3, 3)
    run = await organization.finished(lost["id"], lost_run, WITHIN_S)
    assert (run["status"], run["output"]["steps"][0]["output"]["stdout"]) == ("succeeded", "again\n")
    # Where it was unpacked there is one copy, however often it was started and killed.
    kept = downloaded.root.home / ".cache" / "vespid-agent"
    assert len([one for one in kept.iterdir() if one.is_dir()]) == 1
    assert await asyncio.wait_for(again.terminate(), WITHIN_S) == 0


async def test_the_commands_that_are_shown_download_unpack_and_connect_as_they_stand(
    processes: Processes, agent_binary: AgentBinary
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("the runbook's commands need curl")
    processes.env |= {"AGENT_INSTALLER_ENABLED": "1", "AGENT_INSTALLER_ARTIFACTS_DIR": str(agent_binary.dist)}
    await asyncio.gather(processes.start("api"), processes.start("gateway"))
    async with aiohttp.ClientSession() as http:
        organization = await Organization.sign_up(processes, http)
        installer = (await organization.call("GET", "/v1/meta/agent-installer", status=200)).body
        (linux,) = installer["artifacts"]
        token = (await organization.call("POST", "/v1/orgs/{org}/agents/pairing-tokens", status=201)).body["token"]
        *prepare, connect = [line.replace("<token>", token) for line in linux["commands"]]
        home = processes.folder / "home"
        home.mkdir()
        # `exec`, so that the test ends the agent and not the shell it was typed into.
        typed = "\n".join([*prepare, f"exec {connect}"])
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "VESPID_ENV": "test"}
        agent = await processes.run(["sh", "-ec", typed], "typed", env)
        await agent.has_printed("welcomed")
        sums = (await organization.call("GET", "/downloads/vespid-agent-checksums.txt", status=200)).body
        checked = subprocess.run(
            ["sha256sum", "--check", "-"], input=sums, cwd=processes.folder, capture_output=True, text=True
        )
        assert checked.stdout == "vespid-agent-linux-x64.tar.gz: OK\n"
        (listed,) = await organization.agents()
        assert listed["status"] == "online"
        assert await agent.terminate() == 0, agent.log()
