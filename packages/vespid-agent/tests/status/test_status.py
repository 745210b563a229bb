"""`vespid-agent status` beside a real agent process, and what is believed of its file."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vespid_agent import files
from vespid_agent.clock import epoch_ms
from vespid_agent.lock import IdentityLock, holder
from vespid_agent.status import shown
from vespid_agent.status.reading import Reading, Verdict, read
from vespid_agent.status.state import Problem, State, ToolsState
from vespid_agent.testing.fake_gateway import EXECUTOR_ID, RUN_ID, TOKEN, FakeGateway
from vespid_agent.testing.payloads import shell
from vespid_agent.testing.running import AgentProcess


async def status(agent: AgentProcess, *words: str) -> tuple[int, str]:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vespid_agent", "status", "--config", str(agent.config), *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await child.communicate()
    assert child.returncode is not None
    return child.returncode, said.decode()


async def told(agent: AgentProcess, is_it: Any) -> State:
    """What the agent tells, once that is so."""
    async with asyncio.timeout(30):
        while True:
            reading = await asyncio.to_thread(read, agent.config, EXECUTOR_ID)
            if reading.state is not None and is_it(reading.state):
                return reading.state
            await asyncio.sleep(0.05)


@pytest.fixture
async def gateway() -> AsyncIterator[FakeGateway]:
    async with FakeGateway(heartbeat_ms=300) as started:
        yield started


async def test_status_tells_each_duty_of_the_running_process(
    gateway: FakeGateway, process: AgentProcess, tmp_path: Path
) -> None:
    process.environment["OPENAI_API_KEY"] = "sk-live-0123456789"
    gateway.faults.never_ack = True
    await process.start()
    await gateway.run("agent.execute", shell("echo done"))
    go = tmp_path / "go"
    request = await gateway.dispatch("agent.execute", shell(f"while [ ! -e {go} ]; do sleep 0.05; done"))
    state = await told(
        process,
        lambda s: s.leases and s.link.round_trip_ms is not None and s.journal.unacknowledged and len(s.engines) > 2,
    )
    assert [(lease.request_id, lease.run_id, lease.node_id) for lease in state.leases] == [(request, RUN_ID, "n2")]
    code, said = await status(process)
    assert code == 0
    for words in (
        f"running (pid {process.pid})",
        "up for",
        "every 0.3 s, round trip",
        "1 of 10 in flight",
        f"node n2 of run {RUN_ID} · agent.execute",
        "1 result not yet acknowledged",
        "0 frames waiting",
        "host (default): usable",
        "vespid.loop.v1: offered",
        "codex.sdk.v1",
        "0 skills",
    ):
        assert words in said
    code, as_json = await status(process, "--json")
    document = json.loads(as_json)
    assert (code, document["verdict"], document["state"]["leases"][0]["nodeId"]) == (0, "running", "n2")
    path = files.status_path(process.config, EXECUTOR_ID)
    assert path.stat().st_mode & 0o777 == 0o600
    for secret in (TOKEN, "sk-live-0123456789", "while ["):
        assert secret not in said + as_json + path.read_text()

    process.signal(signal.SIGTERM)
    await told(process, lambda s: s.phase == "draining")
    assert "taking nothing new since" in (await status(process))[1]
    go.touch()
    assert await process.exit_code() == 0
    assert not path.exists()
    code, said = await status(process)
    assert (code, "not running" in said) == (4, True)


async def test_stopped_process_is_said_to_hang(gateway: FakeGateway, process: AgentProcess) -> None:
    await process.start()
    state = await told(process, lambda s: s.link is not None and s.link.up)
    process.signal(signal.SIGSTOP)
    path = files.status_path(process.config, EXECUTOR_ID)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(state, at=epoch_ms() - 16_000)))
    code, said = await status(process)
    assert code == 5
    assert f"HANGS (pid {process.pid})" in said
    assert "it has told nothing for" in said
    process.signal(signal.SIGCONT)
    await told(process, lambda s: epoch_ms() - s.at < 10_000)
    assert (await status(process))[0] == 0


async def test_process_without_a_link_for_a_while_is_told_with_the_cause(
    gateway: FakeGateway, process: AgentProcess
) -> None:
    gateway.faults.refuse_status = 503
    await process.start()
    state = await told(process, lambda s: s.link is not None and s.link.trouble is not None)
    assert state.link is not None
    assert (await status(process))[0] == 0  # it may be about to succeed
    process.signal(signal.SIGSTOP)
    long_ago = msgspec.structs.replace(state.link, since=epoch_ms() - 11_000)
    later = msgspec.structs.replace(state, at=epoch_ms(), link=long_ago)
    files.status_path(process.config, EXECUTOR_ID).write_bytes(msgspec.json.encode(later))
    code, said = await status(process)
    assert code == 6
    assert "GATEWAY_DRAINING" in said


async def test_killed_process_is_not_running_and_its_last_word_is_told(
    gateway: FakeGateway, process: AgentProcess
) -> None:
    await process.start()
    await told(process, lambda s: s.link is not None)
    await process.kill()
    code, said = await status(process)
    assert code == 4
    assert f"pid {process.pid} ended without a word" in said


async def test_watch_tells_each_change_as_a_line_of_json(gateway: FakeGateway, process: AgentProcess) -> None:
    await process.start()
    await told(process, lambda s: s.link is not None and s.link.up)
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vespid_agent", "status", "--watch", "--json", "--config", str(process.config)),
        stdout=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    assert child.stdout is not None
    first = json.loads(await child.stdout.readline())
    assert first["verdict"] == "running"
    await process.kill()
    async with asyncio.timeout(30):
        while json.loads(await child.stdout.readline())["verdict"] != "stopped":
            pass
    child.send_signal(signal.SIGINT)
    assert await child.wait() == 130


async def test_agent_whose_status_cannot_be_written_works_on(gateway: FakeGateway, process: AgentProcess) -> None:
    path = files.status_path(process.config, EXECUTOR_ID)
    path.mkdir(parents=True)
    (path / "in the way").touch()
    await process.start()
    assert (await gateway.run("agent.execute", shell("echo"))).status == "succeeded"
    assert "status_not_written" in process.log.read_text()


def test_looking_at_an_agent_does_not_keep_it_from_starting(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    path.touch()
    looking = os.open(path, os.O_RDWR)
    fcntl.flock(looking, fcntl.LOCK_EX)
    timer = threading.Timer(0.1, os.close, [looking])
    timer.start()
    lock = IdentityLock(path)
    lock.take()
    assert holder(path) == os.getpid()
    lock.release()
    timer.join()


class Kept:
    """A lock that this very process holds, and a file beside it that may be anything."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "agent.json"
        self.path = files.status_path(self.config, "e")
        files.lock_path(self.config, "e").touch()
        self.state = State(executor_id="e", pid=1, version="1", started=0, at=epoch_ms(), phase="running")

    def write(self, content: bytes | None = None) -> None:
        self.path.write_bytes(msgspec.json.encode(self.state) if content is None else content)
        self.path.chmod(0o600)

    def problem(self) -> str:
        return read(self.config, "e").problem or ""


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_file_that_others_can_write_is_not_believed(kept: Kept) -> None:
    kept.write()
    kept.path.chmod(0o622)
    assert "others can write it" in kept.problem()


def test_pipe_in_the_files_place_stalls_nobody(kept: Kept) -> None:
    os.mkfifo(kept.path)
    assert "it is not a file" in kept.problem()


def test_link_in_the_files_place_is_not_followed(kept: Kept, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(msgspec.json.encode(kept.state))
    kept.path.symlink_to(tmp_path / "elsewhere")
    assert "is not used" in kept.problem()


@pytest.mark.needs_root
def test_file_of_another_user_is_not_believed(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    kept.write()
    os.chown(kept.path, 65534, 65534)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "another user wrote it" in kept.problem()


def test_garbage_is_told_and_not_raised(kept: Kept) -> None:
    kept.write(b'{"pid": "x"}')
    assert "not what an agent writes" in kept.problem()


def test_what_others_named_does_not_speak_to_the_terminal(kept: Kept) -> None:
    evil = ToolsState(problems=(Problem(id="mcp.x", problem="\x1b]0;owned\x07[red]no\r\nnext"),))
    reading = Reading(Verdict.RUNNING, 1, msgspec.structs.replace(kept.state, tools=evil))
    text = "\n".join(words for _, words in shown.lines(reading))
    assert "\x1b" not in text
    assert "mcp.x:  ]0;owned" in text
