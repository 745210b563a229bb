"""What a kept task is made of, as data: it goes to a process that was forked before there was a task.

The order itself travels as a file in memory, for an environment may be longer than a message; its descriptors travel
beside it. So it is in no process list and on no disk.
"""

import os
import socket
import struct
import sys
from collections.abc import Iterable, Mapping

import msgspec

from vespid_agent.sandbox.script import memory_file

# Far more than a launch has; the kernel passes at most 253.
_DESCRIPTORS_MAX = 32
_DESCRIPTOR = struct.Struct("=i")


class Launch(msgspec.Struct, frozen=True):
    """What to execute and in which surroundings. Names, paths and values are bytes, as the kernel takes them."""

    argv: list[bytes]
    env: dict[bytes, bytes]
    cwd: bytes
    kill_grace_ms: int
    # Descriptors the program finds at these numbers (from 3 up); closed in the agent by whoever opened them.
    descriptors: dict[int, int] = msgspec.field(default_factory=dict)
    # Soft and hard limit by RLIMIT_*.
    limits: dict[int, int] = msgspec.field(default_factory=dict)
    # Files a process writes its own pid to in order to join a cgroup.
    cgroup_procs: list[bytes] = msgspec.field(default_factory=list)
    # Give the folder to `nobody` and become it, with what rights the agent has (`stage`).
    as_nobody: bool = False
    # The program is only a monitor of the real task (bwrap): SIGTERM goes to what is below it.
    spare_root: bool = False


def encoded(env: Mapping[str, str]) -> dict[bytes, bytes]:
    return {os.fsencode(name): os.fsencode(value) for name, value in env.items()}


def pack(launch: Launch) -> int:
    """A descriptor of the launch in memory; the caller closes it. Raises OSError."""
    return memory_file("launch", msgspec.msgpack.encode(launch))


def unpack(order: int, given: Iterable[int]) -> Launch:
    """The launch with the descriptors that came with it in the place of those it was sent with. `order` stays open."""
    if sys.platform != "linux":
        raise OSError("processes are prepared on Linux only")
    launch = msgspec.msgpack.decode(os.pread(order, os.fstat(order).st_size, 0), type=Launch)
    return msgspec.structs.replace(launch, descriptors=dict(zip(launch.descriptors, given, strict=True)))


def hand_over(link: socket.socket, descriptors: list[int]) -> None:
    """Whoever reads the other end has them too from now on. Raises OSError."""
    if sys.platform != "linux":
        raise OSError("processes are prepared on Linux only")
    socket.send_fds(link, [b"l"], descriptors)


def take(link: socket.socket, flags: int = 0) -> list[int]:
    """The descriptors of the next message; none when the other end is closed. Raises OSError."""
    if sys.platform != "linux":
        raise OSError("processes are prepared on Linux only")
    # Not `socket.recv_fds`: until Python 3.12 it forgets the flags, and what is not closed at exec the task would have.
    room = socket.CMSG_SPACE(_DESCRIPTORS_MAX * _DESCRIPTOR.size)
    _, ancillary, _, _ = link.recvmsg(1, room, flags | socket.MSG_CMSG_CLOEXEC)
    return [descriptor for _, _, packed in ancillary for (descriptor,) in _DESCRIPTOR.iter_unpack(packed)]


def rehearse() -> None:
    """Pass a launch to oneself. What is touched here is a forked process's own then, when the first real one comes."""
    if sys.platform != "linux":
        raise OSError("processes are prepared on Linux only")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        sent = pack(Launch([b"true"], {b"PATH": b"/bin"}, b"/", 0, {3: ours.fileno()}, {0: 0}, [b"/dev/null"]))
        hand_over(ours, [sent, ours.fileno()])
        order, *given = take(theirs)
        unpack(order, given)
        for descriptor in (sent, order, *given):
            os.close(descriptor)
