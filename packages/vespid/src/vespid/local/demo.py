"""What `make demo` shows: an organization, a real agent process, a three-node workflow on it, its events as they come.

Everything goes through the public HTTP API, and the agent is the one that customers install.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from vespid.local.account import becoming
from vespid.local.client import ApiClient
from vespid.local.stack import LOOPBACK, LocalStack
from vespid.local.valkey import free_port
from vespid.service import StartRefused, running

AGENT_ONLINE_WITHIN_S = 30.0
RUN_WITHIN_S = 60.0
AGENT_POLL_S = 0.05
AGENT_STOP_WITHIN_S = 10.0
LOG_TAIL_CHARS = 2_000

Tell = Callable[[str], None]


class DemoFailed(Exception):
    """The demo did not get to its end; the message says where it stopped."""


async def run_demo(folder: Path, env: Mapping[str, str], tell: Tell) -> bool:
    """Show everything and answer whether the run succeeded. Raises StartRefused, DemoFailed."""
    ports = {name: str(free_port()) for name in ("API_PORT", "GATEWAY_PORT", "ENGINE_RUNNER_PORT")}
    stack = LocalStack(folder, {**env, "VESPID_ENV": "local", **ports}, tell=tell)
    try:
        async with running(stack), ApiClient(stack.api_url) as api, _local_server() as greeter_url:
            tell("Making an account with an organization")
            await api.sign_up(f"demo-{secrets.token_hex(4)}@vespid.local", secrets.token_urlsafe(16), "Demo")
            org = await api.choose_first_organization()
            async with _agent(api, org, stack, tell):
                workflow = await _published_workflow(api, org, greeter_url, tell)
                return await _followed_run(api, org, workflow, tell)
    except aiohttp.ClientError as error:
        raise DemoFailed(f"a call to our own API failed: {error}") from error
    except TimeoutError as error:
        raise DemoFailed("the demo took too long") from error


def demo_workflow(greeter_url: str) -> dict[str, object]:
    """Shell task, HTTP connector, condition; the first two run on the agent."""
    on_agent = {"mode": "executor"}
    script = 'echo "Hello {{ input.name }}, from $(uname -s) as $(id -un)"'
    return {
        "version": "v2",
        "trigger": {"type": "trigger.manual"},
        "nodes": [
            {
                "id": "greet",
                "type": "agent.execute",
                "config": {"execution": on_agent, "task": {"type": "shell", "script": script}},
            },
            {
                "id": "send",
                "type": "connector.action",
                "config": {
                    "connectorId": "http",
                    "actionId": "request",
                    "execution": on_agent,
                    "input": {
                        "method": "POST",
                        "url": f"{greeter_url}/greetings",
                        "body": {"said": "{{ steps.greet.output.stdout }}"},
                    },
                },
            },
            {
                "id": "heard",
                "type": "condition",
                "config": {"path": "$.steps.send.output.body.heard", "op": "contains", "value": "Hello"},
            },
        ],
    }


@contextlib.asynccontextmanager
async def _local_server() -> AsyncIterator[str]:
    """The private service that only the agent's network can reach: it answers what it was told."""

    async def hear(request: web.Request) -> web.Response:
        told = await request.json()
        return web.json_response({"heard": str(told.get("said", "")).strip()})

    app = web.Application()
    app.router.add_post("/greetings", hear)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, LOOPBACK, 0).start()
        yield f"http://{LOOPBACK}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def _agent(api: ApiClient, org: str, stack: LocalStack, tell: Tell) -> AsyncIterator[None]:
    """A paired agent, a process of its own with a home of its own, online."""
    tell("Pairing an agent")
    token = (await api.call("POST", f"/v1/orgs/{org}/agents/pairing-tokens"))["token"]
    # In our data folder, whose lock is ours: what a killed demo left there has no owner.
    for left_over in stack.folder.path.glob("agent-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    home = Path(tempfile.mkdtemp(prefix="agent-", dir=stack.folder.path))
    log_file = home / "agent.log"
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "LANG": "C.UTF-8"}
    with log_file.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(
                _agent_program(),
                "connect",
                "--pairing-token",
                token,
                "--api-base",
                stack.api_url,
                "--name",
                "demo-agent",
            ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=home,
            env=env,
            start_new_session=True,
            preexec_fn=becoming(None, when_orphaned=signal.SIGTERM),
        )
    try:
        await _until_online(api, org, process, log_file)
        tell(f"The agent is online (process {process.pid})")
        yield
    finally:
        await _end(process)
        shutil.rmtree(home, ignore_errors=True)


async def _until_online(api: ApiClient, org: str, process: asyncio.subprocess.Process, log_file: Path) -> None:
    try:
        async with asyncio.timeout(AGENT_ONLINE_WITHIN_S):
            while True:
                agents = (await api.call("GET", f"/v1/orgs/{org}/agents"))["agents"]
                if any(agent["status"] == "online" for agent in agents):
                    return
                if process.returncode is not None:
                    raise DemoFailed(f"the agent ended with status {process.returncode}{_tail(log_file)}")
                await asyncio.sleep(AGENT_POLL_S)
    except TimeoutError:
        raise DemoFailed(f"the agent was not online after {AGENT_ONLINE_WITHIN_S:.0f} s{_tail(log_file)}") from None


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(AGENT_STOP_WITHIN_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _published_workflow(api: ApiClient, org: str, greeter_url: str, tell: Tell) -> str:
    tell("Publishing a workflow: shell task → HTTP connector → condition")
    draft = {"name": "Demo", "dsl": demo_workflow(greeter_url)}
    workflow = str((await api.call("POST", f"/v1/orgs/{org}/workflows", draft))["workflow"]["id"])
    await api.call("POST", f"/v1/orgs/{org}/workflows/{workflow}/publish")
    return workflow


async def _followed_run(api: ApiClient, org: str, workflow: str, tell: Tell) -> bool:
    began = time.perf_counter()
    path = f"/v1/orgs/{org}/workflows/{workflow}/runs"
    run = str((await api.call("POST", path, {"input": {"name": "world"}}))["run"]["id"])
    tell(f"Run {run}; its events:")
    async with asyncio.timeout(RUN_WITHIN_S):
        async for event in api.events(f"{path}/{run}/stream"):
            tell("  " + describe_event(event))
    took_ms = (time.perf_counter() - began) * 1000
    ended = (await api.call("GET", f"{path}/{run}"))["run"]
    for step in (ended.get("output") or {}).get("steps", []):
        tell(f"  result of {step['nodeId']}: {_short(step.get('output', step.get('error')))}")
    error = f": {ended['error']} {ended.get('errorMessage') or ''}" if ended.get("error") else ""
    tell(f"run {ended['status']}{error}  ({took_ms:.0f} ms)")
    return bool(ended["status"] == "succeeded")


def describe_event(event: Mapping[str, Any]) -> str:
    """One line: the time of day, what happened, where, and what was said."""
    at = datetime.fromisoformat(str(event["createdAt"])).astimezone().strftime("%H:%M:%S.%f")[:-3]
    said = event.get("message") or ""
    payload = event.get("payload")
    if event["eventType"] == "remote_event" and isinstance(payload, dict):
        inner = payload.get("payload")
        said = f"{said}: {str(inner['text']).rstrip()}" if isinstance(inner, dict) and "text" in inner else said
    return f"{at}  {event['eventType']:<22} {event.get('nodeId') or '':<8} {said}".rstrip()


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:199] + "…"


def _agent_program() -> str:
    """The agent installed beside us, else the one in PATH."""
    beside = Path(sys.executable).with_name("vespid-agent")
    found = str(beside) if beside.exists() else shutil.which("vespid-agent")
    if found is None:
        raise StartRefused("vespid-agent is not installed: `pip install vespid-agent` beside this program")
    return found


def _tail(log_file: Path) -> str:
    text = log_file.read_text(errors="replace")[-LOG_TAIL_CHARS:].strip()
    return f"; it said:\n{text}" if text else ""
