"""An organization that works with a running installation over HTTP, as its people and scripts would."""

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.support.processes import AGENT, Processes, RunningProcess

WITHIN_S = 60.0
LOOK_S = 0.03
TERMINAL = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Answer:
    """What a route answered."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


async def until(holds: Callable[[], Any], what: str, within_s: float = WITHIN_S) -> Any:
    """Wait for a condition (plain or awaitable) and answer what it answered."""
    try:
        async with asyncio.timeout(within_s):
            while True:
                value = holds()
                if asyncio.iscoroutine(value):
                    value = await value
                if value:
                    return value
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        pytest.fail(f"{what}: not within {within_s} s")


@dataclass(frozen=True)
class ManagedAgent:
    """A managed executor's credential, and how its process is started, as often as is wanted."""

    processes: Processes
    name: str
    id: str
    token: str
    gateway_ws_url: str

    async def start(
        self, *, program: Sequence[str] = AGENT, gateway_ws_url: str | None = None, **env: str
    ) -> RunningProcess:
        """Started, and welcomed by a gateway."""
        process = await self.processes.start_agent(
            *("start", "--pool", "managed", "--executor-id", self.id, "--executor-token", self.token),
            *("--gateway-ws-url", gateway_ws_url or self.gateway_ws_url, "--api-base", self.processes.api_url),
            name=self.name,
            program=program,
            **{"VESPID_AGENT_EXEC_BACKEND": "bubblewrap"} | env,
        )
        await process.has_printed("welcomed")
        return process


class Organization:
    """Signed up, signed in. Calls that meet a dead or starting server are made again where that is safe."""

    def __init__(self, processes: Processes, http: aiohttp.ClientSession) -> None:
        self.processes = processes
        self.http = http
        self.id = ""
        self.headers: dict[str, str] = {}

    @classmethod
    async def sign_up(cls, processes: Processes, http: aiohttp.ClientSession) -> "Organization":
        organization = cls(processes, http)
        signed = await organization.call(
            "POST",
            "/v1/auth/signup",
            {"email": f"{secrets.token_hex(6)}@example.com", "password": "correct horse battery"},
            status=201,
        )
        organization.headers = {"Authorization": f"Bearer {signed.body['session']['token']}"}
        me = await organization.call("GET", "/v1/me", status=200)
        organization.id = me.body["defaultOrgId"]
        organization.headers["X-Org-Id"] = organization.id
        return organization

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        status: int | None = None,
        base: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One call; `{org}` in the path is the organization."""
        url = (base or self.processes.api_url) + path.replace("{org}", self.id)
        async with self.http.request(
            method, url, json=body, headers=self.headers if headers is None else headers
        ) as response:
            text = await response.text()
            is_json = "json" in response.headers.get("content-type", "")
            answer = Answer(response.status, await response.json() if is_json and text else text, response.headers)
        if status is not None and answer.status != status:
            pytest.fail(f"{method} {path}: {answer.status} {text}")
        return answer

    async def gateway(self, method: str, path: str, body: object = None, *, status: int | None = None) -> Answer:
        """A call of the gateway's internal HTTP."""
        token = {"X-Gateway-Token": self.processes.env["GATEWAY_SERVICE_TOKEN"]}
        return await self.call(method, path, body, status=status, base=self.processes.gateway_url, headers=token)

    # --- agents ------------------------------------------------------------------------------------------------------

    async def pair(
        self, name: str = "agent", *args: str, program: Sequence[str] = AGENT, **env: str
    ) -> tuple[RunningProcess, str]:
        """Pair a real agent process, wait until it is online, and answer it and its id."""
        known = {agent["id"] for agent in await self.agents()}
        token = (await self.call("POST", "/v1/orgs/{org}/agents/pairing-tokens", status=201)).body["token"]
        process = await self.processes.start_agent(
            *("connect", "--pairing-token", token, "--api-base", self.processes.api_url, "--name", name, *args),
            name=name,
            program=program,
            **env,
        )

        async def new_and_online() -> str | None:
            if process.returncode is not None:
                pytest.fail(f"the agent ended with {process.returncode}:\n{process.log()}")
            for agent in await self.agents():
                if agent["id"] not in known and agent["status"] == "online":
                    return str(agent["id"])
            return None

        return process, await until(new_and_online, f"agent {name} is online")

    async def restart_agent(
        self, name: str = "agent", *args: str, program: Sequence[str] = AGENT, **env: str
    ) -> RunningProcess:
        """Start a paired agent again from its config."""
        return await self.processes.start_agent("start", *args, name=name, program=program, **env)

    async def issue_managed(self, name: str = "managed") -> ManagedAgent:
        """A managed executor, not yet started."""
        answer = await self.service("POST", "/internal/v1/managed-executors/issue", {"name": name}, status=201)
        issued = answer.body
        return ManagedAgent(self.processes, name, issued["executorId"], issued["executorToken"], issued["gatewayWsUrl"])

    async def service(self, method: str, path: str, body: object = None, *, status: int | None = None) -> Answer:
        """A call of the API's internal routes."""
        token = {"X-Service-Token": self.processes.env["GATEWAY_SERVICE_TOKEN"]}
        return await self.call(method, path, body, status=status, headers=token)

    async def agents(self) -> list[dict[str, Any]]:
        return list((await self.call("GET", "/v1/orgs/{org}/agents", status=200)).body["agents"])

    async def agent(self, agent_id: str) -> dict[str, Any]:
        return next(agent for agent in await self.agents() if agent["id"] == agent_id)

    # --- workflows and runs ------------------------------------------------------------------------------------------

    async def publish(self, *nodes: Mapping[str, object], trigger: Mapping[str, object] | None = None) -> Any:
        """A published list of nodes; answers what the publish route answered."""
        return await self.publish_dsl(
            {"version": "v2", "trigger": trigger or {"type": "trigger.manual"}, "nodes": list(nodes)}
        )

    async def publish_dsl(self, dsl: Mapping[str, object]) -> Any:
        made = await self.call("POST", "/v1/orgs/{org}/workflows", {"name": "w", "dsl": dsl}, status=201)
        workflow_id = made.body["workflow"]["id"]
        return (await self.call("POST", f"/v1/orgs/{{org}}/workflows/{workflow_id}/publish", status=200)).body

    async def start_run(self, workflow_id: str, given: object = None) -> str:
        """The id of an accepted run."""
        answer = await self.call(
            "POST", f"/v1/orgs/{{org}}/workflows/{workflow_id}/runs", {"input": given or {}}, status=201
        )
        return str(answer.body["run"]["id"])

    async def run(self, workflow_id: str, run_id: str) -> dict[str, Any]:
        path = f"/v1/orgs/{{org}}/workflows/{workflow_id}/runs/{run_id}"
        return dict((await self.call("GET", path, status=200)).body["run"])

    async def finished(self, workflow_id: str, run_id: str, within_s: float = WITHIN_S) -> dict[str, Any]:
        """The run once it is terminal, through outages of the API."""

        async def terminal() -> dict[str, Any] | None:
            try:
                run = await self.run(workflow_id, run_id)
            except aiohttp.ClientError:
                return None
            return run if run["status"] in TERMINAL else None

        return dict(await until(terminal, f"run {run_id} is terminal", within_s))

    async def events(self, workflow_id: str, run_id: str) -> list[dict[str, Any]]:
        path = f"/v1/orgs/{{org}}/workflows/{workflow_id}/runs/{run_id}/events"
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = (await self.call("GET", f"{path}?limit=100{cursor}", status=200)).body
            found += page["events"]
            if page["nextCursor"] is None:
                return found
            cursor = f"&cursor={page['nextCursor']}"

    async def has_event(self, workflow_id: str, run_id: str, event_type: str) -> None:
        """Wait until the run's history has such an event."""

        async def there() -> bool:
            return any(event["eventType"] == event_type for event in await self.events(workflow_id, run_id))

        await until(there, f"run {run_id} has {event_type}")


def shell(script: str, node_id: str = "n1", **node: object) -> dict[str, object]:
    """An `agent.execute` node.

    `selector` and `schedule` go into its execution, `sandbox` into its config, everything else beside that.
    """
    execution: dict[str, object] = {"mode": "executor"}
    for name in ("selector", "schedule"):
        if name in node:
            execution[name] = node.pop(name)
    config: dict[str, object] = {"execution": execution, "task": {"type": "shell", "script": script}}
    if "sandbox" in node:
        config["sandbox"] = node.pop("sandbox")
    return {"id": node_id, "type": "agent.execute", "config": config, **node}


class Marks:
    """Side effects that tasks leave in a file: a line for each thing they did."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "marks"
        self.file.touch()

    def script(self, during: str = "true") -> str:
        """A shell script that says when it starts and when it ends, under its request's id."""
        mark = f'echo "$VESPID_REQUEST_ID {{}}" >> {self.file}'
        return "\n".join((mark.format("start"), during, mark.format("end")))

    def lines(self) -> list[tuple[str, str]]:
        """(request id, word), in the order of writing."""
        pairs = (line.split(" ", 1) for line in self.file.read_text().splitlines())
        return [(request_id, word) for request_id, word in pairs]

    def starts(self) -> list[str]:
        return [request_id for request_id, word in self.lines() if word == "start"]
