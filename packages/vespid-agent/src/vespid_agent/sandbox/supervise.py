"""The agent's side of one kept task: its pipes, its time, its end. Backends differ only in what they launch."""

import asyncio
import contextlib
import os
import signal
import sys
import time

from vespid_agent.sandbox import nursery, process_tree
from vespid_agent.sandbox.ending import runs_out_of_time, to_the_end
from vespid_agent.sandbox.launch import Launch
from vespid_agent.sandbox.output import OutputCapture, capture_of
from vespid_agent.sandbox.task import OnOutput, ProcessMark, SandboxError, ShellTask, Started, TaskResult

assert sys.platform == "linux"

_READ_BYTES = 64 * 1024
# Beyond its cap output is only counted; a task that prints without end must not take the loop from the heartbeat.
_OVER_CAP_PAUSE_S = 0.002
# How long `reap` gives a keeper that is still ending its tree, beyond the grace it grants.
_REAP_PATIENCE_S = 15.0
_REAP_ROUND_S = 0.02


async def supervise(
    launch: Launch, task: ShellTask, backend: str, token: str, on_output: OnOutput, started: Started
) -> TaskResult:
    """Run to the end, the timeout or the cancellation; in each case nothing is left. Raises `SandboxError`."""
    try:
        kept = _Kept(await nursery.launch(launch), task, on_output)
    except OSError as full:
        message = f"cannot start a process: {full.strerror or full}"
        raise SandboxError(f"SANDBOX_UNAVAILABLE:{backend}", message, retryable=True) from full
    try:
        ticks = process_tree.start_ticks(kept.pid)
        await started(ProcessMark(backend, kept.pid, ticks or 0, process_tree.boot_id(), token))
        begun = time.monotonic()
        kept.go()
        timed_out = await runs_out_of_time(task, kept.ended)
    except BaseException:
        await kept.end(token)
        raise
    # A task that we end may still have written its last words: they belong to the result.
    await kept.end(token)
    return kept.result(backend, timed_out, int((time.monotonic() - begun) * 1000))


class _Kept:
    """One keeper and the four pipes to it."""

    def __init__(self, pipes: nursery.Pipes, task: ShellTask, on_output: OnOutput) -> None:
        self._loop = asyncio.get_running_loop()
        self._pipes = pipes
        self.pid = pipes.pid
        # Set when the keeper has closed its end: everything is gone, or the keeper itself was killed.
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._status = b""
        self._control_open = True
        self._failure: Exception | None = None
        self._captures = {
            pipes.stdout: capture_of("stdout", task, on_output),
            pipes.stderr: capture_of("stderr", task, on_output),
        }
        self._texts: dict[int, tuple[str, bool]] = {}
        self._paused: set[asyncio.TimerHandle] = set()
        for descriptor in self._captures:
            self._loop.add_reader(descriptor, self._read_output, descriptor)
        self._loop.add_reader(pipes.status, self._read_status)

    def go(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # a keeper that was killed: seen by the status pipe
            os.write(self._pipes.control, b"g")

    async def end(self, token: str) -> None:
        """Stop what still runs, wait until nothing is left, close the pipes. Cancellation does not cut this short."""
        if self._control_open:
            self._control_open = False
            os.close(self._pipes.control)
        await to_the_end(self._emptied(token))

    async def _emptied(self, token: str) -> None:
        await asyncio.wait([self.ended])
        if not self._all_gone():
            process_tree.send(process_tree.with_token(token), signal.SIGKILL)
        self._close()

    def result(self, backend: str, timed_out: bool, duration_ms: int) -> TaskResult:
        if self._failure is not None:
            raise self._failure
        exit_code: int | None = None
        for line in self._status.decode("utf-8", "replace").splitlines():
            word, _, rest = line.partition(" ")
            if word == "exit":
                code = int(rest)
                exit_code = code if code >= 0 else 128 - code
            elif word == "failed":
                raise SandboxError(f"SANDBOX_UNAVAILABLE:{backend}", f"cannot start the task: {rest}", retryable=True)
            elif word == "stuck":
                message = f"processes {rest} cannot be killed; the kernel holds them"
                raise SandboxError("NODE_EXECUTION_FAILED", message, retryable=True)
        if not self._all_gone():
            raise SandboxError("NODE_EXECUTION_FAILED", "the process that kept the task was killed", retryable=True)
        (stdout, stdout_cut), (stderr, stderr_cut) = (self._texts[end] for end in self._captures)
        return TaskResult(
            exit_code=None if timed_out else exit_code,
            timed_out=timed_out,
            stdout=stdout,
            stderr=stderr,
            stdout_truncated=stdout_cut,
            stderr_truncated=stderr_cut,
            duration_ms=duration_ms,
        )

    def _all_gone(self) -> bool:
        return self._status.endswith(b"done\n")

    def _read_status(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._pipes.status, _READ_BYTES)
            self._status += data
            if not data:
                self._loop.remove_reader(self._pipes.status)
                self.ended.set_result(None)

    def _read_output(self, descriptor: int) -> None:
        capture = self._captures[descriptor]
        if not self._read_once(descriptor, capture):
            self._loop.remove_reader(descriptor)
        elif capture.over_cap:
            self._loop.remove_reader(descriptor)
            resume = self._loop.call_later(_OVER_CAP_PAUSE_S, self._resume, descriptor)
            self._paused = {timer for timer in self._paused if timer.when() > self._loop.time()} | {resume}

    def _resume(self, descriptor: int) -> None:
        self._loop.add_reader(descriptor, self._read_output, descriptor)

    def _read_once(self, descriptor: int, capture: OutputCapture) -> bool:
        """False at the end of the stream."""
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return True
        try:
            capture.feed(data)
        except Exception as failure:  # noqa: BLE001 - the caller's callback: raised to it by `result`
            self._failure = self._failure or failure
        return bool(data)

    def _close(self) -> None:
        if self._texts:
            return
        for timer in self._paused:
            timer.cancel()
        for descriptor, capture in self._captures.items():
            self._loop.remove_reader(descriptor)
            self._drain(descriptor, capture)
            os.close(descriptor)
            try:
                self._texts[descriptor] = capture.finish()
            except Exception as failure:  # noqa: BLE001 - as in _read_once
                self._failure = self._failure or failure
                self._texts[descriptor] = ("", True)
        os.close(self._pipes.status)

    def _drain(self, descriptor: int, capture: OutputCapture) -> None:
        """What was written before the last writer died: at most one pipe full."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(descriptor, _READ_BYTES):
                try:
                    capture.feed(data)
                except Exception as failure:  # noqa: BLE001 - as in _read_once
                    self._failure = self._failure or failure


async def reap(mark: ProcessMark, kill_grace_ms: int) -> None:
    """End what a mark of an earlier agent left. Its keeper, if it lives, is at it already; then whatever has the token.

    Raises `SandboxError` when something cannot be killed.
    """
    if mark.boot_id != process_tree.boot_id():
        return
    give_up = time.monotonic() + kill_grace_ms / 1000 + _REAP_PATIENCE_S
    while process_tree.start_ticks(mark.pid) == mark.start_ticks and process_tree.is_alive(mark.pid):
        if time.monotonic() > give_up:
            process_tree.send([*process_tree.descendants(mark.pid), mark.pid], signal.SIGKILL)
            break
        await asyncio.sleep(_REAP_ROUND_S)
    while left := process_tree.with_token(mark.token):
        if time.monotonic() > give_up:
            raise SandboxError("NODE_EXECUTION_FAILED", f"processes {left} of an earlier task cannot be killed")
        process_tree.send(left, signal.SIGKILL)
        await asyncio.sleep(_REAP_ROUND_S)
