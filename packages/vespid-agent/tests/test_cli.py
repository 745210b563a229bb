from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from pathlib import Path

import pytest

from vespid_agent import __version__, config
from vespid_agent.testing.fake_gateway import EXECUTOR_ID, PAIRING_TOKEN, TOKEN, FakeGateway
from vespid_agent.testing.running import identity


async def spawn(*args: str, home: Path, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "vespid_agent",
        *args,
        env={**os.environ, "HOME": str(home), "COLUMNS": "200", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def run(*args: str, home: Path, **environment: str) -> tuple[int, str]:
    process = await spawn(*args, home=home, **environment)
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def test_connect_pairs_keeps_the_identity_and_starts(gateway: FakeGateway, tmp_path: Path) -> None:
    args = ("connect", "--pairing-token", PAIRING_TOKEN, "--api-base", gateway.http_url + "/", "--name", "box [1]")
    process = await spawn(*args, "--tags", "east, group:a", home=tmp_path)
    hello = (await gateway.link()).hello
    assert hello is not None
    assert hello.name == "box [1]"
    assert hello.capabilities is not None
    assert hello.capabilities.tags == ("east", "group:a")
    path = tmp_path / ".vespid" / "agent.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    code, out = await run("status", home=tmp_path)
    assert code == 0
    assert f"pid {process.pid}" in out
    assert TOKEN not in out
    process.send_signal(signal.SIGTERM)
    out_bytes, _ = await process.communicate()
    assert process.returncode == 0
    assert TOKEN not in out_bytes.decode()
    assert (await run("status", home=tmp_path))[0] == 4
    restarted = await spawn("start", home=tmp_path)
    again = (await gateway.link(2)).hello
    assert again is not None
    assert again.journal_id == hello.journal_id
    assert again.instance_id != hello.instance_id
    restarted.send_signal(signal.SIGTERM)
    await restarted.communicate()


@pytest.mark.parametrize(
    ("token", "base", "said"),
    [("wrong", None, "PAIRING_TOKEN_INVALID"), (PAIRING_TOKEN, "http://127.0.0.1:1", "UNREACHABLE")],
)
async def test_failed_pairing_says_the_code_and_what_to_do(
    gateway: FakeGateway, tmp_path: Path, token: str, base: str | None, said: str
) -> None:
    code, out = await run("connect", "--pairing-token", token, "--api-base", base or gateway.http_url, home=tmp_path)
    assert code == 3
    assert said in out
    assert "new one" in out or "Check --api-base" in out
    assert not (tmp_path / ".vespid" / "agent.json").exists()


async def test_token_is_not_spent_where_the_config_cannot_be_written(gateway: FakeGateway, tmp_path: Path) -> None:
    (tmp_path / ".vespid").touch()
    code, out = await run("connect", "--pairing-token", PAIRING_TOKEN, "--api-base", gateway.http_url, home=tmp_path)
    assert code == 4
    assert "cannot be written" in out
    assert gateway.pairings == []


async def test_start_without_a_config_says_how_to_pair(tmp_path: Path) -> None:
    code, out = await run("start", home=tmp_path)
    assert code == 4
    assert "connect --pairing-token" in out


async def test_managed_start_needs_its_credentials(tmp_path: Path) -> None:
    code, out = await run("start", "--pool", "managed", "--executor-id", "x", home=tmp_path)
    assert code == 2
    assert "--executor-token" in out
    assert "--gateway-ws-url" in out


async def test_managed_start_works_from_its_options(gateway: FakeGateway, tmp_path: Path) -> None:
    process = await spawn(
        *("start", "--pool", "managed", "--executor-id", EXECUTOR_ID, "--gateway-ws-url", gateway.ws_url),
        *("--api-base", gateway.http_url),
        home=tmp_path,
        VESPID_AGENT_EXECUTOR_TOKEN=TOKEN,
    )
    await gateway.link()
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode == 0


async def test_bad_setting_is_named(tmp_path: Path) -> None:
    code, out = await run("start", home=tmp_path, VESPID_AGENT_EXEC_BACKEND="chroot")
    assert code == 2
    assert "VESPID_AGENT_EXEC_BACKEND" in out


async def test_missing_ca_file_is_named(gateway: FakeGateway, tmp_path: Path) -> None:
    config.save(tmp_path / "agent.json", identity(gateway))
    code, out = await run(
        "start", "--config", str(tmp_path / "agent.json"), home=tmp_path, VESPID_AGENT_TLS_CA_FILE="/nowhere.pem"
    )
    assert code == 2
    assert "VESPID_AGENT_TLS_CA_FILE" in out


async def test_version(tmp_path: Path) -> None:
    assert await run("--version", home=tmp_path) == (0, f"{__version__}\n")
