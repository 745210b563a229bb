"""The runbook's Docker Sandbox, through the whole system: an agent that runs its tasks in containers."""

import pytest
from tests.support.container_engine import IMAGE, ContainerEngine
from tests.support.organization import Organization, shell, until

pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.needs_root]


def settings_of(engine: ContainerEngine) -> dict[str, str]:
    return engine.environment | {
        "VESPID_AGENT_EXEC_BACKEND": "docker",
        "VESPID_AGENT_DOCKER_IMAGE": IMAGE,
        "VESPID_AGENT_DOCKER_PREPARED": "1",
    }


async def test_a_task_runs_in_a_container_and_what_it_exits_with_is_told(
    organization: Organization, container_engine: ContainerEngine
) -> None:
    agent, _ = await organization.pair(
        **settings_of(container_engine), ALLOWED="passed-on", OTHER="kept-back", VESPID_AGENT_DRAIN_MS="1000"
    )
    node = shell("id -u; pwd; echo $ALLOWED$OTHER; touch /etc/x || exit 3")
    node["config"]["sandbox"] = {"envPassthroughAllowlist": ["ALLOWED"]}  # type: ignore[index]
    workflow = (await organization.publish(node))["workflow"]
    run = await organization.finished(workflow["id"], await organization.start_run(workflow["id"]))
    assert (run["status"], run["error"]) == ("failed", "DOCKER_EXIT_CODE:3")
    output = run["output"]["steps"][0]["output"]
    assert (output["backend"], output["exitCode"]) == ("docker", 3)
    assert output["stdout"] == "65534\n/work\npassed-on\n"
    assert "Read-only file system" in output["stderr"]

    none = shell("cat /proc/net/dev | grep -c :")
    none["config"]["sandbox"] = {"network": "none", "docker": {"image": IMAGE}}  # type: ignore[index]
    workflow = (await organization.publish(none))["workflow"]
    run = await organization.finished(workflow["id"], await organization.start_run(workflow["id"]))
    assert run["output"]["steps"][0]["output"]["stdout"] == "1\n"

    assert await agent.terminate() == 0, agent.log()
    assert await container_engine.containers() == []


async def test_an_agent_that_was_killed_leaves_no_container_behind_once_it_is_back(
    organization: Organization, container_engine: ContainerEngine
) -> None:
    agent, _ = await organization.pair(**settings_of(container_engine))
    workflow = (await organization.publish(shell("echo begun; sleep 600")))["workflow"]
    run_id = await organization.start_run(workflow["id"])
    await organization.has_event(workflow["id"], run_id, "remote_event")
    await agent.kill()
    left = {found["Id"] for found in await container_engine.containers()}
    assert left
    back = await organization.restart_agent(**settings_of(container_engine))

    async def gone() -> bool:
        return not left & {found["Id"] for found in await container_engine.containers()}

    await until(gone, "nothing of the dead agent is left")
    await organization.has_event(workflow["id"], run_id, "node_failed")
    failed = next(e for e in await organization.events(workflow["id"], run_id) if e["eventType"] == "node_failed")
    assert "AGENT_DISCONNECTED" in str(failed)
    await organization.call("POST", f"/v1/orgs/{{org}}/workflows/{workflow['id']}/runs/{run_id}/cancel", status=200)
    await organization.finished(workflow["id"], run_id)
    assert await back.terminate() == 0, back.log()
    assert await container_engine.containers() == []
