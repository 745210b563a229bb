"""Workflows as their authors use them: triggers that fire, branches side by side, secrets, retries, bad results."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from zoneinfo import ZoneInfo

import asyncpg
import pytest
import pytest_asyncio
from aiohttp import web
from tests.support.dump import Dump
from tests.support.organization import Marks, Organization, shell, until
from tests.support.processes import free_port

SECRET = "canary-7f3b9d2e5a1c"


class Listener:
    """A local server that remembers what it was sent."""

    def __init__(self) -> None:
        self.port = free_port()
        self.requests: list[tuple[str, dict[str, str], str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.text()
        self.requests.append((request.path, dict(request.headers), body))
        # Says back what it was given, as a careless service would.
        return web.json_response({"said": request.headers.get("Authorization", ""), "body": body})


@pytest_asyncio.fixture
async def listener() -> AsyncIterator[Listener]:
    listener = Listener()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", listener.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", listener.port).start()
    yield listener
    await runner.cleanup()


async def test_a_webhook_starts_one_run_per_delivery(organization: Organization) -> None:
    await organization.pair()
    published = await organization.publish(shell("echo {{ input.body.word }}"), trigger={"type": "trigger.webhook"})
    workflow_id = published["workflow"]["id"]
    path = f"/v1/hooks/{published['webhook']['token']}"
    first = await organization.call("POST", path, {"word": "bird"}, headers={"X-GitHub-Delivery": "d-1"}, status=202)
    again = await organization.call("POST", path, {"word": "bird"}, headers={"X-GitHub-Delivery": "d-1"}, status=202)
    assert first.body["run"]["id"] == again.body["run"]["id"]
    run = await organization.finished(workflow_id, first.body["run"]["id"])
    assert (run["status"], run["triggerType"]) == ("succeeded", "webhook")
    assert run["output"]["steps"][0]["output"]["stdout"] == "bird\n"
    await organization.call("POST", "/v1/hooks/nonsense", {}, headers={}, status=404)


@pytest.mark.promise("P2")
async def test_a_schedule_fires_once_however_many_workers_look(
    organization: Organization, superuser: asyncpg.Connection
) -> None:
    for _ in range(2):
        await organization.processes.start("worker", WORKER_PORT="0", ready=False)
    workflow = (
        await organization.publish(
            {"id": "c", "type": "condition", "config": {"path": "$.input", "op": "exists"}},
            trigger={"type": "trigger.cron", "config": {"cron": "0 3 * * *", "timezone": "Europe/Berlin"}},
        )
    )["workflow"]

    planned = await superuser.fetchval("select next_fire_at from schedules")
    assert planned.astimezone(ZoneInfo("Europe/Berlin")).strftime("%H:%M") == "03:00"
    # Its time has come.
    await superuser.execute("update schedules set next_fire_at = now()")

    async def runs() -> list[dict[str, object]]:
        path = f"/v1/orgs/{{org}}/workflows/{workflow['id']}/runs"
        return list((await organization.call("GET", path, status=200)).body["runs"])

    fired = await until(runs, "the schedule has fired", within_s=20)
    # Whoever else looked has looked by the time the run is over.
    await organization.finished(workflow["id"], str(fired[0]["id"]))
    assert [run["triggerType"] for run in await runs()] == ["cron"]
    assert await superuser.fetchval("select next_fire_at from schedules") == planned


async def test_branches_of_a_graph_run_side_by_side_and_join(organization: Organization, tmp_path: Path) -> None:
    await organization.pair()
    marks = Marks(tmp_path)
    # Each waits for the other's mark: they finish only if both are started at once.
    wait = f"for i in $(seq 200); do [ $(grep -c start {marks.file}) -ge 2 ] && exit 0; sleep 0.1; done; exit 1"
    nodes = {
        "a": shell(marks.script() + "\n" + wait, "a"),
        "b": shell(marks.script() + "\n" + wait, "b"),
        "j": {"id": "j", "type": "parallel.join", "config": {"mode": "all"}},
    }
    edges = [{"id": "e1", "from": "a", "to": "j"}, {"id": "e2", "from": "b", "to": "j"}]
    workflow = (
        await organization.publish_dsl(
            {"version": "v3", "trigger": {"type": "trigger.manual"}, "graph": {"nodes": nodes, "edges": edges}}
        )
    )["workflow"]
    run = await organization.finished(workflow["id"], await organization.start_run(workflow["id"]))
    assert run["status"] == "succeeded", run
    joined = next(step for step in run["output"]["steps"] if step["nodeId"] == "j")
    assert joined["output"]["joined"] is True


@pytest.mark.promise("P7")
async def test_a_secret_reaches_the_action_and_nothing_else(
    organization: Organization, listener: Listener, dump: Dump
) -> None:
    await organization.pair()
    made = await organization.call(
        "POST", "/v1/orgs/{org}/secrets", {"connectorId": "http", "name": "key", "value": SECRET}, status=201
    )
    action = {
        "connectorId": "http",
        "actionId": "request",
        "input": {"method": "POST", "url": listener.url, "body": {"k": "v"}},
        "auth": {"secretId": made.body["secret"]["id"]},
        "execution": {"mode": "executor"},
    }
    workflow = (await organization.publish({"id": "h", "type": "connector.action", "config": action}))["workflow"]
    run = await organization.finished(workflow["id"], await organization.start_run(workflow["id"]))
    assert run["status"] == "succeeded", run
    assert SECRET in str(listener.requests[0][1])
    # The service said it back; what is kept of that is masked.
    told = [run, await organization.events(workflow["id"], run["id"])]
    assert SECRET not in str(told)
    assert SECRET.encode() not in await dump()
    folder = organization.processes.folder
    kept = [file for file in folder.rglob("*") if file.is_file()]
    assert any(file.suffix == ".log" for file in kept)
    assert any("journal" in file.name for file in kept)
    assert [file.name for file in kept if SECRET.encode() in file.read_bytes()] == []


async def test_a_failed_attempt_is_tried_again_from_the_failed_node(organization: Organization, tmp_path: Path) -> None:
    await organization.pair()
    marks = Marks(tmp_path)
    first = shell(marks.script(), "first")
    flaky = shell(f"{marks.script()}\n[ $(grep -c :flaky: {marks.file}) -ge 4 ]", "flaky")
    flaky["retry"] = {"maxAttempts": 3, "backoffMs": 50}
    workflow = (await organization.publish(first, flaky))["workflow"]
    run = await organization.finished(workflow["id"], await organization.start_run(workflow["id"]))
    assert (run["status"], run["attemptCount"]) == ("succeeded", 1)
    assert [request_id.rsplit(":", 2)[1:] for request_id in marks.starts()] == [
        ["first", "1"],
        ["flaky", "1"],
        ["flaky", "2"],
    ]


@pytest.mark.promise("P10")
async def test_a_result_over_the_limit_fails_the_node_and_not_the_agent(organization: Organization) -> None:
    agent, _ = await organization.pair(VESPID_AGENT_HOST_OUTPUT_MAX_CHARS="20000000")
    big = shell("head -c 6000000 /dev/zero | tr '\\0' x", retry={"maxAttempts": 1, "backoffMs": 0})
    workflow = (await organization.publish(big))["workflow"]
    run = await organization.finished(workflow["id"], await organization.start_run(workflow["id"]))
    assert (run["status"], run["error"]) == ("failed", "RESULT_TOO_LARGE")
    small = (await organization.publish(shell("echo fine")))["workflow"]
    run = await organization.finished(small["id"], await organization.start_run(small["id"]))
    assert run["status"] == "succeeded"
    assert agent.log().count('"connected"') == 1


async def test_host_backend_cannot_do_without_the_network_and_says_so(organization: Organization) -> None:
    await organization.pair()
    node = shell("true", retry={"maxAttempts": 1, "backoffMs": 0})
    config = node["config"]
    assert isinstance(config, dict)
    config["sandbox"] = {"network": "none", "backend": "host"}
    workflow = (await organization.publish(node))["workflow"]
    run = await organization.finished(workflow["id"], await organization.start_run(workflow["id"]))
    assert (run["status"], run["error"]) == ("failed", "HOST_NETWORK_MODE_UNSUPPORTED")


async def test_many_runs_at_once_never_exceed_what_the_agent_takes(organization: Organization, tmp_path: Path) -> None:
    await organization.pair(VESPID_AGENT_MAX_IN_FLIGHT="3")
    marks = Marks(tmp_path)
    workflow = (await organization.publish(shell(marks.script("sleep 0.2"))))["workflow"]
    runs = await asyncio.gather(*(organization.start_run(workflow["id"]) for _ in range(12)))
    for run_id in runs:
        assert (await organization.finished(workflow["id"], run_id))["status"] == "succeeded"
    at_once = highest = 0
    for _, word in marks.lines():
        at_once += 1 if word == "start" else -1
        highest = max(highest, at_once)
    assert highest == 3


@pytest.mark.promise("P1", "P2")
async def test_a_run_tried_again_goes_on_where_it_failed_though_its_worker_is_killed(
    organization: Organization, tmp_path: Path
) -> None:
    await organization.pair()
    marks, switch = Marks(tmp_path), tmp_path / "switch"
    first = shell(f"{marks.script()}\necho bird", "first")
    broken = shell(f"{marks.script()}\ntest -e {switch}", "broken")
    broken["retry"] = {"maxAttempts": 1, "backoffMs": 50}
    slow = shell(marks.script(f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"), "slow")
    slow["timeoutMs"] = 60_000
    last = shell("echo {{ steps.first.output.stdout }}", "last")
    workflow = (await organization.publish(first, broken, slow, last))["workflow"]
    before = await organization.finished(workflow["id"], await organization.start_run(workflow["id"]))
    assert (before["status"], before["output"]["output"]["failedNodeId"]) == ("failed", "broken")
    done_before = marks.starts()

    switch.touch()
    retry = f"/v1/orgs/{{org}}/workflows/{workflow['id']}/runs/{before['id']}/retry"
    run_id = (await organization.call("POST", retry, status=201)).body["run"]["id"]
    await until(lambda: f"{run_id}:slow:1" in marks.starts(), "the retried run goes on")
    for worker in organization.processes.running("worker"):
        await worker.kill()
    (tmp_path / "go").touch()
    await organization.processes.start("worker", WORKER_PORT="0", ready=False)
    run = await organization.finished(workflow["id"], run_id)
    assert run["status"] == "succeeded"
    assert [step["status"] for step in run["output"]["steps"]] == ["succeeded"] * 4
    assert run["output"]["steps"][0]["output"]["stdout"] == "bird\n"
    assert "bird" in run["output"]["steps"][3]["output"]["stdout"]
    # The first was not done again, and what was is told apart by its id.
    assert marks.starts()[len(done_before) :] == [f"{run_id}:broken:1", f"{run_id}:slow:1"]
    events = [event["eventType"] for event in await organization.events(workflow["id"], run_id)]
    assert events[:3] == ["run_started", "node_taken_over", "node_started"]
