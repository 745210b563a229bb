"""The keeper: a small process between the agent and a task, so that nothing of the task outlives it or the agent.

It is forked from the agent (not executed: an agent may be one frozen binary) and made the *subreaper* of all that the
task starts: a process that is orphaned by a double fork becomes the keeper's child and not init's, so "has no children"
means "nothing is left". It holds one end of a pipe whose other end only the agent has: the agent says `go` on it once
the journal entry is on disk, and closing it, or dying, means "end everything": SIGTERM to the tree, SIGKILL after the
grace.

    agent ──control──▶ keeper ──fork──▶ task ──▶ whatever it starts
          ◀──status───                  stdout and stderr go straight to the agent

Linux only. What runs in the child uses system calls and nothing of the agent's: no loop, no locks, no logging.
"""

import contextlib
import ctypes
import fcntl
import gc
import os
import resource
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from vespid_agent.sandbox import process_tree

assert sys.platform == "linux"

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36

# After SIGKILL a process can only be held up by the kernel (a dead network file system); then we say so and go.
_KILL_PATIENCE_S = 10.0
_KILL_ROUND_S = 0.02

# A task is a better victim for the kernel than the agent that reports it.
_OOM_SCORE_ADJ = b"500"


@dataclass(frozen=True, slots=True)
class Launch:
    """What to execute and in which surroundings."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    kill_grace_ms: int
    # Descriptors the program finds at these numbers (from 3 up); closed in the agent by whoever opened them.
    descriptors: Mapping[int, int] = field(default_factory=dict)
    # Soft and hard limit by RLIMIT_*.
    limits: Mapping[int, int] = field(default_factory=dict)
    # Files a process writes its own pid to in order to join a cgroup.
    cgroup_procs: Sequence[Path] = ()
    # Runs in the task's process before the program, with what rights the agent has.
    prepare: Callable[[], None] | None = None
    # The program is only a monitor of the real task (bwrap): SIGTERM goes to what is below it.
    spare_root: bool = False


@dataclass(frozen=True, slots=True)
class Pipes:
    """The agent's ends."""

    pid: int
    stdout: int
    stderr: int
    control: int
    status: int


def fork(launch: Launch) -> Pipes:
    """Start a keeper that waits for `go`. Raises OSError when there is no room for one more process."""
    ends = [os.pipe() for _ in range(4)]
    (out_r, out_w), (err_r, err_w), (control_r, control_w), (status_r, status_w) = ends
    # No signal may run one of the agent's handlers in the child before they are reset there.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of threads; see the module's docstring
            pid = os.fork()
        if pid == 0:
            _child(launch, control_r, status_w, out_w, err_w)
    except OSError:
        for read_end, write_end in ends:
            os.close(read_end)
            os.close(write_end)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for end in (out_w, err_w, control_r, status_w):
        os.close(end)
    for end in (out_r, err_r, status_r):
        os.set_blocking(end, False)
    return Pipes(pid, out_r, err_r, control_w, status_r)


def _child(launch: Launch, control: int, status: int, out: int, err: int) -> NoReturn:
    code = 1
    try:
        _forget_agent({control, status, out, err, *launch.descriptors.values()})
        code = _Keeper(launch, control, status, out, err).keep()
    except BaseException as failure:  # noqa: BLE001 - whatever it is, a forked child must never return into the agent
        with contextlib.suppress(OSError):
            _tell(status, f"failed keeper: {failure!r}")
    os._exit(code)


def _forget_agent(kept: set[int]) -> None:
    """Close the agent's sockets, files and locks, take default signals, leave its terminal and session."""
    gc.disable()  # garbage of the agent that is finalised here would close descriptors that are ours by now
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    os.setsid()
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    _LIBC.prctl(_PR_SET_NAME, b"vespid-keeper", 0, 0, 0)
    if _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot become a subreaper")


def _tell(status: int, line: str) -> None:
    os.write(status, line.replace("\n", " ").encode("utf-8", "replace")[:900] + b"\n")


class _Keeper:
    """Runs in the forked child."""

    def __init__(self, launch: Launch, control: int, status: int, out: int, err: int) -> None:
        self._launch = launch
        self._control = control
        self._status = status
        self._out = out
        self._err = err
        self._root = 0
        self._childless = False
        self._wake, wake_w = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake_w, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    def keep(self) -> int:
        if os.read(self._control, 1) != b"g":
            return 0  # given up before it began
        self._root = os.fork()
        if self._root == 0:
            self._become_task()
        os.close(self._out)
        os.close(self._err)
        for descriptor in set(self._launch.descriptors.values()):
            os.close(descriptor)
        self._wait_for_end()
        self._end_tree()
        left = [] if self._childless else process_tree.descendants(os.getpid())
        _tell(self._status, f"stuck {left}" if left else "done")
        return 0

    def _become_task(self) -> NoReturn:
        try:
            self._enter_surroundings()
            os.execve(self._launch.argv[0], list(self._launch.argv), dict(self._launch.env))  # noqa: S606 - that is the point
        except BaseException as failure:  # noqa: BLE001 - told to the agent; this process must not go on as a keeper
            with contextlib.suppress(OSError):
                _tell(self._status, f"failed {failure}")
        os._exit(127)

    def _enter_surroundings(self) -> None:
        launch = self._launch
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        os.dup2(self._out, 1)
        os.dup2(self._err, 2)
        for procs in launch.cgroup_procs:
            procs.write_bytes(b"0")
        with contextlib.suppress(OSError):  # only makes us the likelier survivor; not every kernel lets us
            Path("/proc/self/oom_score_adj").write_bytes(_OOM_SCORE_ADJ)
        os.chdir(launch.cwd)
        if launch.prepare is not None:
            launch.prepare()
        for limit, value in launch.limits.items():
            _lower_limit(limit, value)
        floor = max([2, *launch.descriptors]) + 1
        self._status = fcntl.fcntl(self._status, fcntl.F_DUPFD_CLOEXEC, floor)
        _place(launch.descriptors, floor)
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def _wait_for_end(self) -> None:
        """Until the task's first process has ended, or the agent closes its end or dies."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN | select.POLLHUP)
        poll.register(self._wake, select.POLLIN)
        while not self._reap():
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._control in ready and os.read(self._control, 64) == b"":
                return

    def _end_tree(self) -> None:
        """SIGTERM, the grace, SIGKILL, until there is no child: then, as the subreaper, nothing is left at all."""
        self._reap()
        if self._childless:
            return
        below = process_tree.descendants(os.getpid())
        spared = {self._root} if self._launch.spare_root else set()
        process_tree.send((pid for pid in below if pid not in spared), signal.SIGTERM)
        # A stopped process hears SIGTERM only once it goes on.
        process_tree.send((pid for pid in below if pid not in spared), signal.SIGCONT)
        self._wait_childless(self._launch.kill_grace_ms / 1000)
        give_up = time.monotonic() + _KILL_PATIENCE_S
        while not self._childless and time.monotonic() < give_up:
            below = process_tree.descendants(os.getpid())
            # All are stopped before any is killed, or a fork bomb would refill the list as fast as it is read.
            process_tree.send(below, signal.SIGSTOP)
            process_tree.send(set(below) | set(process_tree.descendants(os.getpid())), signal.SIGKILL)
            self._wait_childless(_KILL_ROUND_S)

    def _wait_childless(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        self._reap()
        while not self._childless and (left := until - time.monotonic()) > 0:
            poll.poll(left * 1000)
            self._reap()

    def _reap(self) -> bool:
        """Collect all that has ended; True once the task's first process is among them (now or before)."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._childless = True
                return True
            if pid == 0:
                return self._root == 0
            if pid == self._root:
                self._root = 0
                _tell(self._status, f"exit {os.waitstatus_to_exitcode(wait_status)}")


def _lower_limit(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    least = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (least, least))


def _place(descriptors: Mapping[int, int], floor: int) -> None:
    """Put each descriptor at its number. They are moved out of the way first, so that none overwrites another."""
    moved = {number: fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, floor) for number, source in descriptors.items()}
    for number, source in moved.items():
        os.dup2(source, number)


def mount_syscall(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2). Raises OSError."""
    encoded = [text.encode() if text is not None else None for text in (source, target, kind, data)]
    if _LIBC.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount {target}: {os.strerror(code)}")


def unshare_syscall(flags: int) -> None:
    """unshare(2). Raises OSError."""
    if _LIBC.unshare(flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"unshare: {os.strerror(code)}")
