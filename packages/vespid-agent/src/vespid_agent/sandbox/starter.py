"""The starter: the process that becomes the task, forked by its keeper before there is one: nobody waits for a fork.

It goes into the surroundings that it is sent, as far as nothing of the task runs by that, and executes the program when
its keeper says so. When the keeper closes its end, or dies, it goes.
"""

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from typing import NoReturn

from vespid_agent.sandbox import launch as launches
from vespid_agent.sandbox import stage
from vespid_agent.sandbox.launch import Launch

assert sys.platform == "linux"

GO = b"g"

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15

# A task is a better victim for the kernel than the agent that reports it.
_OOM_SCORE_ADJ = b"500"


def fork(unwanted: list[int]) -> tuple[int, socket.socket]:
    """A starter and the keeper's end to it. `unwanted`: descriptors it must not hold. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    keeper = os.getpid()
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        ours.close()
        for descriptor in unwanted:
            os.close(descriptor)
        _become_task(theirs, keeper)
    theirs.close()
    return pid, ours


def _become_task(link: socket.socket, keeper: int) -> NoReturn:
    status = -1
    try:
        _LIBC.prctl(_PR_SET_NAME, b"vespid-starter", 0, 0, 0)
        launches.rehearse()
        given = launches.take(link)
        if given:
            status, out, err, order, *descriptors = given
            launch = launches.unpack(order, descriptors)
            floor = max([2, *launch.descriptors]) + 1
            status = fcntl.fcntl(status, fcntl.F_DUPFD_CLOEXEC, floor)
            _enter_surroundings(launch, out, err)
            if link.recv(1) == GO:
                _execute(launch, floor, keeper)
    except BaseException as failure:  # noqa: BLE001 - told to the agent; this process must not go on as a keeper
        with contextlib.suppress(OSError):
            tell(status, f"failed {failure}")
    os._exit(127)


def tell(status: int, line: str) -> None:
    """A line to the agent. Where that is dead there is nobody to tell, and all the more to end."""
    with contextlib.suppress(BrokenPipeError):
        os.write(status, line.replace("\n", " ").encode("utf-8", "replace")[:900] + b"\n")


def _enter_surroundings(launch: Launch, out: int, err: int) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    os.dup2(out, 1)
    os.dup2(err, 2)
    for procs in launch.cgroup_procs:
        _write(procs, b"0")
    with contextlib.suppress(OSError):  # only makes us the likelier survivor; not every kernel lets us
        _write(b"/proc/self/oom_score_adj", _OOM_SCORE_ADJ)
    os.chdir(launch.cwd)
    if launch.as_nobody:
        stage.enter_as_nobody(launch.cwd)


def _execute(launch: Launch, floor: int, keeper: int) -> None:
    for limit, value in launch.limits.items():
        _lower_limit(limit, value)
    _place(launch.descriptors, floor)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() == keeper:  # else it died before it could be noticed
        os.execve(launch.argv[0], launch.argv, launch.env)  # noqa: S606 - that is the point


def _write(path: bytes, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


def _lower_limit(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    least = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (least, least))


def _place(descriptors: Mapping[int, int], floor: int) -> None:
    """Put each descriptor at its number. They are moved out of the way first, so that none overwrites another."""
    moved = {number: fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, floor) for number, source in descriptors.items()}
    for number, source in moved.items():
        os.dup2(source, number)
