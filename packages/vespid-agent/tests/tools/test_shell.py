"""`shell.run`: in which sandbox, with what around it, and what is told of how it ended."""

from __future__ import annotations

import asyncio
import uuid

import msgspec
import pytest

from vespid_agent.sandbox.task import ProcessMark
from vespid_agent.tools.sandboxed import Sandboxed
from vespid_agent.tools.shell import ShellTools
from vespid_runtime.loop.schema import problems
from vespid_runtime.tools.tool import Tool, ToolError, ToolUse

from ..sandbox.conftest import processes_saying
from .conftest import USE, Ground, MakeGround, backend_called


def shell_of(ground: Ground, **scope: object) -> Tool:
    (tool,) = ShellTools(ground.sandboxed).tools(ground.scope(may_run_shell=True, **scope))
    return tool


async def test_an_exit_status_is_an_answer_with_both_streams(ground: Ground) -> None:
    answer = await shell_of(ground).call({"script": "echo out; echo err >&2; exit 3"}, USE)
    assert isinstance(answer, dict)
    told = {key: answer[key] for key in ("exitCode", "timedOut", "stdout", "stderr")}
    assert told == {"exitCode": 3, "timedOut": False, "stdout": "out\n", "stderr": "err\n"}


async def test_it_works_in_the_folder_of_its_request_and_knows_its_key(ground: Ground) -> None:
    shell = shell_of(ground)
    await shell.call(
        {"script": 'echo "$VESPID_IDEMPOTENCY_KEY $VESPID_REQUEST_ID $EXTRA" > f', "env": {"EXTRA": "x"}}, USE
    )
    assert (ground.scope().workdir / "f").read_text() == "run:n1:tool:3 run:n1:1 x\n"
    assert await shell.call({"script": "cat f"}, USE) is not None


async def test_the_model_cannot_take_the_place_of_the_key(host: Ground) -> None:
    answer = await shell_of(host).call(
        {"script": 'printf %s "$VESPID_IDEMPOTENCY_KEY"', "env": {"VESPID_IDEMPOTENCY_KEY": "x"}}, USE
    )
    assert isinstance(answer, dict)
    assert answer["stdout"] == USE.key


async def test_output_is_streamed_under_the_number_of_the_call_and_masked(ground: Ground) -> None:
    shell = shell_of(ground, secrets={"s": "hunter2-hunter2"})
    answer = await shell.call({"script": "echo hunter2-hunter2"}, USE)
    assert isinstance(answer, dict)
    assert answer["stdout"] == "***\n"
    assert ground.told.events == [("stdout", "info", None, {"n": 3, "text": "***\n", "offset": 0})]


async def test_what_the_agent_hides_is_masked_too(host: Ground) -> None:
    sandboxed = Sandboxed(host.shells, lambda: ["canary-of-a-server"])
    (shell,) = ShellTools(sandboxed).tools(host.scope(may_run_shell=True))
    answer = await shell.call({"script": "echo canary-of-a-server"}, USE)
    assert isinstance(answer, dict)
    assert answer["stdout"] == "***\n"


@pytest.mark.promise("P2")
async def test_it_is_marked_before_it_runs_and_not_any_more_when_it_is_over(ground: Ground) -> None:
    await shell_of(ground).call({"script": "true"}, USE)
    (key, mark), over = ground.told.marks
    assert (key, over) == (USE.key, (USE.key, ""))
    assert msgspec.json.decode(mark, type=ProcessMark).backend == ground.shells.backends.default


async def test_without_the_organizations_leave_nothing_runs(host: Ground) -> None:
    (shell,) = ShellTools(host.sandboxed).tools(host.scope())
    with pytest.raises(ToolError) as refused:
        await shell.call({"script": "touch ran"}, USE)
    assert refused.value.code == "TOOL_POLICY_DENIED:shell.run"
    assert "tools.shellRunEnabled" in refused.value.message
    assert not (host.scope().workdir / "ran").exists()
    assert host.told.marks == []


async def test_its_time_is_over_before_its_callers_so_that_its_output_is_told(ground: Ground) -> None:
    answer = await shell_of(ground).call({"script": "echo so far; sleep 60"}, ToolUse(n=0, key="k", timeout_ms=3_000))
    assert isinstance(answer, dict)
    assert (answer["timedOut"], answer["exitCode"], answer["stdout"]) == (True, None, "so far\n")


async def test_it_may_ask_for_less_time(host: Ground) -> None:
    answer = await shell_of(host).call({"script": "sleep 60", "timeoutMs": 50}, USE)
    assert isinstance(answer, dict)
    assert answer["timedOut"]


async def test_cancelled_it_leaves_nothing(ground: Ground) -> None:
    sleep = f"sleep {600 + uuid.uuid4().int % 10**6 / 10**7:.7f}"
    running = asyncio.ensure_future(shell_of(ground).call({"script": f"({sleep} &) ; {sleep}"}, USE))
    async with asyncio.timeout(20):
        while not processes_saying(sleep):
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert processes_saying(sleep) == []
    assert ground.told.marks[-1] == (USE.key, "")


async def test_output_is_cut_as_a_tasks(make_ground: MakeGround) -> None:
    ground = make_ground(backend_called("host"), host_output_max_chars=1_000)
    answer = await shell_of(ground).call({"script": "head -c 100000 /dev/zero | tr '\\0' x"}, USE)
    assert isinstance(answer, dict)
    assert answer["stdoutTruncated"]
    assert len(str(answer["stdout"])) < 1_200


async def test_a_full_folder_is_told_with_what_was_put_out(make_ground: MakeGround) -> None:
    ground = make_ground(backend_called("host"), workdir_quota_mb=1)
    script = "echo filling; for i in 1 2 3 4; do head -c 500000 /dev/zero > f$i; done"
    with pytest.raises(ToolError) as full:
        await shell_of(ground).call({"script": script}, USE)
    assert full.value.code == "WORKDIR_QUOTA_EXCEEDED"
    assert "filling" in full.value.message


async def test_a_missing_sandbox_is_named(make_ground: MakeGround) -> None:
    with pytest.raises(ToolError) as missing:
        await shell_of(make_ground(None)).call({"script": "true"}, USE)
    assert missing.value.code == "SANDBOX_UNAVAILABLE:docker"


async def test_its_schema_says_what_it_takes(host: Ground) -> None:
    schema = shell_of(host).input_schema
    assert problems({"script": "true", "shell": "bash", "timeoutMs": 5, "env": {"A": "b"}}, schema) == []
    for wrong in ({}, {"script": 1}, {"script": "x", "shell": "zsh"}, {"script": "x", "cwd": "/"}):
        assert problems(wrong, schema) != []
