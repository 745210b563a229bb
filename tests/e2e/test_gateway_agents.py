"""Loops in the gateway's mode over a whole installation: every worker that works on one dies or stops in the middle.

What a call has finished is told by who was called: the stand-in of the model, the connector's server, the shell's file.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.support.local_server import LocalServer
from tests.support.model_server import ModelServer, Say, Step, Tool, Wait, call_tools
from tests.support.organization import Organization, until
from tests.support.processes import Processes, RunningProcess, free_port

KEY = "sk-canary-of-a-tenant-4d1e77a0c9"
WORKERS = 4
# A dead worker is noticed soon, and whoever judges has been up for so long.
SOON = {
    "VESPID_PROCESS_LEASE_MS": "1500",
    "VESPID_PROCESS_RENEW_MS": "300",
    "GATEWAY_LEASE_MS": "8000",
    "WORKFLOW_CONTINUATION_POLL_MS": "200",
    "WORKFLOW_RETRY_ATTEMPTS": "1",
    "VESPID_EGRESS_ALLOW": "127.0.0.1",
    "ENGINE_RUNNER_TIMEOUT_MS": "120000",
}


class House:
    """An installation with several workers, an agent, a model that follows a script, and a server to be called."""

    def __init__(self, organization: Organization, model: ModelServer, local: LocalServer, folder: Path) -> None:
        self.organization, self.model, self.local = organization, model, local
        self._folder = folder
        self.workflow_id = ""
        self.run_id = ""

    @property
    def processes(self) -> Processes:
        return self.organization.processes

    async def start(self, *allow: str, **tools: object) -> None:
        """A run of one node that may use these tools."""
        made = await self.organization.call(
            "POST",
            "/v1/orgs/{org}/secrets",
            {"connectorId": "openai", "name": "key", "value": KEY},
            status=201,
        )
        engine = {"id": "vespid.loop.v1", "provider": "openai", "model": "m"}
        config = {
            "engine": engine | {"auth": {"secretId": made.body["secret"]["id"]}},
            "prompt": {"instructions": "Look, then do."},
            "tools": {"allow": list(allow), **tools},
        }
        node = {"id": "n1", "type": "agent.run", "timeoutMs": 120_000, "config": config}
        self.workflow_id = (await self.organization.publish(node))["workflow"]["id"]
        self.run_id = await self.organization.start_run(self.workflow_id)

    async def holder(self) -> RunningProcess:
        """The worker that works on the loop."""

        async def found() -> RunningProcess | None:
            for worker in self.processes.running("worker"):
                if await self.works(worker):
                    return worker
            return None

        holder: RunningProcess = await until(found, "a worker works on the loop")
        return holder

    async def works(self, worker: RunningProcess) -> bool:
        try:
            async with self.organization.http.get(f"{worker.url}/metrics") as answer:
                return "vespid_cloud_executions_running 1.0" in await answer.text()
        except aiohttp.ClientError:
            return False

    async def finished(self) -> dict[str, Any]:
        run = await self.organization.finished(self.workflow_id, self.run_id, within_s=90)
        assert run["status"] == "succeeded", run
        return dict(run["output"]["steps"][0]["output"])

    async def told(self) -> list[dict[str, Any]]:
        events = await self.organization.events(self.workflow_id, self.run_id)
        return [event["payload"] for event in events if event["eventType"] == "remote_event"]

    async def calls_told(self) -> list[tuple[str, int]]:
        tools = ("tool_call", "tool_result")
        return [(event["kind"], event["payload"]["n"]) for event in await self.told() if event["kind"] in tools]

    # --- a step after the other --------------------------------------------------------------------------------------

    @property
    def shell_log(self) -> Path:
        return self._folder / "shell.log"

    def let_shell_end(self) -> None:
        (self._folder / "go").touch()

    def script(self) -> tuple[Step, ...]:
        """A connector is called, then a shell; the second and third answers come only when they are asked for again."""
        look = Tool("connector_http_request", {"method": "GET", "url": f"{self.local.url}/echo"})
        waits = f"echo ran >> {self.shell_log}; while [ ! -e {self._folder}/go ]; do sleep 0.05; done"
        return (
            call_tools(look),
            Wait(Say("lost")),
            call_tools(Tool("shell_run", {"script": waits})),
            Wait(Say("lost")),
            Say("All is done."),
        )

    async def asked(self, count: int) -> None:
        async with asyncio.timeout(60):
            await self.model.got(count)


@pytest.fixture
async def house(processes: Processes, tmp_path: Path) -> AsyncIterator[House]:
    local = LocalServer()
    app = web.Application()
    app.router.add_get("/echo", local.echo)
    site = web.AppRunner(app, shutdown_timeout=0.1)
    await site.setup()
    await web.TCPSite(site, "127.0.0.1", local.port).start()
    async with ModelServer(key=KEY) as model, aiohttp.ClientSession() as http:
        processes.env |= SOON | {"OPENAI_BASE_URL": model.openai_url}
        await asyncio.gather(*(processes.start(name) for name in ("api", "gateway", "engine-runner")))
        await asyncio.gather(*(processes.start("worker", WORKER_PORT=str(free_port())) for _ in range(WORKERS)))
        organization = await Organization.sign_up(processes, http)
        await organization.call("PUT", "/v1/orgs/{org}/settings", {"tools": {"shellRunEnabled": True}}, status=200)
        yield House(organization, model, local, tmp_path)
        model.go_on()
    await site.cleanup()


async def kill(worker: RunningProcess) -> None:
    await worker.kill()


async def stop(worker: RunningProcess) -> None:
    assert await worker.terminate() == 0


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(kill, marks=pytest.mark.promise("P2"), id="killed"),
        pytest.param(stop, marks=pytest.mark.promise("P12"), id="stopped"),
    ],
)
async def test_a_loop_whose_workers_end_at_every_step_repeats_no_call_that_had_finished(house: House, end: Any) -> None:
    await house.organization.pair()
    house.model.will(*house.script())
    await house.start("connector.http.request", "shell.run")
    # The connector has answered, and the model is asked what to do next.
    await house.asked(2)
    await end(await house.holder())
    # Asked again, it wants a shell, which runs.
    await until(house.shell_log.exists, "the shell runs")
    await end(await house.holder())
    # Whoever goes on joins the shell that runs.
    await house.holder()
    house.let_shell_end()
    await house.asked(4)
    await end(await house.holder())

    assert (await house.finished())["text"] == "All is done."
    assert len(house.model.requests) == 5
    assert house.local.calls == 1
    assert house.shell_log.read_text() == "ran\n"
    assert await house.calls_told() == [("tool_call", 0), ("tool_result", 0), ("tool_call", 1), ("tool_result", 1)]
    logs = "".join(process.log() for process in house.processes._started)
    assert KEY not in logs
    assert KEY not in str(await house.organization.events(house.workflow_id, house.run_id))


@pytest.mark.promise("P4")
async def test_a_worker_that_was_suspended_past_its_lease_changes_nothing(house: House) -> None:
    house.model.will(Wait(Say("of the suspended one")), Say("of the next one"))
    await house.start()
    await house.asked(1)
    suspended = await house.holder()
    suspended.signal(signal.SIGSTOP)
    try:
        assert (await house.finished())["text"] == "of the next one"
        before = await house.organization.events(house.workflow_id, house.run_id)
        house.model.go_on()
    finally:
        suspended.signal(signal.SIGCONT)
    await suspended.is_ready()

    async def over() -> bool:
        return not await house.works(suspended)

    await until(over, "the suspended worker has let go")
    assert await house.organization.events(house.workflow_id, house.run_id) == before
    assert (await house.finished())["text"] == "of the next one"
