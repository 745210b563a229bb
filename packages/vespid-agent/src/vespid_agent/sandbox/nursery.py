"""The nursery: a small process that has keepers ready before there are tasks for them.

To fork the agent takes it milliseconds, more the larger it has grown, in which its loop stands still. So it forks once,
early, while it is small and has read no secret, and from then on only the nursery forks.

    agent ──launches──▶ nursery ──fork──▶ keeper, keeper: whichever is free takes the next launch

A launch goes over one socket, straight to a keeper that waits at its other end, with the ends of pipes that the agent
made for that task: the agent's own ends of them no other process ever has. The nursery and all who wait end when the
agent closes the socket or dies. Keepers that have a task need neither socket nor nursery. An agent whose nursery was
killed makes another at the next launch.

Linux only, forked and not executed: an agent may be one frozen binary.
"""

import asyncio
import contextlib
import ctypes
import gc
import os
import select
import signal
import socket
import sys
import warnings
from dataclasses import dataclass
from typing import NoReturn

from vespid_agent.sandbox import keeper
from vespid_agent.sandbox import launch as launches
from vespid_agent.sandbox.launch import Launch

assert sys.platform == "linux"

# As many launches can follow one another at once without waiting for a fork.
READY = 2
# A keeper that was taken is replaced when its task has had the processor for itself, or when it was the last.
_REPLACE_AFTER_MS = 25
# A nursery that does not answer so long is stopped or lost, and another is made.
_ANSWER_S = 10.0
_TRIES = 3

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_NAME = 15


@dataclass(frozen=True, slots=True)
class Pipes:
    """The agent's ends of the pipes to a keeper that waits for `go`."""

    pid: int
    stdout: int
    stderr: int
    control: int
    status: int


def begin() -> None:
    """Have this process's nursery ready. Called early it is smaller and knows less; else the first launch does it.

    Raises OSError when there is no room for one more process.
    """
    _of_this_process()


async def launch(wanted: Launch) -> Pipes:
    """A keeper that has the launch and waits for `go`. Raises OSError when there is no room for one more process."""
    for _ in range(_TRIES):
        nursery = _of_this_process()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            pipes = await nursery.launch(wanted)
            if pipes is not None:
                return pipes
        nursery.end()
    raise ChildProcessError(None, "the process that prepares tasks was killed again and again")


class _Nursery:
    """The agent's end."""

    def __init__(self) -> None:
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._owner = os.getpid()
        self._rights = _rights()
        self._ended = False
        try:
            self._pid = _fork(theirs)
        except OSError:
            self._link.close()
            raise
        finally:
            theirs.close()
        self._link.setblocking(False)

    def is_usable(self) -> bool:
        """False too where this process got other rights since, which its tasks would not have."""
        if self._ended or self._owner != os.getpid() or self._rights != _rights():
            return False
        try:
            return os.waitpid(self._pid, os.WNOHANG)[0] == 0
        except ChildProcessError:  # somebody else of this process collected it
            return False

    def end(self) -> None:
        """Kill it, unless it is another process's. Who waits there ends by the socket."""
        self._link.close()
        if not self._ended and self._owner == os.getpid():
            self._ended = True
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                if os.waitpid(self._pid, os.WNOHANG)[0] == 0:
                    os.kill(self._pid, signal.SIGKILL)
                    os.waitpid(self._pid, 0)

    async def launch(self, wanted: Launch) -> Pipes | None:
        """None when nobody answers. Raises OSError; a broken or reset pipe when nobody is there."""
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            control_r, control_w = _pipe(theirs, ours)
            status_r, status_w = _pipe(ours, theirs)
            out_r, out_w = _pipe(ours, theirs)
            err_r, err_w = _pipe(ours, theirs)
            order = launches.pack(wanted)
            theirs.callback(os.close, order)
            for end in (out_r, err_r, status_r):
                os.set_blocking(end, False)
            given = [control_r, status_w, out_w, err_w, order, *wanted.descriptors.values()]
            launches.hand_over(self._link, given)
            theirs.close()
            answer = await _answer(status_r)
            if answer < 0:
                raise OSError(-answer, os.strerror(-answer))
            if answer == 0:
                return None
            ours.pop_all()
            return Pipes(answer, out_r, err_r, control_w, status_r)


_current: _Nursery | None = None


def _of_this_process() -> _Nursery:
    global _current
    if _current is None or not _current.is_usable():
        if _current is not None:
            _current.end()
            _current = None
        _current = _Nursery()
    return _current


def _rights() -> tuple[object, ...]:
    return (os.getresuid(), os.getresgid(), os.getgroups())


async def _answer(status: int) -> int:
    """The keeper's pid, or below zero the number of an error; 0 when the other end was closed, or none came in time."""
    loop = asyncio.get_running_loop()
    heard = asyncio.Event()
    loop.add_reader(status, heard.set)
    try:
        async with asyncio.timeout(_ANSWER_S):
            await heard.wait()
    except TimeoutError:
        return 0
    finally:
        loop.remove_reader(status)
    return int.from_bytes(os.read(status, keeper.ANSWER_BYTES), sys.byteorder, signed=True)


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """Its ends, closed by those stacks."""
    read_end, write_end = os.pipe()
    reader.callback(os.close, read_end)
    writer.callback(os.close, write_end)
    return read_end, write_end


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


# --- in the nursery's own process ---------------------------------------------------------------------------------


def _fork(link: socket.socket) -> int:
    # No signal may run one of the agent's handlers in the child before they are reset there.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        with warnings.catch_warnings():
            # 3.12 warns of threads; what runs in the child uses system calls and none of their locks.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _live(link)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _live(link: socket.socket) -> NoReturn:
    try:
        _forget_agent(link.fileno())
        _keep_ready(link)
    except BaseException:  # noqa: BLE001 - whatever it is, a forked child must never return into the agent, which sees it end
        os._exit(1)
    os._exit(0)


def _forget_agent(link: int) -> None:
    """Let go of the agent's sockets, files, locks and environment, take default signals, leave its session."""
    gc.disable()  # garbage of the agent that is finalised here would close descriptors that are ours by now
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    # Keepers that end are nobody's to count: the kernel does away with them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    # Replaced and not closed: libuv, where the agent's loop is uvloop, closes its own again by number in whatever is
    # forked from here, and must not meet descriptors of ours there.
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in (0, 1, 2, link, null):
            os.dup2(null, int(name), inheritable=False)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.environ.clear()
    _LIBC.prctl(_PR_SET_NAME, b"vespid-nursery", 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _keep_ready(link: socket.socket) -> None:
    """Until the agent is gone: as many keepers as wanted, each known by its end of a pipe."""
    waiting: set[int] = set()
    full = False
    while True:
        poll = select.poll()
        # A launch that nobody waits for is looked at here only when there was no room for a keeper.
        poll.register(link, select.POLLIN if full and not waiting else 0)
        for end in waiting:
            poll.register(end, select.POLLIN)
        missing = len(waiting) < READY and not full
        events = dict(poll.poll((_REPLACE_AFTER_MS if waiting else 0) if missing else None))
        if events.get(link.fileno(), 0) & select.POLLHUP:
            return
        gone = waiting & events.keys()
        if gone:
            # One that died without a task would only be followed by another: then there is no room either.
            taken = [end for end in gone if os.read(end, 1)]
            full = not taken
            _close(*gone)
            waiting -= gone
            continue
        try:
            waiting.add(_fork_keeper(link, waiting))
            full = False
        except OSError as refused:
            if full:
                _refuse(link, refused)
            full = True


def _fork_keeper(link: socket.socket, waiting: set[int]) -> int:
    """The end of a pipe on which the keeper says that it has a launch; it hangs up when it is dead. Raises OSError."""
    ours, taken = os.pipe()
    try:
        pid = os.fork()
    except OSError:
        _close(ours, taken)
        raise
    if pid == 0:
        try:
            _close(ours, *waiting)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            keeper.live(link, taken)
        finally:
            os._exit(0)
    os.close(taken)
    return ours


def _refuse(link: socket.socket, refused: OSError) -> None:
    """Answer one launch that there is no room for."""
    with contextlib.suppress(OSError):
        given = launches.take(link, socket.MSG_DONTWAIT)
        if given:
            with contextlib.suppress(BrokenPipeError):
                keeper.answer(given[1], -(refused.errno or 1))
        _close(*given)
