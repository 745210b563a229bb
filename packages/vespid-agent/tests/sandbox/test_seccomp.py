"""The filter of system calls: its program interpreted call by call, and in force around a real task."""

import ctypes
import errno
import os
import platform
import struct

import pytest

from vespid_agent.sandbox import seccomp, syscall_numbers
from vespid_agent.sandbox.bubblewrap import BubblewrapBackend
from vespid_agent.sandbox.limits import Limits

from .conftest import MakeTask, Observed

ALLOWED = 0x7FFF0000
KILLED = 0x80000000
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
COLUMN = {"x86_64": 0, "aarch64": 1}
I386 = 0x40000003
# read, write, openat, execve, mmap, futex, exit_group, getrandom.
ORDINARY = {"x86_64": (0, 1, 257, 59, 9, 202, 231, 318), "aarch64": (63, 64, 56, 221, 222, 98, 94, 278)}


def verdict(program: bytes, number: int, arguments: tuple[int, ...] = (), arch: int = AUDIT["x86_64"]) -> int:
    """What the kernel makes of a call: an interpreter of as much of classic BPF as the kernel lets a filter use."""
    given = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, arch, 0, *(value & (2**64 - 1) for value in given))
    code = list(struct.iter_unpack("=HBBI", program))
    at = word = 0
    while True:
        operation, if_true, if_false, operand = code[at]
        at += 1
        match operation:
            case 0x20:
                assert operand % 4 == 0
                (word,) = struct.unpack_from("=I", data, operand)
            case 0x15:
                at += if_true if word == operand else if_false
            case 0x35:
                at += if_true if word >= operand else if_false
            case 0x45:
                at += if_true if word & operand else if_false
            case 0x06:
                return int(operand)
            case _:
                pytest.fail(f"no such instruction: {operation:#x}")


def refused(number: int) -> int:
    return 0x00050000 | number


@pytest.fixture(params=seccomp.MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def of(machine: str, number: int, *arguments: int) -> int:
    program = seccomp.program(machine)
    assert program is not None
    return verdict(program, number, arguments, AUDIT[machine])


@pytest.mark.promise("P11")
def test_each_call_of_the_table_is_refused(machine: str) -> None:
    for name, numbers in syscall_numbers.REFUSED.items():
        number = numbers[COLUMN[machine]]
        if number is not None:
            assert of(machine, number) == refused(errno.EPERM), name


def test_ordinary_calls_are_allowed(machine: str) -> None:
    assert {of(machine, number) for number in ORDINARY[machine]} == {ALLOWED}
    few = {number for pair in syscall_numbers.REFUSED.values() if (number := pair[COLUMN[machine]]) is not None}
    allowed = [number for number in range(470) if of(machine, number) == ALLOWED]
    # Refused without arguments: the table, and clone3. `personality(0)` and the like are allowed.
    assert len(allowed) == 470 - len(few) - 1


@pytest.mark.promise("P11")
def test_another_architectures_calls_end_the_process(machine: str) -> None:
    program = seccomp.program(machine)
    assert program is not None
    for arch in (I386, *(audit for other, audit in AUDIT.items() if other != machine), 0):
        assert verdict(program, ORDINARY[machine][0], (), arch) == KILLED


@pytest.mark.promise("P11")
def test_the_second_table_of_x86_64_is_not_there() -> None:
    for number in (0, 101, 165, 520):
        assert of("x86_64", 0x40000000 | number) == refused(errno.ENOSYS)
    assert of("x86_64", -1) == refused(errno.ENOSYS)


@pytest.mark.promise("P11")
def test_new_namespaces_are_refused_and_other_clones_are_not(machine: str) -> None:
    clone, sigchld = syscall_numbers.CLONE[COLUMN[machine]], 17
    thread = 0x3D0F00
    assert of(machine, clone, sigchld) == of(machine, clone, thread) == ALLOWED
    for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert of(machine, clone, sigchld | flag) == refused(errno.EPERM)
    # Its flags are behind a pointer: absent, so that the C library uses clone.
    assert of(machine, syscall_numbers.CLONE3[COLUMN[machine]]) == refused(errno.ENOSYS)


@pytest.mark.promise("P11")
def test_arguments_are_judged_by_the_half_that_the_kernel_looks_at(machine: str) -> None:
    column, upper = COLUMN[machine], 1 << 32
    ioctl, socket, personality = (
        numbers[column] for numbers in (syscall_numbers.IOCTL, syscall_numbers.SOCKET, syscall_numbers.PERSONALITY)
    )
    for request in (0x5412, 0x541C):
        assert of(machine, ioctl, 0, request) == of(machine, ioctl, 0, request | upper) == refused(errno.EPERM)
    assert of(machine, ioctl, 0x5412, 0x5413) == ALLOWED
    for family in (38, 40):
        assert of(machine, socket, family) == of(machine, socket, family | upper) == refused(errno.EPERM)
    assert {of(machine, socket, family) for family in (1, 2, 10, 16)} == {ALLOWED}
    assert of(machine, personality, 0) == of(machine, personality, 0xFFFFFFFF) == ALLOWED
    assert of(machine, personality, 0x0040000) == refused(errno.EPERM)  # ADDR_NO_RANDOMIZE


def test_every_path_through_the_program_ends_inside_it(machine: str) -> None:
    program = seccomp.program(machine)
    assert program is not None
    code = list(struct.iter_unpack("=HBBI", program))
    assert len(code) < 4096
    for at, (operation, if_true, if_false, _) in enumerate(code):
        if operation & 0x07 == 0x05:
            assert at + 1 + max(if_true, if_false) < len(code)
    assert code[-1][0] == 0x06


def test_a_machine_without_a_table_has_no_filter() -> None:
    assert seccomp.program("riscv64") is None


async def test_bubblewrap_is_not_used_where_there_is_no_filter(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seccomp, "program", lambda: None)
    state = await BubblewrapBackend().available()
    assert not state.ok
    assert state.reason is not None
    assert "only for x86_64 and aarch64" in state.reason


# Calls made with arguments that would fail in another way, or succeed, where they are not refused.
PROBE = """
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
for line in sys.argv[1:]:
    name, number, *arguments = line.split(",")
    code = libc.syscall(*(ctypes.c_long(int(value)) for value in (number, *arguments)))
    print(name, errno.errorcode[ctypes.get_errno()] if code < 0 else "done")
"""


@pytest.mark.promise("P11")
@pytest.mark.skipif(platform.machine() not in seccomp.MACHINES, reason="needs a machine that has a filter")
async def test_a_task_is_refused_what_the_filter_names(make_task: MakeTask) -> None:
    column = COLUMN[platform.machine()]
    calls = {
        name: [numbers[column]] for name, numbers in syscall_numbers.REFUSED.items() if numbers[column] is not None
    }
    calls |= {
        "clone": [syscall_numbers.CLONE[column], 0x10000000 | 17],
        "ioctl": [syscall_numbers.IOCTL[column], 0, 0x5412 | 1 << 32, 0],
        "socket": [syscall_numbers.SOCKET[column], 40, 1, 0],
        "personality": [syscall_numbers.PERSONALITY[column], 0x40000],
    }
    said = await _in_a_task(make_task, calls | {"clone3": [syscall_numbers.CLONE3[column]]})
    assert said.pop("clone3") == "ENOSYS"
    assert said == dict.fromkeys(calls, "EPERM")


async def test_a_task_may_do_what_programs_do(make_task: MakeTask) -> None:
    column = COLUMN[platform.machine()]
    calls = {
        "personality": [syscall_numbers.PERSONALITY[column], 0xFFFFFFFF],
        "socket": [syscall_numbers.SOCKET[column], 2, 1, 0],
    }
    assert await _in_a_task(make_task, calls) == dict.fromkeys(calls, "done")
    script = "import threading, subprocess; t = threading.Thread(target=print, args=['thread']); t.start(); t.join()\n"
    script += "subprocess.run(['echo', 'child'], check=True)"
    result = await _bubblewrap().run(make_task(f'/usr/bin/python3 -uc "{script}"', node="n2"))
    assert result.stdout == "thread\nchild\n", result


@pytest.mark.promise("P11")
async def test_the_filter_holds_for_every_process_of_a_task(make_task: MakeTask) -> None:
    script = "grep -h Seccomp: /proc/1/status /proc/self/status; sh -c 'grep Seccomp: /proc/self/status'"
    assert (await _bubblewrap().run(make_task(script))).stdout.split() == ["Seccomp:", "2"] * 3


def test_the_kernel_takes_the_program() -> None:
    """In a process of its own, which cannot be rid of it again."""
    program = seccomp.program()
    if program is None:
        pytest.skip("needs a machine that has a filter")
    child = os.fork()
    if child == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        held = ctypes.create_string_buffer(program)
        filters = struct.pack("@HP", len(program) // 8, ctypes.addressof(held))
        set_no_new_privileges, set_seccomp, mode_filter = 38, 22, 2
        libc.prctl(set_no_new_privileges, 1, 0, 0, 0)
        taken = libc.prctl(set_seccomp, mode_filter, filters, 0, 0) == 0
        refused_after = libc.unshare(0) == -1 and ctypes.get_errno() == errno.EPERM
        os._exit(0 if taken and refused_after else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _bubblewrap() -> Observed:
    return Observed(BubblewrapBackend(limits=Limits(memory_mb=256, cpus=1, pids=64), kill_grace_ms=200))


async def _in_a_task(make_task: MakeTask, calls: dict[str, list[int | None]]) -> dict[str, str]:
    task = make_task("exec /usr/bin/python3 probe.py $CALLS")
    (task.workdir / "probe.py").write_text(PROBE)
    lines = " ".join(",".join([name, *map(str, numbers)]) for name, numbers in calls.items())
    told = make_task(task.script, env={"CALLS": lines})
    result = await _bubblewrap().run(told)
    assert result.exit_code == 0, result
    return dict(line.split() for line in result.stdout.splitlines())
