"""`vespid-agent doctor` as a program, against real sockets: what is broken is named with its cause."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from vespid_agent import config, files
from vespid_agent.doctor import certificates
from vespid_agent.testing.fake_gateway import EXECUTOR_ID, TOKEN, FakeGateway
from vespid_agent.testing.running import AgentProcess, identity


@dataclass
class Told:
    status: int
    document: dict[str, object]

    def of(self, check: str) -> tuple[str, str]:
        """Level and words of a line."""
        findings = self.document["findings"]
        assert isinstance(findings, list)
        for finding in findings:
            if finding["check"] == check:
                return finding["level"], finding["found"] + " → " + finding.get("mend", "")
        raise AssertionError(f"no line {check}: {[finding['check'] for finding in findings]}")


async def doctor(config_file: Path, *words: str, **environment: str) -> Told:
    known = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vespid_agent", "doctor", "--json", "--config", str(config_file), *words),
        env={**known, "HOME": str(config_file.parent), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, errors = await child.communicate()
    assert child.returncode is not None
    assert TOKEN not in said.decode() + errors.decode()
    return Told(child.returncode, json.loads(said))


@pytest.fixture
def paired(gateway: FakeGateway, tmp_path: Path) -> Path:
    path = tmp_path / "paired" / "agent.json"
    config.save(path, identity(gateway))
    return path


async def test_sound_agent_passes_and_its_link_is_left_alone(gateway: FakeGateway, process: AgentProcess) -> None:
    await process.start()
    link = await gateway.link()
    told = await doctor(process.config)
    assert told.status == 0, told.document
    assert told.document["ok"] is True
    for check in ("version", "config", "disk", "workdir", "gateway dns", "gateway tcp", "api http", "clock"):
        assert told.of(check)[0] == "ok", told.document
    assert told.of("gateway upgrade") == ("ok", "the token is good and the gateway was asked for an upgrade → ")
    assert told.of("process") == ("ok", f"pid {process.pid}: running → ")
    assert "in use by the running agent" in told.of("journal")[1]
    assert told.of("sandbox host")[0] == "ok"
    assert (gateway.upgrades, len(gateway.connections), link.closed) == (2, 1, False)


@pytest.mark.parametrize(
    ("status", "level", "said"),
    [
        (401, "fail", "the token is not known there"),
        (403, "fail", "this agent was revoked"),
        (426, "fail", "Update the agent"),
        (503, "warn", "starting or stopping"),
    ],
)
async def test_what_the_gateway_refuses_us_for_is_named(
    gateway: FakeGateway, paired: Path, status: int, level: str, said: str
) -> None:
    gateway.faults.refuse_status = status
    told = await doctor(paired)
    assert told.of("gateway upgrade")[0] == level
    assert said in told.of("gateway upgrade")[1]
    assert told.status == (1 if level == "fail" else 0)


async def test_unknown_name_closed_port_and_no_address_are_told_apart(gateway: FakeGateway, paired: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        port = taken.getsockname()[1]
        closed = await doctor(paired, "--gateway-ws-url", f"ws://127.0.0.1:{port}/ws/executor")
    assert closed.status == 1
    assert closed.of("gateway tcp")[0] == "fail"
    assert f"port {port}: 127.0.0.1: " in closed.of("gateway tcp")[1]
    unknown = await doctor(paired, "--gateway-ws-url", "wss://no-such-host.invalid/ws/executor")
    assert unknown.of("gateway dns")[0] == "fail"
    assert "no-such-host.invalid" in unknown.of("gateway dns")[1]
    assert (await doctor(paired, "--gateway-ws-url", "gateway:1")).of("gateway")[0] == "fail"


async def test_proxy_in_use_is_named_without_its_login_and_a_dead_one_is_the_cause(paired: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        told = await doctor(paired, HTTP_PROXY=f"http://me:pass-word-1@127.0.0.1:{port}", NO_PROXY="")
    assert told.of("gateway proxy") == ("ok", f"http://127.0.0.1:{port} with a login → ")
    assert told.of("gateway tcp")[0] == "fail"
    assert "pass-word-1" not in json.dumps(told.document)
    odd = await doctor(paired, HTTP_PROXY="socks5://127.0.0.1:1", NO_PROXY="")
    assert "is not an HTTP proxy" in odd.of("gateway proxy")[1]


async def serve(handler: object, tls: ssl.SSLContext | None = None) -> tuple[web.AppRunner, int]:
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)  # type: ignore[arg-type]
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    return runner, int(runner.addresses[0][1])


def refusal(message: str, **headers: str) -> web.Response:
    return web.json_response({"code": "BAD_REQUEST", "message": message}, status=400, headers=headers)


async def test_upgrade_that_a_proxy_takes_away_is_told_from_a_server_that_is_no_gateway(paired: Path) -> None:
    async def stripped(_: web.Request) -> web.Response:
        return refusal("No WebSocket UPGRADE hdr: None")

    async def other(_: web.Request) -> web.Response:
        return web.Response(text="It works!")

    for handler, words in ((stripped, "takes the upgrade away"), (other, "that is not the gateway")):
        runner, port = await serve(handler)
        try:
            told = await doctor(paired, "--gateway-ws-url", f"ws://127.0.0.1:{port}/ws/executor")
        finally:
            await runner.cleanup()
        level, said = told.of("gateway upgrade")
        assert (level, words in said) == ("fail", True), said


@pytest.mark.parametrize(("seconds", "level"), [(0, "ok"), (60, "warn"), (3600, "fail")])
async def test_clock_that_is_wrong_is_told_by_how_much(paired: Path, seconds: int, level: str) -> None:
    async def late(_: web.Request) -> web.Response:
        then = datetime.now(UTC) - timedelta(seconds=seconds)
        return refusal("Unsupported version: 0", Date=format_datetime(then, usegmt=True))

    runner, port = await serve(late)
    try:
        told = await doctor(paired, "--gateway-ws-url", f"ws://127.0.0.1:{port}/ws/executor")
    finally:
        await runner.cleanup()
    assert told.of("clock")[0] == level
    assert "ahead of" in told.of("clock")[1] or level == "ok"


async def test_certificate_of_an_own_authority_is_mended_by_naming_it(paired: Path, tmp_path: Path) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return refusal("Unsupported version: 0")

    certificate, key = await self_signed(tmp_path, days=3)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    runner, port = await serve(refuse, tls)
    url = f"wss://127.0.0.1:{port}/ws/executor"
    try:
        unknown = await doctor(paired, "--gateway-ws-url", url)
        named = await doctor(paired, "--gateway-ws-url", url, VESPID_AGENT_TLS_CA_FILE=str(certificate))
    finally:
        await runner.cleanup()
    assert unknown.of("gateway tls")[0] == "fail"
    assert "the certificate is not trusted: self-signed certificate" in unknown.of("gateway tls")[1]
    assert "VESPID_AGENT_TLS_CA_FILE" in unknown.of("gateway tls")[1]
    assert named.of("ca")[0] == "ok"
    assert named.of("gateway tls")[0] == "warn"
    assert "ends in 3 days" in named.of("gateway tls")[1]
    assert named.of("gateway upgrade")[0] == "ok"
    missing = await doctor(paired, VESPID_AGENT_TLS_CA_FILE=str(tmp_path / "none.pem"))
    assert (missing.status, missing.of("ca")[0]) == (1, "fail")


async def self_signed(folder: Path, days: int) -> tuple[Path, Path]:
    certificate, key = folder / "server.pem", folder / "server.key"
    child = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", str(days), "-subj", "/CN=127.0.0.1"),
        *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await child.wait() == 0
    return certificate, key


def test_certificate_that_ended_or_ends_soon_is_judged() -> None:
    ends = {"notAfter": "Jan 11 00:00:00 2027 GMT", "issuer": ((("organizationName", "Ours"),),)}
    now = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    assert certificates.judge("x", ends, now).level == "warn"
    assert certificates.judge("x", ends, now - 30 * 86_400).level == "ok"
    assert certificates.judge("x", ends, now + 11 * 86_400).level == "fail"
    assert "Ours" in certificates.judge("x", ends, now).found


async def test_rights_of_config_and_folder_are_looked_at(paired: Path) -> None:
    paired.chmod(0o644)
    paired.parent.chmod(0o777)
    told = await doctor(paired)
    assert told.of("config")[0] == "warn"
    assert "could be read by others (mode 0644)" in told.of("config")[1]
    assert told.of("folder")[0] == "warn"
    assert "go-w" in told.of("folder")[1]


async def test_damaged_journal_is_a_failure_and_is_not_touched(gateway: FakeGateway, process: AgentProcess) -> None:
    await process.start()
    await gateway.link()
    await process.kill()
    intact = await doctor(process.config)
    assert intact.of("journal")[0] == "ok", intact.document
    assert "intact" in intact.of("journal")[1]
    assert intact.of("process")[0] == "warn"
    path = files.journal_path(process.config, EXECUTOR_ID)
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 4080)
    for wal in path.parent.glob(f"{path.name}-*"):
        wal.unlink()
    before = path.read_bytes()
    damaged = await doctor(process.config)
    assert damaged.of("journal")[0] == "fail"
    assert path.read_bytes() == before


async def test_machine_that_is_not_paired_is_examined_all_the_same(gateway: FakeGateway, tmp_path: Path) -> None:
    addresses = ("--gateway-ws-url", gateway.ws_url, "--api-base", gateway.http_url)
    told = await doctor(tmp_path / "none" / "agent.json", *addresses)
    assert told.status == 1
    assert "connect --pairing-token" in told.of("config")[1]
    assert told.of("gateway upgrade")[0] == "ok"
    assert "not paired yet" in told.of("gateway upgrade")[1]
    assert told.of("api http")[0] == "ok"


async def test_default_sandbox_that_is_not_usable_fails_with_its_exact_cause(paired: Path, tmp_path: Path) -> None:
    nowhere = f"unix://{tmp_path}/docker.sock"
    told = await doctor(paired, VESPID_AGENT_EXEC_BACKEND="docker", DOCKER_HOST=nowhere)
    assert told.status == 1
    level, said = told.of("sandbox docker")
    assert (level, f"no engine answers at {nowhere}" in said) == ("fail", True)
    other = await doctor(paired, DOCKER_HOST=nowhere)
    assert other.of("sandbox docker")[0] == "warn"
    assert other.status == 0


async def test_managed_agent_without_walls_fails(paired: Path, gateway: FakeGateway, tmp_path: Path) -> None:
    config.save(paired, msgspec.structs.replace(identity(gateway), pool="managed"))
    told = await doctor(paired, VESPID_AGENT_EXEC_BACKEND="host")
    assert told.status == 1
    assert "MANAGED_POOL_REQUIRES_CONTAINER_SANDBOX" in told.of("sandbox")[1]


async def test_engine_that_is_not_logged_in_is_told_with_what_to_do(paired: Path, tmp_path: Path) -> None:
    program = tmp_path / "codex"
    program.write_text('#!/bin/sh\ncase "$*" in --version) echo codex-cli 9.9.9;; login*) exit 1;; esac\n')
    program.chmod(0o755)
    told = await doctor(paired, VESPID_CODEX_PATH=str(program), PATH="/usr/bin:/bin")
    level, said = told.of("engine codex.sdk.v1")
    assert level == "warn"
    assert "9.9.9" in said
    assert told.of("engine claude.agent-sdk.v1")[0] == "warn"
    assert not (paired.parent / f"engines-{EXECUTOR_ID}").exists()


async def test_few_descriptors_and_a_bad_setting_are_told(paired: Path) -> None:
    child = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'ulimit -n 512; exec "$0" -m vespid_agent doctor --config "$1"', sys.executable, str(paired)),
        env={**os.environ, "HOME": str(paired.parent), "VESPID_AGENT_EXEC_BACKEND": "chroot"},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await child.communicate()
    assert child.returncode == 1
    text = said.decode()
    assert "warn  descriptors" in text
    assert "fail  settings" in text
    assert "VESPID_AGENT_EXEC_BACKEND" in text
