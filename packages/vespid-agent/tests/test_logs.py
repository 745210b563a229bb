"""The log on disk, and `vespid-agent logs`."""

from __future__ import annotations

import asyncio
import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vespid_agent import files, log_reading
from vespid_agent.log_file import KEPT, LogFile, lines, paths
from vespid_agent.testing.fake_gateway import EXECUTOR_ID, RUN_ID, TOKEN, FakeGateway
from vespid_agent.testing.payloads import shell
from vespid_agent.testing.running import AgentProcess


def test_log_stays_within_its_bound_and_loses_the_oldest_first(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = LogFile(path, 4000)
    for number in range(1000):
        log.write(json.dumps({"n": number}))
    there = [file for file in paths(path) if file.exists()]
    assert len(there) == KEPT + 1
    assert sum(file.stat().st_size for file in there) <= 4000
    numbers = [json.loads(line)["n"] for line in lines(path)]
    assert numbers == list(range(numbers[0], 1000))
    assert len(numbers) > 200
    assert {stat.S_IMODE(file.stat().st_mode) for file in there} == {0o600}


def test_disk_that_takes_nothing_stops_nobody_and_what_is_missing_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.mkdir()
    log = LogFile(path, 4000)
    log.write("{}")
    log.write("{}")
    path.rmdir()
    log.write('{"event":"after"}')
    assert path.read_text().splitlines() == ['{"event":"log_lines_lost","count":2}', '{"event":"after"}']


def test_file_that_cannot_be_renamed_loses_no_older_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.jsonl"
    log = LogFile(path, 400)
    for number in range(40):
        log.write(json.dumps({"n": number}))
    before = list(lines(path))

    def refuse(*_: object) -> None:
        raise PermissionError("somebody reads it")

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", refuse)
        for number in range(40, 60):
            log.write(json.dumps({"n": number}))
    assert list(lines(path))[: len(before)] == before


def test_following_goes_through_every_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = LogFile(path, 400)
    log.write('{"n":-1}')
    written = iter(range(500))

    def write_some(_: float) -> None:
        """Whenever the reader has nothing left: a few more, so that it is never overtaken."""
        for number in (next(written, None) for _ in range(7)):
            if number is not None:
                log.write(json.dumps({"n": number}))

    coming = log_reading.read(path, 0, log_reading.wanted(None), follow=True, pause=write_some)
    assert [json.loads(next(coming))["n"] for _ in range(500)] == list(range(500))


def test_follower_finds_a_log_that_begins_later(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = LogFile(path, 4000)
    pause: Callable[[float], None] = lambda _: log.write('{"n":1}')  # noqa: E731
    coming = log_reading.read(path, 5, log_reading.wanted(None), follow=True, pause=pause)
    assert json.loads(next(coming)) == {"n": 1}


def test_line_is_shown_for_people_and_speaks_to_no_terminal() -> None:
    line = (
        b'{"duty":"agent","error":"no \\u001b[31mway","n":3,"event":"unreachable","level":"warning",'
        b'"timestamp":"2026-11-23T22:00:00.1Z"}\n'
    )
    assert log_reading.shown(line) == '2026-11-23 22:00:00 warning agent unreachable error="no  [31mway" n=3'
    assert log_reading.shown(b"Traceback\n") == "Traceback"


async def logs(agent: AgentProcess, *words: str) -> tuple[int, str]:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vespid_agent", "logs", "--config", str(agent.config), *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await child.communicate()
    assert child.returncode is not None
    return child.returncode, said.decode()


async def test_agent_keeps_its_log_and_that_of_one_request_can_be_asked_for(
    gateway: FakeGateway, process: AgentProcess
) -> None:
    await process.start()
    request = await gateway.dispatch("agent.execute", shell("echo secret-output"))
    await gateway.result(request)
    path = files.log_path(process.config, EXECUTOR_ID)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    async with asyncio.timeout(20):
        while b"request_id" not in path.read_bytes():
            await asyncio.sleep(0.05)
    code, said = await logs(process, "-n", "1000")
    assert (code, "connected url=" in said) == (0, True)
    for asked in (request, RUN_ID):
        of_it = (await logs(process, "--request", asked))[1].splitlines()
        assert of_it
        assert all(f"request_id={request}" in line for line in of_it)
    assert (await logs(process, "--request", "other"))[1] == ""
    assert len((await logs(process, "-n", "2"))[1].splitlines()) == 2
    raw = (await logs(process, "--json", "-n", "1"))[1]
    assert json.loads(raw)["timestamp"]
    assert TOKEN not in path.read_text()
    assert "secret-output" not in path.read_text()


async def test_log_can_be_kept_in_the_file_alone_or_not_at_all(gateway: FakeGateway, process: AgentProcess) -> None:
    process.environment["VESPID_AGENT_LOG_FILE_MB"] = "0"
    await process.start()
    await gateway.link()
    assert not files.log_path(process.config, EXECUTOR_ID).exists()
    await process.kill()
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vespid_agent", "start", "--log-to", "file", "--config", str(process.config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    await gateway.link(2)
    child.terminate()
    said, _ = await child.communicate()
    assert said == b""
    assert '"event":"connected"' in files.log_path(process.config, EXECUTOR_ID).read_text().replace(" ", "")
