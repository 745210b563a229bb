"""The agent imports and chooses its parts on systems other than this one, with what those do not have hidden."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from vespid_agent.testing.fake_gateway import FakeGateway
from vespid_agent.testing.payloads import decoded, shell
from vespid_agent.testing.running import AgentProcess, appears

LINUX_ONLY = {"bubblewrap", "host_linux", "keeper", "nursery", "stage", "starter", "supervise"}
# Of other folders than the sandboxes': what imports one of these.
ON_LINUX = {"kept"}
WINDOWS = {"signal": ["SIGKILL", "SIGHUP", "SIGCHLD", "SIGSTOP", "SIGCONT", "SIGPIPE", "pthread_sigmask"]}
WINDOWS["os"] = ["fork", "getuid", "geteuid", "getgid", "setsid", "killpg", "memfd_create", "MFD_CLOEXEC", "fchmod"]
WINDOWS["os"] += ["O_CLOEXEC", "O_NOFOLLOW", "O_DIRECTORY", "O_PATH", "pwrite", "chown", "setresuid"]
WINDOWS["asyncio"] = ["open_unix_connection"]
MACOS = {"os": ["memfd_create", "MFD_CLOEXEC", "O_PATH", "setresuid", "setresgid", "pidfd_open"]}

# First what belongs to the interpreter and to other packages: those know their system by other means.
PROGRAM = """
import importlib, json, pkgutil, sys, types
import aiohttp, asyncio, msgspec, structlog, typer, rich.console, rich.table, sqlite3, ssl, tempfile, tarfile, shutil
import ctypes, email.message, mcp.client.streamable_http, mcp.client.stdio, smtplib, subprocess, uuid, zoneinfo
import vespid_runtime.connectors, vespid_protocol.agent_peer
vespid_runtime.connectors.registry()
platform, hidden, modules, skipped = json.loads(sys.argv[1])
for owner, names in hidden.items():
    for name in names:
        delattr(importlib.import_module(owner), name)
for name in modules:
    sys.modules[name] = None
sys.platform = platform
class Library:
    def __init__(self, *_, **__): pass
    def __getattr__(self, name):
        made = types.SimpleNamespace()
        setattr(self, name, made)
        return made
if platform == "win32":
    sys.modules["msvcrt"] = types.ModuleType("msvcrt")
    ctypes.WinDLL = Library
import vespid_agent
imported = []
for found in pkgutil.walk_packages(vespid_agent.__path__, "vespid_agent."):
    last = found.name.rpartition(".")[2]
    if last == "__main__" or last in skipped:
        continue
    importlib.import_module(found.name)
    imported.append(found.name)
from vespid_agent.backends import _known
from vespid_agent.sandbox.host import HostBackend
from vespid_agent.settings import AgentSettings
backends = [backend.name for backend in _known(AgentSettings(), "owner", {})]
print(json.dumps([imported, type(HostBackend()._part).__name__, backends]))
"""


@pytest.mark.parametrize(
    ("platform", "hidden", "modules", "foreign", "part"),
    [
        ("win32", WINDOWS, ["fcntl", "resource", "pwd", "grp", "termios", "uvloop"], {"process_group"}, "JobHost"),
        ("darwin", MACOS, [], set(), "GroupHost"),
        ("freebsd14", MACOS, [], set(), "GroupHost"),
    ],
)
def test_every_module_imports_and_the_systems_own_part_is_chosen(
    platform: str, hidden: dict[str, list[str]], modules: list[str], foreign: set[str], part: str
) -> None:
    asked = json.dumps([platform, hidden, modules, sorted(LINUX_ONLY | ON_LINUX | foreign)])
    done = subprocess.run([sys.executable, "-c", PROGRAM, asked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    imported, chosen, backends = json.loads(done.stdout)
    assert {"vespid_agent.cli", "vespid_agent.process", "vespid_agent.sandbox.docker.backend"} <= set(imported)
    assert chosen == part
    assert backends == ["host", "docker"]


@pytest.mark.parametrize("name", sorted(LINUX_ONLY))
def test_what_needs_linux_says_so_when_it_is_imported_elsewhere(name: str) -> None:
    program = "import asyncio, importlib, sys; sys.platform = 'darwin'; importlib.import_module(sys.argv[1])"
    module = f"vespid_agent.sandbox.{name}"
    done = subprocess.run([sys.executable, "-c", program, module], capture_output=True, text=True, check=False)
    assert "AssertionError" in done.stderr


@pytest.fixture
async def elsewhere(gateway: FakeGateway, tmp_path: Path) -> AsyncIterator[AgentProcess]:
    """A real agent process that takes this machine for a POSIX system other than Linux. Not yet started."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os, sys, sysconfig\nsysconfig.get_config_vars()\nsys.platform = 'freebsd14'\n"
        + "".join(f"vars(os).pop({name!r}, None)\n" for name in MACOS["os"])
    )
    prepared = AgentProcess(gateway, tmp_path / "agent", {"PYTHONPATH": str(site)})
    yield prepared
    await prepared.stop()


async def test_agent_of_another_posix_system_runs_a_task_and_stops_as_asked(
    gateway: FakeGateway, elsewhere: AgentProcess
) -> None:
    await elsewhere.start()
    result = await gateway.run("agent.execute", shell("tr a-z A-Z <<E\nhello\nE"))
    assert decoded(result.output)["stdout"] == "HELLO\n"
    elsewhere.signal(signal.SIGTERM)
    assert await elsewhere.exit_code() == 0
    assert "starts a session" in elsewhere.log.read_text()  # the note of the process group: no keeper was at work


@pytest.mark.promise("P2")
async def test_agent_of_another_posix_system_reaps_what_left_its_group_before_it_was_killed(
    gateway: FakeGateway, elsewhere: AgentProcess, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    await elsewhere.start()
    script = f"(setsid sh -c 'trap \"\" TERM; echo $$ >{pid}.tmp; mv {pid}.tmp {pid}; while :; do sleep 0.1; done' &)"
    request = await gateway.dispatch("agent.execute", shell(f"{script}; sleep 60"))
    await appears(pid)
    await elsewhere.kill()
    await elsewhere.start()
    assert (await gateway.result(request)).error == "AGENT_DISCONNECTED"
    async with asyncio.timeout(20):
        while is_alive(int(pid.read_text())):
            await asyncio.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return " Z " not in Path(f"/proc/{pid}/stat").read_text()
