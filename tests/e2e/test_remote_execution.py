"""The runbook's pairing flow, "Verifying Remote Execution", tags and troubleshooting, walked through from outside."""

import json

import pytest
from tests.support.organization import Organization, shell, until


async def test_a_paired_agent_runs_a_workflow_and_its_events_tell(organization: Organization) -> None:
    _agent, agent_id = await organization.pair(VESPID_AGENT_TAGS="east,group:alpha")
    listed = await organization.agent(agent_id)
    assert listed["status"] == "online"
    assert listed["tags"] == []
    assert sorted(listed["reportedTags"]) == ["east", "group:alpha"]
    assert listed["kinds"] == ["connector.action", "agent.execute", "agent.run"]

    workflow = (await organization.publish(shell("echo hello {{ input.name }}")))["workflow"]
    run_id = await organization.start_run(workflow["id"], {"name": "world"})
    run = await organization.finished(workflow["id"], run_id)

    assert (run["status"], run["attemptCount"], run["error"]) == ("succeeded", 1, None)
    step = run["output"]["steps"][0]
    assert (step["nodeId"], step["status"], step["output"]["stdout"]) == ("n1", "succeeded", "hello world\n")
    events = await organization.events(workflow["id"], run_id)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["eventType"] for event in events if event["eventType"] != "remote_event"] == [
        "run_started",
        "node_started",
        "node_dispatched",
        "remote_result_received",
        "node_succeeded",
        "run_succeeded",
    ]
    streamed = [event for event in events if event["eventType"] == "remote_event"]
    assert "".join(event["payload"]["payload"]["text"] for event in streamed) == "hello world\n"
    assert {event["message"] for event in streamed} == {"stdout"}


async def test_output_is_streamed_while_the_task_runs(organization: Organization) -> None:
    await organization.pair()
    workflow = (await organization.publish(shell("echo first; sleep 3; echo last")))["workflow"]
    run_id = await organization.start_run(workflow["id"])
    await organization.has_event(workflow["id"], run_id, "remote_event")
    assert (await organization.run(workflow["id"], run_id))["status"] == "running"
    await organization.finished(workflow["id"], run_id)


async def test_only_control_plane_tags_route(organization: Organization) -> None:
    _, agent_id = await organization.pair(VESPID_AGENT_TAGS="west")
    selector = {"tag": "west", "group": "beta"}
    refused = (await organization.publish(shell("true", selector=selector, schedule={"onUnavailable": "fail"})))[
        "workflow"
    ]
    run = await organization.finished(refused["id"], await organization.start_run(refused["id"]))
    assert (run["status"], run["error"]) == ("failed", "NO_AGENT_AVAILABLE")

    waiting = (await organization.publish(shell("echo here", selector=selector)))["workflow"]
    run_id = await organization.start_run(waiting["id"])
    await organization.has_event(waiting["id"], run_id, "node_waiting")
    shown = await organization.run(waiting["id"], run_id)
    assert shown["blocked"]["nodeId"] == "n1"
    told = next(
        event for event in await organization.events(waiting["id"], run_id) if event["eventType"] == "node_waiting"
    )
    assert told["payload"] == {"reason": "NONE_MATCHES", "selector": {"group": "beta", "tag": "west"}}

    changed = await organization.call(
        "PUT", f"/v1/orgs/{{org}}/agents/{agent_id}/tags", {"tags": ["west", "group:beta"]}, status=200
    )
    assert changed.body["agent"] == {"id": agent_id, "tags": ["west", "group:beta"]}
    run = await organization.finished(waiting["id"], run_id, within_s=20)
    assert run["status"] == "succeeded"


async def test_a_node_that_names_a_sandbox_waits_for_an_agent_that_has_it(organization: Organization) -> None:
    await organization.pair(DOCKER_HOST="unix:///nonexistent/docker.sock")
    boxed = (await organization.publish(shell("echo here", sandbox={"backend": "docker"})))["workflow"]
    run_id = await organization.start_run(boxed["id"])
    await organization.has_event(boxed["id"], run_id, "node_waiting")
    events = await organization.events(boxed["id"], run_id)
    told = next(event for event in events if event["eventType"] == "node_waiting")
    assert told["payload"]["reason"] == "NONE_MATCHES"
    bare = (await organization.publish(shell("echo here", sandbox={"backend": "host"})))["workflow"]
    run = await organization.finished(bare["id"], await organization.start_run(bare["id"]))
    assert run["status"] == "succeeded"


async def test_later_node_finds_what_an_earlier_one_left(organization: Organization) -> None:
    await organization.pair()
    shared = {"workdir": "run"}
    nodes = (shell("echo made > file", "n1", sandbox=shared), shell("cat file", "n2", sandbox=shared))
    workflow = (await organization.publish(*nodes))["workflow"]
    run = await organization.finished(workflow["id"], await organization.start_run(workflow["id"]))
    assert run["output"]["steps"][1]["output"]["stdout"] == "made\n"


async def test_without_an_agent_a_dispatch_is_refused_with_the_reason(organization: Organization) -> None:
    body = dispatch_body(organization)
    answer = await organization.gateway("POST", "/internal/v1/dispatch", body, status=503)
    assert (answer.body["code"], answer.body["details"]) == ("NO_AGENT_AVAILABLE", {"reason": "NONE_CONNECTED"})
    missing = await organization.gateway("GET", f"/internal/v1/results/{body['runId']}:n:1", status=404)
    assert missing.body["code"] == "RESULT_NOT_READY"


async def test_internal_dispatch_needs_the_service_token(organization: Organization) -> None:
    for headers in ({}, {"X-Gateway-Token": "wrong"}, {"X-Gateway-Token": ""}):
        answer = await organization.call(
            "POST",
            "/internal/v1/dispatch",
            dispatch_body(organization),
            base=organization.processes.gateway_url,
            headers=headers,
            status=401,
        )
        assert answer.body["code"] == "UNAUTHORIZED"


async def test_dispatch_and_its_repeats(organization: Organization) -> None:
    await organization.pair()
    body = dispatch_body(organization)
    first = await organization.gateway("POST", "/internal/v1/dispatch", body, status=200)
    assert first.body == {"status": "succeeded", "output": {"accepted": True, "nodeId": "n"}}
    again = await organization.gateway("POST", "/internal/v1/dispatch", body, status=200)
    assert again.body == first.body
    cached = await organization.gateway("POST", "/internal/v1/dispatch-async", body, status=200)
    assert cached.body == {"requestId": f"{body['runId']}:n:1", "dispatched": False, "cached": True}
    other = {**body, "payload": {**body["payload"], "more": 1}}
    conflict = await organization.gateway("POST", "/internal/v1/dispatch", other, status=409)
    assert conflict.body["code"] == "CONFLICT"
    result = await organization.gateway("GET", f"/internal/v1/results/{body['runId']}:n:1", status=200)
    assert result.body == first.body


async def test_a_revoked_agent_stops_for_good_and_says_why(organization: Organization) -> None:
    agent, agent_id = await organization.pair()
    await organization.call("POST", f"/v1/orgs/{{org}}/agents/{agent_id}/revoke", status=200)
    assert await agent.wait() != 0
    assert "revoked" in agent.log().lower()
    assert (await organization.agent(agent_id))["status"] == "revoked"
    back = await organization.restart_agent()
    assert await back.wait() != 0
    assert "EXECUTOR_REVOKED" in back.log()


async def test_a_closed_agent_is_offline_at_once(organization: Organization) -> None:
    agent, agent_id = await organization.pair()
    assert await agent.terminate() == 0, agent.log()

    async def offline() -> bool:
        return (await organization.agent(agent_id))["status"] == "offline"

    await until(offline, "the agent is offline", within_s=5)


async def test_remote_nodes_fail_at_once_without_gateway_settings(organization: Organization) -> None:
    # The worker of this installation has them; only a second one, alone, has not.
    processes = organization.processes
    for process in processes.running("worker"):
        await process.terminate()
    await processes.start("worker", GATEWAY_HTTP_URL="", GATEWAY_SERVICE_TOKEN="", WORKFLOW_RETRY_BACKOFF_MS="0")
    workflow = (await organization.publish(shell("true")))["workflow"]
    run = await organization.finished(workflow["id"], await organization.start_run(workflow["id"]))
    assert (run["status"], run["error"]) == ("failed", "GATEWAY_NOT_CONFIGURED")


@pytest.mark.promise("P9")
async def test_a_cancelled_run_stops_its_task_on_the_agent(organization: Organization) -> None:
    _, agent_id = await organization.pair()
    workflow = (await organization.publish(shell("echo up; sleep 60")))["workflow"]
    run_id = await organization.start_run(workflow["id"])
    await organization.has_event(workflow["id"], run_id, "remote_event")
    await organization.call("POST", f"/v1/orgs/{{org}}/workflows/{workflow['id']}/runs/{run_id}/cancel", status=200)
    run = await organization.finished(workflow["id"], run_id, within_s=15)
    assert run["status"] == "cancelled"

    async def free() -> bool:
        return (await organization.agent(agent_id))["inFlight"] == 0

    await until(free, "the agent has nothing in flight", within_s=10)


async def test_a_managed_executor_serves_the_managed_pool_until_it_is_revoked(organization: Organization) -> None:
    managed = await organization.issue_managed()
    agent = await managed.start()
    node = {
        "id": "n",
        "type": "agent.execute",
        "config": {"execution": {"mode": "node", "selector": {"pool": "managed"}}},
    }
    workflow = (await organization.publish(node))["workflow"]
    run = await organization.finished(workflow["id"], await organization.start_run(workflow["id"]))
    assert run["status"] == "succeeded"

    await organization.service("POST", f"/internal/v1/managed-executors/{managed.id}/revoke", status=200)
    assert await agent.wait() != 0
    missing = await organization.service("POST", f"/internal/v1/managed-executors/{organization.id}/revoke", status=404)
    assert missing.body["code"]


def dispatch_body(organization: Organization) -> dict[str, object]:
    """A dispatch of a node that only asks whether an agent is there."""
    node = {"id": "n", "type": "agent.execute", "config": {}}
    run_id = organization.id
    payload = {"nodeId": "n", "node": node, "runId": run_id, "workflowId": run_id, "attemptCount": 1}
    return {
        "organizationId": organization.id,
        "requestedByUserId": None,
        "runId": run_id,
        "workflowId": None,
        "nodeId": "n",
        "nodeType": "agent.execute",
        "attemptCount": 1,
        "kind": "agent.execute",
        "payload": json.loads(json.dumps(payload)),
    }


async def test_doctor_examines_a_running_agent_and_leaves_its_link_alone(organization: Organization) -> None:
    process, agent_id = await organization.pair()
    home = organization.processes.folder / "agent-home"

    async def told(name: str) -> tuple[int, dict[str, tuple[str, str]]]:
        doctor = await organization.processes.start_agent("doctor", "--json", home=home, name=name)
        status = await doctor.wait(60)
        findings = json.loads(doctor.log())["findings"]
        return status, {found["check"]: (found["level"], found["found"]) for found in findings}

    status, lines = await told("doctor")
    assert status == 0, lines
    assert lines["gateway upgrade"] == ("ok", "the token is good and the gateway was asked for an upgrade")
    assert lines["api http"][0] == lines["clock"][0] == lines["process"][0] == "ok"
    assert "disconnected" not in process.log()

    # What stands before the gateway may take the upgrade away: the gateway says so, and the doctor reads it.
    config = json.loads((home / ".vespid" / "agent.json").read_text())
    url = config["gatewayWsUrl"].replace("ws://", "http://", 1)
    token = {"Authorization": f"Bearer {config['executorToken']}"}
    plain = await organization.call("GET", "", base=url, headers=token, status=400)
    assert "UPGRADE hdr" in plain.body["message"]
    assert "disconnected" not in process.log()

    await organization.call("POST", f"/v1/orgs/{{org}}/agents/{agent_id}/revoke")
    assert await process.wait(30) == 1
    status, lines = await told("doctor-again")
    assert (status, lines["gateway upgrade"][0]) == (1, "fail")
    assert "revoked" in lines["gateway upgrade"][1]
