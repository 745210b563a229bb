"""`vespid-agent service` as a program, with a system's manager that only writes down what it is told."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from vespid_agent import config
from vespid_agent.config import AgentConfig
from vespid_agent.service import env_file

SYSTEMCTL = """#!/bin/sh
echo "$@" >>"$TOLD"
[ "$1 $2" != "--user $REFUSES" ] || { echo 'Failed to do that: no such thing' >&2; exit 3; }
"""
ME = AgentConfig(executor_id="e", executor_token="t", gateway_ws_url="ws://x/ws", api_base_url="http://x")


class Machine:
    """A home folder, and a manager of services in PATH."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.config = self.home / ".vespid" / "agent.json"
        self.unit = self.home / ".config/systemd/user/vespid-agent.service"
        self.variables = self.home / ".vespid" / "vespid-agent.env"
        self._told = root / "told"
        (root / "bin").mkdir()
        manager = root / "bin" / "systemctl"
        manager.write_text(SYSTEMCTL)
        manager.chmod(0o755)
        self.path = f"{root / 'bin'}:/usr/bin:/bin"
        config.save(self.config, ME)

    @property
    def told(self) -> list[str]:
        return self._told.read_text().splitlines() if self._told.exists() else []

    def files(self) -> set[Path]:
        return {path for path in self.home.rglob("*") if path.is_file()}

    def service(self, *words: str, **environment: str) -> tuple[int, str]:
        known = {"PATH": self.path, "HOME": str(self.home), "TOLD": str(self._told), **environment}
        done = subprocess.run(
            [sys.executable, "-m", "vespid_agent", "service", *words, "--user"],
            env=known,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_install_writes_the_unit_keeps_the_variables_and_starts_it(machine: Machine) -> None:
    settings = {"VESPID_AGENT_MAX_IN_FLIGHT": "7", "OPENAI_API_KEY": "sk-1", "UNRELATED": "x"}
    code, said = machine.service("install", **settings)
    assert code == 0, said
    words = [f'"{word}"' for word in (sys.executable, "-m", "vespid_agent", "start", "--config", machine.config)]
    assert " ".join(words) in machine.unit.read_text()
    assert machine.told == [
        "--user daemon-reload",
        "--user enable vespid-agent.service",
        "--user restart vespid-agent.service",
    ]
    assert stat.S_IMODE(machine.variables.stat().st_mode) == 0o600
    kept = env_file.read(machine.variables)
    assert kept == {"PATH": machine.path, "VESPID_AGENT_MAX_IN_FLIGHT": "7", "OPENAI_API_KEY": "sk-1"}
    assert "sk-1" not in said + machine.unit.read_text()
    assert "OPENAI_API_KEY" in said


def test_uninstall_removes_what_install_made_and_nothing_else(machine: Machine) -> None:
    before = machine.files()
    assert machine.service("install")[0] == 0
    assert machine.files() - before == {machine.unit, machine.variables}
    code, said = machine.service("uninstall")
    assert code == 0, said
    assert machine.files() == before
    assert machine.told[-2:] == ["--user disable --now vespid-agent.service", "--user daemon-reload"]


def test_variables_of_the_users_own_are_neither_replaced_nor_removed(machine: Machine) -> None:
    machine.variables.write_text("MINE=1\n")
    machine.service("install")
    machine.service("uninstall")
    assert machine.variables.read_text() == "MINE=1\n"


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_unit_of_somebody_else_is_left_alone(machine: Machine, verb: str) -> None:
    machine.unit.parent.mkdir(parents=True)
    machine.unit.write_text("[Service]\nExecStart=/bin/true\n")
    code, said = machine.service(verb)
    assert code == 1
    assert "was not made by this command" in said
    assert machine.unit.read_text() == "[Service]\nExecStart=/bin/true\n"
    assert machine.told == []


def test_dry_run_shows_everything_and_does_nothing(machine: Machine) -> None:
    before = machine.files()
    code, said = machine.service("install", "--dry-run", OPENAI_API_KEY="sk-1")
    assert code == 0
    for shown in ("ExecStart=", str(machine.unit), "$ systemctl --user daemon-reload", "OPENAI_API_KEY"):
        assert shown in said
    assert "sk-1" not in said
    assert machine.files() == before
    assert machine.told == []


def test_what_the_manager_refuses_is_told_with_its_words(machine: Machine) -> None:
    code, said = machine.service("install", REFUSES="enable")
    assert code == 1
    assert "status 3" in said
    assert "no such thing" in said


def test_machine_without_a_manager_is_told_what_to_do(machine: Machine, tmp_path: Path) -> None:
    code, said = machine.service("install", PATH=str(tmp_path / "nothing"))
    assert code == 1
    assert "systemctl is not here" in said
    assert not machine.unit.exists()


def test_machine_that_is_not_paired_is_told_to_pair(machine: Machine) -> None:
    machine.config.unlink()
    code, said = machine.service("install")
    assert code == 4
    assert "connect --pairing-token" in said


def test_status_ends_as_the_managers_does(machine: Machine) -> None:
    assert machine.service("status", REFUSES="--no-pager")[0] == 3
    assert machine.service("stop")[0] == 0
    assert machine.told[-1] == "--user stop vespid-agent.service"


def test_variables_reach_the_agent_whatever_is_in_them(tmp_path: Path) -> None:
    path = tmp_path / "x.env"
    odd = {"A": "b=c # d", "QUOTED": '"x" $HOME %h', "EMPTY_END": "y "}
    assert env_file.write_new(path, odd)
    assert env_file.read(path) == odd


def test_line_that_is_no_variable_is_named(machine: Machine) -> None:
    machine.variables.write_text("# fine\n\nA=1\nexport B\n")
    done = subprocess.run(
        [sys.executable, "-m", "vespid_agent", "start", "--env-file", str(machine.variables)],
        env={**os.environ, "HOME": str(machine.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "line 4" in done.stderr


def test_service_of_a_frozen_agent_is_its_executable(monkeypatch: pytest.MonkeyPatch) -> None:
    from vespid_agent.service.install import program

    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", "/opt/vespid-agent")
    assert program() == ("/opt/vespid-agent",)
