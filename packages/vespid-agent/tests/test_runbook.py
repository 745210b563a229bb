"""The runbook's sections on sandboxes, line by line, where no other test pins the line."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.support.container_engine import IMAGE, ContainerEngine

from vespid_agent.settings import AgentSettings
from vespid_agent.testing.fake_gateway import RUN_ID, FakeGateway
from vespid_agent.testing.payloads import decoded, shell
from vespid_agent.testing.running import InProcessAgent
from vespid_protocol import frames as f

MB = 1024 * 1024
# The runbook's strict profile, which is what an agent has that is told nothing.
STRICT = {"Memory": 256 * MB, "MemorySwap": 256 * MB, "NanoCpus": 10**9, "PidsLimit": 256, "NetworkMode": "none"}

docker_only = (pytest.mark.xdist_group("docker"), pytest.mark.needs_root)


@contextlib.asynccontextmanager
async def agent_told(
    gateway: FakeGateway, home: Path, told: Mapping[str, str], environment: Mapping[str, str] | None = None
) -> AsyncIterator[InProcessAgent]:
    """An agent that is told these variables, without their prefix. `environment`: what else its process has."""
    variables = {f"VESPID_AGENT_{name}": value for name, value in {"DRAIN_MS": "0", **told}.items()}
    agent = InProcessAgent(gateway, home, AgentSettings.from_env(variables), environment)
    await agent.start()
    try:
        yield agent
    finally:
        await agent.stop()


def in_docker(image: str = IMAGE, **more: str) -> dict[str, str]:
    return {"EXEC_BACKEND": "docker", "DOCKER_IMAGE": image, "DOCKER_PREPARED": "0", **more}


def with_env(payload: dict[str, Any], **env: str) -> dict[str, Any]:
    payload["node"]["config"]["task"]["env"] = env
    return payload


async def output_of(gateway: FakeGateway, payload: dict[str, Any]) -> dict[str, Any]:
    return decoded((await gateway.run("agent.execute", payload)).output)


async def container_of(gateway: FakeGateway, engine: ContainerEngine, **sandbox: object) -> dict[str, Any]:
    """What the engine says of the container that a task is in."""
    request = await gateway.dispatch(
        "agent.execute", shell("echo here; while [ ! -e over ]; do sleep 0.05; done", **sandbox)
    )
    link = await gateway.link()
    await gateway.until(lambda: bool(link.of(f.ExecuteEvent, request)))
    (found,) = await engine.containers()
    about: dict[str, Any] = await engine.get(f"/containers/{found['Id']}/json")
    (mount,) = [mount for mount in about["Mounts"] if mount["Destination"] == "/work"]
    (Path(mount["Source"]) / "over").touch()
    await gateway.result(request)
    return about


# --- Docker Sandbox ---------------------------------------------------------------------------------------------------


def pick(about: dict[str, Any], names: Mapping[str, object]) -> dict[str, object]:
    return {name: about["HostConfig"][name] for name in names}


@pytest.mark.promise("P11")
@pytest.mark.parametrize(
    ("told", "sandbox", "differs"),
    [
        ({}, {}, {}),
        ({}, {"network": "enabled"}, {"NetworkMode": "bridge"}),
        ({}, {"networkMode": "enabled"}, {"NetworkMode": "bridge"}),
        ({"DOCKER_NETWORK_DEFAULT": "none"}, {}, {}),
        ({"DOCKER_NETWORK_DEFAULT": "enabled"}, {}, {"NetworkMode": "bridge"}),
        ({"DOCKER_NETWORK_DEFAULT": "enabled"}, {"networkMode": "none"}, {}),
        ({"DOCKER_MEMORY_MB": "64"}, {}, {"Memory": 64 * MB, "MemorySwap": 64 * MB}),
        ({"DOCKER_CPUS": "0.5"}, {}, {"NanoCpus": 5 * 10**8}),
        ({"DOCKER_PIDS": "32"}, {}, {"PidsLimit": 32}),
    ],
)
@pytest.mark.xdist_group("docker")
@pytest.mark.needs_root
async def test_container_has_the_strict_profile_but_for_what_agent_and_node_say(
    gateway: FakeGateway,
    tmp_path: Path,
    container_engine: ContainerEngine,
    told: dict[str, str],
    sandbox: dict[str, str],
    differs: dict[str, object],
) -> None:
    async with agent_told(gateway, tmp_path, in_docker(**told), container_engine.environment):
        about = await container_of(gateway, container_engine, **sandbox)
    assert pick(about, STRICT) == STRICT | differs
    hardened = {"ReadonlyRootfs": True, "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges"], "Privileged": False}
    assert pick(about, hardened) == hardened


@pytest.mark.xdist_group("docker")
@pytest.mark.needs_root
async def test_runs_folder_is_mounted_at_work_and_can_be_written(
    gateway: FakeGateway, tmp_path: Path, container_engine: ContainerEngine
) -> None:
    async with agent_told(gateway, tmp_path, in_docker(), container_engine.environment) as agent:
        about = await container_of(gateway, container_engine)
    (work,) = [mount for mount in about["Mounts"] if mount["Destination"] == "/work"]
    assert work["RW"] is True
    assert Path(work["Source"]) == agent.home / "work" / RUN_ID / "n"


@pytest.mark.xdist_group("docker")
@pytest.mark.needs_root
async def test_image_is_the_agents_unless_the_node_names_one(
    gateway: FakeGateway, tmp_path: Path, container_engine: ContainerEngine
) -> None:
    async with agent_told(gateway, tmp_path, in_docker("no-such-image:7"), container_engine.environment):
        refused = await gateway.run("agent.execute", shell("true"))
        about = await container_of(gateway, container_engine, docker={"image": IMAGE})
    assert refused.error == "SANDBOX_UNAVAILABLE:docker"
    assert "no-such-image:7" in str(refused.error_message)
    assert about["Config"]["Image"] == IMAGE


@pytest.mark.parametrize("backend", ["bubblewrap", pytest.param("docker", marks=docker_only)])
async def test_sandboxed_task_has_the_time_and_the_output_of_the_docker_limits(
    gateway: FakeGateway, tmp_path: Path, request: pytest.FixtureRequest, backend: str
) -> None:
    environment: dict[str, str] = {}
    if backend == "docker":
        environment = request.getfixturevalue("container_engine").environment
    told = in_docker(DOCKER_TIMEOUT_MS="1500", DOCKER_OUTPUT_MAX_CHARS="1000", HOST_OUTPUT_MAX_CHARS="5000")
    async with agent_told(gateway, tmp_path, told | {"EXEC_BACKEND": backend}, environment):
        result = await gateway.run("agent.execute", shell("seq 1 1000; sleep 60"))
    output = decoded(result.output)
    assert (result.error, output["timedOut"], output["exitCode"]) == ("NODE_EXECUTION_TIMEOUT", True, None)
    assert (len(str(output["stdout"])), output["stdoutTruncated"]) == (1000, True)


# --- Host Sandbox -----------------------------------------------------------------------------------------------------


async def test_without_a_word_tasks_run_on_the_host_below_the_workdir_root(
    gateway: FakeGateway, tmp_path: Path
) -> None:
    async with agent_told(gateway, tmp_path, {}) as agent:
        output = await output_of(gateway, shell("pwd -P"))
    assert output["backend"] == "host"
    assert output["stdout"] == f"{os.path.realpath(agent.home)}/work/{RUN_ID}/n\n"


@pytest.mark.parametrize(("told", "kept"), [({}, 65_536), ({"HOST_OUTPUT_MAX_CHARS": "2000"}, 2000)])
async def test_so_much_is_kept_of_each_stream_of_a_host_task(
    gateway: FakeGateway, tmp_path: Path, told: dict[str, str], kept: int
) -> None:
    async with agent_told(gateway, tmp_path, told):
        output = await output_of(gateway, shell("seq 1 20000; seq 1 20000 >&2"))
    assert (len(str(output["stdout"])), len(str(output["stderr"]))) == (kept, kept)
    assert (output["stdoutTruncated"], output["stderrTruncated"]) == (True, True)


@pytest.mark.parametrize(("grace_ms", "said"), [("20000", "up\ncleaned\n"), ("0", "up\n")])
async def test_so_long_a_host_task_has_between_sigterm_and_its_end(
    gateway: FakeGateway, tmp_path: Path, grace_ms: str, said: str
) -> None:
    script = "trap 'sleep 0.7; echo cleaned; exit' TERM; echo up; while :; do sleep 0.05; done"
    async with agent_told(gateway, tmp_path, {"HOST_KILL_GRACE_MS": grace_ms}):
        output = await output_of(gateway, shell(script, timeoutMs=700))
    assert (output["timedOut"], output["stdout"]) == (True, said)


@pytest.mark.parametrize("spelling", ["network", "networkMode"])
async def test_host_task_that_wants_no_network_is_refused_and_not_run(
    gateway: FakeGateway, tmp_path: Path, spelling: str
) -> None:
    ran = tmp_path / "ran"
    async with agent_told(gateway, tmp_path, {}):
        refused = await gateway.run("agent.execute", shell(f"touch {ran}", **{spelling: "none"}))
        allowed = await gateway.run("agent.execute", shell("true", **{spelling: "enabled"}))
    assert (refused.status, refused.error) == ("failed", "HOST_NETWORK_MODE_UNSUPPORTED")
    assert not ran.exists()
    assert allowed.status == "succeeded"


# --- LLM credential pass-through --------------------------------------------------------------------------------------


@pytest.mark.promise("P10")
@pytest.mark.parametrize("backend", ["host", "bubblewrap", pytest.param("docker", marks=docker_only)])
async def test_allowlisted_keys_and_the_tasks_own_are_all_it_gets_and_no_log_has_them(
    gateway: FakeGateway,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capfd: pytest.CaptureFixture[str],
    backend: str,
) -> None:
    own = {"OPENAI_API_KEY": "sk-live-0123456789", "REGION": "agents", "OTHER_API_KEY": "sk-other-0123456789"}
    engine = request.getfixturevalue("container_engine").environment if backend == "docker" else {}
    script = 'printf %s "$OPENAI_API_KEY" | wc -c; echo "${OTHER_API_KEY-none}" "$REGION" "$HOME"'
    asked = shell(script, envPassthroughAllowlist=["OPENAI_API_KEY", "REGION"])
    told = in_docker() | {"EXEC_BACKEND": backend, "LOG_LEVEL": "debug"}
    async with agent_told(gateway, tmp_path, told, own | engine):
        output = await output_of(gateway, with_env(asked, REGION="tasks", HOME="/nowhere"))
    length = len(own["OPENAI_API_KEY"])
    assert str(output["stdout"]).split() == [str(length), "none", "tasks", "/nowhere"], output
    logged = "".join(capfd.readouterr())
    assert "connected" in logged
    assert not [value for value in own.values() if value.startswith("sk-") and value in logged]
