"""The keeper: a small process between the agent and a task, so that nothing of the task outlives it or the agent.

It is made the *subreaper* of all that the task starts: a process that is orphaned by a double fork becomes the keeper's
child and not init's, so "has no children" means "nothing is left". It holds one end of a pipe whose other end only the
agent has: the agent says `go` on it once the journal entry is on disk, and closing it, or dying, means "end
everything": SIGTERM to the tree, SIGKILL after the grace.

    agent ──control──▶ keeper ─────▶ starter, then task ──▶ whatever it starts
          ◀──status───               stdout and stderr go straight to the agent

It is forked by the `nursery`, with a starter below it, before there is a task, and waits for one. Linux only. It uses
system calls and nothing of the agent's: no loop, no locks, no logging.
"""

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import time

from vespid_agent.sandbox import launch as launches
from vespid_agent.sandbox import process_tree, starter
from vespid_agent.sandbox.launch import Launch

assert sys.platform == "linux"

# The first word to the agent: the keeper's pid, or below zero the number of the error that kept it from beginning.
ANSWER_BYTES = 4

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36

# After SIGKILL a process can only be held up by the kernel (a dead network file system); then we say so and go.
_KILL_PATIENCE_S = 10.0
_KILL_ROUND_S = 0.02


def answer(status: int, pid_or_error: int) -> None:
    """Raises OSError when the agent is not there any more."""
    os.write(status, pid_or_error.to_bytes(ANSWER_BYTES, sys.byteorder, signed=True))


def live(link: socket.socket, taken: int) -> None:
    """A whole life: wait for the next launch on the link, keep its task to the end. `taken` is told once it has one."""
    os.setsid()
    _LIBC.prctl(_PR_SET_NAME, b"vespid-keeper", 0, 0, 0)
    if _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot become a subreaper")
    ready = None
    with contextlib.suppress(OSError):  # no room for it now: perhaps there is when it is needed
        ready = starter.fork([link.fileno(), taken])
    launches.rehearse()
    given = launches.take(link)
    link.close()
    if not given:
        return
    control, status, *for_starter = given
    try:
        root, to_starter = ready or starter.fork([taken, control])
    except OSError as full:
        answer(status, -(full.errno or 1))
        return
    answer(status, os.getpid())
    try:
        with contextlib.suppress(BrokenPipeError):  # somebody killed it: seen as its end
            launches.hand_over(to_starter, [status, *for_starter])
        _, _, order, *descriptors = for_starter
        kept = _Kept(launches.unpack(order, descriptors), control, status, root, to_starter)
        with contextlib.suppress(BrokenPipeError):  # the nursery was killed: we go on without
            os.write(taken, b"t")
        for descriptor in (taken, *for_starter):
            os.close(descriptor)
        kept.keep()
    except Exception as failure:  # noqa: BLE001 - told to the agent, which else would take us for killed
        starter.tell(status, f"failed keeper: {failure!r}")


class _Kept:
    """One task, from its launch to the end of all that it started."""

    def __init__(self, launch: Launch, control: int, status: int, root: int, to_starter: socket.socket) -> None:
        # Nothing else of the launch is remembered: it holds secrets.
        self._kill_grace_ms = launch.kill_grace_ms
        self._spare_root = launch.spare_root
        self._control = control
        self._status = status
        self._root = root
        self._to_starter = to_starter
        self._childless = False
        self._wake, wake_w = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake_w, False)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def keep(self) -> None:
        if os.read(self._control, 1) == starter.GO:
            with contextlib.suppress(BrokenPipeError):  # it failed and said so
                self._to_starter.send(starter.GO)
            self._to_starter.close()
            self._wait_for_end()
        else:  # given up before it began
            self._to_starter.close()
        self._end_tree()
        left = [] if self._childless else process_tree.descendants(os.getpid())
        starter.tell(self._status, f"stuck {left}" if left else "done")

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
        spared = {self._root} if self._spare_root else set()
        process_tree.send((pid for pid in below if pid not in spared), signal.SIGTERM)
        # A stopped process hears SIGTERM only once it goes on.
        process_tree.send((pid for pid in below if pid not in spared), signal.SIGCONT)
        self._wait_childless(self._kill_grace_ms / 1000)
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
                starter.tell(self._status, f"exit {os.waitstatus_to_exitcode(wait_status)}")
