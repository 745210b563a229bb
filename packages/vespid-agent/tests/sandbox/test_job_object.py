"""What of the Windows part can be tried anywhere: sizes, flags, environments, and which shell is taken."""

import ctypes
import subprocess
import sys

import pytest

from vespid_agent.sandbox import job_object, piped

GIT = r"C:\Program Files\Git\cmd\git.exe"
GIT_SH = r"C:\Program Files\Git\usr\bin\sh.exe"

needs_64_bits = pytest.mark.skipif(sys.maxsize < 2**32, reason="the sizes are those of 64-bit Windows")


@needs_64_bits
@pytest.mark.parametrize(
    ("structure", "size"),
    [
        (job_object.BasicLimitInformation, 64),
        (job_object.IoCounters, 48),
        (job_object.ExtendedLimitInformation, 144),
        (job_object.BasicAccountingInformation, 48),
    ],
)
def test_structures_are_as_large_as_windows_declares_them(structure: type[ctypes.Structure], size: int) -> None:
    assert ctypes.sizeof(structure) == size


@needs_64_bits
def test_limit_flags_lie_where_windows_reads_them() -> None:
    assert bytes(job_object.limits())[16:20] == (0x2400).to_bytes(4, "little")


def test_nothing_may_leave_the_job() -> None:
    breakaway_ok, silent_breakaway_ok = 0x800, 0x1000
    assert not job_object.LIMIT_FLAGS & (breakaway_ok | silent_breakaway_ok)
    assert job_object.LIMIT_FLAGS & 0x2000  # JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE


def test_tasks_variable_replaces_the_agents_of_another_case() -> None:
    agent = {"Path": r"C:\Windows", "SystemRoot": r"C:\Windows", "VESPID_AGENT_TOKEN": "t", "OneDrive": "x"}
    env = job_object.environment(agent, {"PATH": r"D:\tools", "GREETING": "hello"})
    assert env == {"SystemRoot": r"C:\Windows", "PATH": r"D:\tools", "GREETING": "hello"}


def test_shells_own_folder_is_last_in_the_path() -> None:
    assert job_object.with_tools({"Path": r"C:\a"}, GIT_SH) == {"Path": r"C:\a;C:\Program Files\Git\usr\bin"}
    assert job_object.with_tools({}, GIT_SH) == {"PATH": r"C:\Program Files\Git\usr\bin"}


class Machine:
    """Programs by (name, folder)."""

    def __init__(self, *paths: str) -> None:
        self._paths = paths

    def which(self, name: str, path: str) -> str | None:
        for folder in path.split(";"):
            for found in self._paths:
                if found.lower() == rf"{folder}\{name}.exe".lower():
                    return found
        return None


def test_shell_beside_git_is_found_where_only_git_is_in_path() -> None:
    machine = Machine(GIT, GIT_SH)
    assert job_object.find_shell("sh", r"C:\Windows;C:\Program Files\Git\cmd", machine.which) == GIT_SH


def test_shell_beside_git_of_mingw_is_found() -> None:
    machine = Machine(r"C:\Git\mingw64\bin\git.exe", r"C:\Git\usr\bin\bash.exe")
    assert job_object.find_shell("bash", r"C:\Git\mingw64\bin", machine.which) == r"C:\Git\usr\bin\bash.exe"


def test_starter_of_the_linux_subsystem_is_no_shell() -> None:
    machine = Machine(r"C:\Windows\System32\bash.exe", r"C:\Users\u\AppData\Local\Microsoft\WindowsApps\bash.exe")
    for folder in (r"C:\Windows\System32", r"C:\Users\u\AppData\Local\Microsoft\WindowsApps"):
        assert job_object.find_shell("bash", folder, machine.which) is None


def test_what_is_missing_names_what_to_install() -> None:
    assert "Git for Windows" in job_object.MISSING_SHELL


def test_gate_goes_through_a_windows_command_line_unchanged() -> None:
    """Only a quote is escaped there: backslashes would be read in two ways, by Windows' rules and by those of MSYS."""
    line = subprocess.list2cmdline(["sh", "-c", piped.GATE, "sh", "seal"])
    assert line.replace('\\"', '"') == f'sh -c "{piped.GATE}" sh seal'
    assert "\\" not in piped.GATE
