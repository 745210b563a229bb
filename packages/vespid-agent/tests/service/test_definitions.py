"""What is installed, byte by byte, and that each system reads back the words that were meant."""

from __future__ import annotations

import dataclasses
import plistlib
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from vespid_agent.service import launchd, systemd, windows
from vespid_agent.service.plan import Service, ServiceInvalid

GOLDEN = Path(__file__).parent / "golden"
# Everything that any of the three would take for something else.
ODD = "a b%h $HOME ${x} \"q\" \\x & <i> 'y' ;"

USER = Service(
    scope="user",
    program=("/opt/vespid 1/vespid-agent",),
    config=Path("/home/me/100%/agent.json"),
    env_file=Path("/home/me/100%/vespid-agent.env"),
    user="me",
    uid=501,
    home=Path("/home/me"),
)
SYSTEM = dataclasses.replace(USER, scope="system", drain_ms=90_500, is_walled=True)
DAEMON = dataclasses.replace(SYSTEM, name="east.1")
TASK = dataclasses.replace(USER, program=("C:\\R&D tools\\vespid-agent.exe",), user="LAB\\me")


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("user.service", systemd.unit_of(USER).encode()),
        ("system.service", systemd.unit_of(SYSTEM).encode()),
        ("agent.plist", launchd.plist_of(USER)),
        ("daemon.plist", launchd.plist_of(DAEMON)),
        ("logon.xml", windows.task_of(TASK)),
        ("boot.xml", windows.task_of(dataclasses.replace(TASK, scope="system"))),
    ],
)
def test_definition_is_as_it_was_looked_at(name: str, made: bytes) -> None:
    text = made.decode("utf-16") if name.endswith(".xml") else made.decode()
    assert text == (GOLDEN / name).read_text()


def odd(home: Path) -> Service:
    folder = home / ODD
    return dataclasses.replace(
        USER, program=(str(folder / "run me"),), config=folder / "agent.json", env_file=folder / "e", home=home
    )


def test_launchd_reads_back_every_word(tmp_path: Path) -> None:
    service = odd(tmp_path)
    read = plistlib.loads(launchd.plist_of(service))
    assert tuple(read["ProgramArguments"]) == (*service.command, "--log-to", "file")
    assert read["WorkingDirectory"] == str(service.config.parent)


def test_task_scheduler_reads_back_every_word(tmp_path: Path) -> None:
    service = odd(tmp_path)
    space = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"
    root = ElementTree.fromstring(windows.task_of(service))
    (run,) = root.iter(f"{space}Exec")
    assert run.findtext(f"{space}Command") == service.program[0]
    words = [*service.command[1:], "--log-to", "file"]
    assert run.findtext(f"{space}Arguments") == subprocess.list2cmdline(words)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("known", [USER, SYSTEM])
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path, known: Service) -> None:
    service = odd(tmp_path)
    service = dataclasses.replace(service, scope=known.scope, is_walled=known.is_walled, user="root")
    program = tmp_path / "a b%h $HOME ${x} & <i> ;" / "run me"
    service = dataclasses.replace(service, program=(str(program),))
    program.parent.mkdir()
    shutil.copy("/bin/true", program)
    unit = tmp_path / "vespid-agent.service"
    unit.write_text(systemd.unit_of(service))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "vespid-agent" in line]) == (0, [])


@pytest.mark.parametrize("change", [{"name": "../x"}, {"name": ""}, {"config": Path("/a\nExecStart=/bin/sh")}])
def test_what_could_end_a_line_of_a_definition_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ServiceInvalid):
        dataclasses.replace(USER, **change)  # type: ignore[arg-type]


def test_program_that_systemd_would_not_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServiceInvalid, match="quote"):
        systemd.unit_of(odd(tmp_path))


def test_the_end_has_longer_than_the_drain() -> None:
    assert USER.stop_s * 1000 > USER.drain_ms + 15_000
    assert SYSTEM.stop_s == 121
