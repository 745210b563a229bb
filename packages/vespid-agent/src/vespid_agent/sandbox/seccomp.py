"""The filter of system calls that bubblewrap puts on a task: a classic BPF program, assembled here.

The kernel runs it at each call over `struct seccomp_data { int nr; u32 arch; u64 ip; u64 args[6]; }`. A refused call
answers EPERM; `clone3` answers ENOSYS, so that the C library falls back to `clone`, whose flags can be looked at. A
call by another architecture's table (32-bit code on a 64-bit kernel) ends the process: its numbers mean something else.
"""

import errno
import functools
import platform
import struct
from dataclasses import dataclass

from vespid_agent.sandbox import syscall_numbers

_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000
_ALLOW = 0x7FFF0000

# Offsets in seccomp_data; of an argument only the lower half, for the kernel takes these as 32 bits wide. To compare
# all 64 would let a request through whose upper half is not zero.
_NR = 0
_ARCH = 4
_ARGS = 16

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
_NEW_NAMESPACES = 0x7E020000
# Writing into a terminal's input as if it was typed there.
_TIOCSTI = 0x5412
_TIOCLINUX = 0x541C
_PERSONALITY_QUERY = 0xFFFFFFFF
# Numbers with this bit are of x32, a second table of the same architecture.
_X32 = 0x40000000
# Network namespaces do not hold AF_VSOCK, the way to a virtual machine's host. AF_ALG is the kernel's own cryptography.
_AF_ALG = 38
_AF_VSOCK = 40


@dataclass(frozen=True, slots=True)
class _Architecture:
    audit: int
    # Its column in the tables.
    column: int
    has_x32: bool = False


_ARCHITECTURES = {
    "x86_64": _Architecture(0xC000003E, 0, has_x32=True),
    "aarch64": _Architecture(0xC00000B7, 1),
}
MACHINES = tuple(_ARCHITECTURES)


@functools.cache
def program(machine: str = platform.machine()) -> bytes | None:
    """The filter for a machine as the kernel takes it (8 bytes an instruction); None where we have no table for it."""
    architecture = _ARCHITECTURES.get(machine)
    if architecture is None:
        return None
    column = architecture.column
    refuse = _answer(errno.EPERM)
    absent = _answer(errno.ENOSYS)
    code = [_one(_LOAD, _ARCH), *_unless(architecture.audit, [_one(_RETURN, _KILL_PROCESS)]), _one(_LOAD, _NR)]
    if architecture.has_x32:
        code += [_one(_AT_LEAST, _X32, 0, 1), absent]
    for numbers in syscall_numbers.REFUSED.values():
        number = numbers[column]
        if number is not None:
            code += _where(number, [refuse])
    code += _where(syscall_numbers.CLONE3[column], [absent])
    for numbers, argument, wrong in (
        (syscall_numbers.CLONE, 0, [_one(_ANY_BIT, _NEW_NAMESPACES, 0, 1), refuse, _one(_RETURN, _ALLOW)]),
        (syscall_numbers.IOCTL, 1, _refuse_each(_TIOCSTI, _TIOCLINUX)),
        (syscall_numbers.SOCKET, 0, _refuse_each(_AF_VSOCK, _AF_ALG)),
        (syscall_numbers.PERSONALITY, 0, _allow_each(0, _PERSONALITY_QUERY)),
    ):
        code += _where(numbers[column], [_one(_LOAD, _ARGS + 8 * argument), *wrong])
    return b"".join([*code, _one(_RETURN, _ALLOW)])


def _one(operation: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """A `struct sock_filter`; the jumps skip so many instructions."""
    return struct.pack("=HBBI", operation, if_true, if_false, operand)


def _answer(number: int) -> bytes:
    return _one(_RETURN, _ERRNO | number)


def _where(value: int, then: list[bytes]) -> list[bytes]:
    """`then`, which returns, where the loaded word is that value; what follows where it is not."""
    return [_one(_EQUAL, value, 0, len(then)), *then]


def _unless(value: int, then: list[bytes]) -> list[bytes]:
    return [_one(_EQUAL, value, len(then), 0), *then]


def _refuse_each(*values: int) -> list[bytes]:
    return [*_where_any(values, _answer(errno.EPERM)), _one(_RETURN, _ALLOW)]


def _allow_each(*values: int) -> list[bytes]:
    return [*_where_any(values, _one(_RETURN, _ALLOW)), _answer(errno.EPERM)]


def _where_any(values: tuple[int, ...], then: bytes) -> list[bytes]:
    return [instruction for value in values for instruction in _where(value, [then])]
