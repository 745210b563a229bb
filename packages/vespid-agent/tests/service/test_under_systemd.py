"""The service under a real systemd, which is the first process of namespaces of its own: of this machine's services and
units it sees nothing. Says so where that cannot be made."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from vespid_agent import config
from vespid_agent.testing.fake_gateway import FakeGateway
from vespid_agent.testing.payloads import decoded, shell
from vespid_agent.testing.running import identity

# Targets that hold nothing, instead of all that this machine would start.
BOOT = """
set -e
mount --make-rprivate /
for folder in /run /etc/systemd /lib/systemd/system /lib/systemd/system-generators; do
  mount -t tmpfs tmpfs $folder
done
mkdir /etc/systemd/system
for target in sysinit basic shutdown umount network-online multi-user default; do
  printf '[Unit]\\nDefaultDependencies=no\\n' >/lib/systemd/system/$target.target
done
export container=lxc
exec /lib/systemd/systemd --system --unit=default.target
"""
GROUPS = [Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup")]

pytestmark = pytest.mark.needs_root


class Booted:
    """A systemd, and commands beside it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    async def run(self, *words: str, **environment: str) -> tuple[int, str]:
        child = await asyncio.create_subprocess_exec(
            *("nsenter", "-t", str(self.pid), "--all", *words),
            env={**os.environ, **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(60):
            said, _ = await child.communicate()
        assert child.returncode is not None
        return child.returncode, said.decode()


@pytest.fixture
async def booted(tmp_path: Path) -> AsyncIterator[Booted]:
    if os.geteuid() != 0 or not Path("/lib/systemd/systemd").exists() or shutil.which("nsenter") is None:
        pytest.skip("needs root, systemd and nsenter")
    group = next(root for root in GROUPS if (root / "cgroup.procs").exists()) / f"vespid-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    enter = f"echo $$ >{group}/cgroup.procs && exec unshare --cgroup --mount --pid --ipc --fork --kill-child"
    with (tmp_path / "boot.log").open("wb") as log:
        outer = await asyncio.create_subprocess_exec(
            *("sh", "-c", f'{enter} --mount-proc sh -c "$1"', "sh", BOOT),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield await _started(outer, tmp_path / "boot.log")
    finally:
        with contextlib.suppress(ProcessLookupError):
            outer.kill()
        await outer.wait()
        await _remove(group)


async def _started(outer: asyncio.subprocess.Process, log: Path) -> Booted:
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    async with asyncio.timeout(30):
        while True:
            if outer.returncode is not None:
                pytest.skip(f"no systemd can be started here: {log.read_text(errors='replace')[-500:]}")
            pids = children.read_text().split() if children.exists() else []
            if pids:
                booted = Booted(int(pids[0]))
                _, said = await booted.run("systemctl", "is-system-running")
                if said.strip() in ("running", "degraded"):
                    return booted
            await asyncio.sleep(0.1)


async def _remove(group: Path) -> None:
    """What ran in it is gone in a moment."""
    async with asyncio.timeout(20):
        while group.exists():
            for folder, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
            await asyncio.sleep(0.05)


async def test_service_runs_comes_back_and_is_gone_when_it_is_uninstalled(
    gateway: FakeGateway, booted: Booted, tmp_path: Path
) -> None:
    home = tmp_path / 'a b%h ${HOME} "q" \\x'
    path = home / "agent.json"
    config.save(path, identity(gateway))
    agent = (sys.executable, "-m", "vespid_agent")
    about = ("--system", "--config", str(path))
    variables = {"HOME": str(home), "VESPID_AGENT_WORKDIR_ROOT": str(home / "work"), "VESPID_AGENT_DRAIN_MS": "60000"}
    code, said = await booted.run(*agent, "service", "install", *about, **variables)
    assert code == 0, said
    await gateway.link()
    task = shell('echo "$0" up', backend="bubblewrap")
    result = await gateway.run("agent.execute", task)
    assert decoded(result.output)["backend"] == "bubblewrap", result.error_message
    code, said = await booted.run(*agent, "status", "--config", str(path))
    assert (code, "running" in said) == (0, True), said

    code, pid = await booted.run("systemctl", "show", "--value", "-p", "MainPID", "vespid-agent.service")
    await booted.run("kill", "-9", pid.strip())
    await gateway.link(2)

    # What runs may finish when it is stopped, and its result arrives.
    go = tmp_path / "go"
    request = await gateway.dispatch("agent.execute", shell(f"while [ ! -e '{go}' ]; do sleep 0.05; done; echo over"))
    link = await gateway.link(2)
    stopping = asyncio.create_task(booted.run(*agent, "service", "stop", *about, **variables))
    await gateway.until(lambda: any(frame.__class__.__name__ == "Draining" for frame in link.frames))
    go.touch()
    assert decoded((await gateway.result(request)).output)["stdout"] == "over\n"
    assert (await stopping)[0] == 0
    assert (await booted.run(*agent, "service", "status", *about, **variables))[0] == 3
    assert (await booted.run(*agent, "status", "--config", str(path)))[0] == 4

    code, said = await booted.run(*agent, "service", "uninstall", *about, **variables)
    assert code == 0, said
    assert "could not be found" in (await booted.run("systemctl", "status", "vespid-agent.service"))[1]
    assert not (home / "vespid-agent.env").exists()
    assert path.exists()


async def test_service_that_the_gateway_refuses_for_good_is_not_started_again(
    gateway: FakeGateway, booted: Booted, tmp_path: Path
) -> None:
    gateway.faults.refuse_status = 403
    path = tmp_path / "agent.json"
    config.save(path, identity(gateway))
    agent = (sys.executable, "-m", "vespid_agent")
    code, said = await booted.run(*agent, "service", "install", "--system", "--config", str(path), HOME=str(tmp_path))
    assert code == 0, said
    shown = ("systemctl", "show", "--value", "-p", "ActiveState", "-p", "ExecMainStatus", "vespid-agent.service")
    async with asyncio.timeout(60):
        while (found := (await booted.run(*shown))[1].split()) != ["1", "failed"] and found != ["failed", "1"]:
            await asyncio.sleep(0.2)
    assert gateway.upgrades >= 1
    code, said = await booted.run(*agent, "logs", "--config", str(path), "-n", "5")
    assert "revoked" in said
