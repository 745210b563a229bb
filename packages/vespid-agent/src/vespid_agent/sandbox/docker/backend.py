"""The docker backend: one task, one container, nothing left of it afterwards.

The container's root is read-only, it has no capability, no way to more of them, no network unless it is asked for, an
ordinary user, and hard limits of memory, processes and CPU. The engine's default seccomp profile is in force. An engine
that cannot keep a limit is not used.
"""

import asyncio
import contextlib
import os
import re
import secrets
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from vespid_agent.sandbox.docker.container import OWNER_LABEL, WORK, Container, Profile
from vespid_agent.sandbox.docker.endpoint import EndpointInvalid, endpoint
from vespid_agent.sandbox.docker.engine import Engine, EngineError, EngineUnreachable
from vespid_agent.sandbox.docker.pool import Pool
from vespid_agent.sandbox.docker.work import BoundWork, VolumeWork, Work, volume_name
from vespid_agent.sandbox.ending import runs_out_of_time, to_the_end
from vespid_agent.sandbox.limits import Limits
from vespid_agent.sandbox.output import OutputCapture
from vespid_agent.sandbox.task import (
    Availability,
    Network,
    OnOutput,
    ProcessMark,
    QuotaExceeded,
    SandboxError,
    ShellTask,
    Started,
    Stream,
    TaskResult,
    check_task,
)

UNAVAILABLE = "SANDBOX_UNAVAILABLE:docker"
_NOBODY = 65534
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,511}")
# Beyond its cap output is only counted; a task that prints without end must not take the loop from the heartbeat.
_OVER_CAP_PAUSE_S = 0.002
# After SIGKILL a container is gone at once, or its engine is stuck.
_KILL_PATIENCE_S = 15.0
_LIMITS = {"MemoryLimit": "memory", "PidsLimit": "processes", "CpuCfsQuota": "CPU"}


class DockerBackend:
    name = "docker"

    def __init__(
        self,
        *,
        image: str,
        owner: str,
        slots: Path,
        environment: Mapping[str, str],
        limits: Limits | None = None,
        network_default: Network = "none",
        runtime: str = "",
        kill_grace_ms: int = 500,
        prepared: int = 0,
        work_bytes: int = 0,
    ) -> None:
        """`owner` names this agent; `slots` is a folder of its own, beside the working directories."""
        self._image = image
        self._owner = owner
        self._limits = limits or Limits()
        self._network_default = network_default
        self._runtime = runtime
        self._kill_grace_s = kill_grace_ms / 1000
        self._work_bytes = work_bytes
        self._invalid = ""
        self._engine: Engine | None = None
        try:
            self._engine = Engine(endpoint(environment, Path.home()))
        except EndpointInvalid as error:
            self._invalid = str(error)
        # Whether a folder of ours can be mounted as it is; known once the engine has said what it is.
        self._binds = False
        self._pool: Pool | None = None
        self._slots = slots
        self._prepared = prepared
        # Containers of this process, by token: at work, or ready for it.
        self._ours: set[str] = set()
        # Containers whose removal failed: tried again before the next task.
        self._left: set[str] = set()
        # Of containers at work whose folder is one of this machine's, by token.
        self._working: dict[str, Container] = {}
        # Of folders that tasks share: where they are copied, one task at a time has them.
        self._turns: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()

    # --- the engine --------------------------------------------------------------------------------------------------

    async def available(self) -> Availability:
        if self._engine is None:
            return Availability(False, self._invalid)
        try:
            about = await self._engine.get("/info")
        except (EngineError, EngineUnreachable) as error:
            return Availability(False, str(error))
        return await self._judged(about)

    async def _judged(self, about: Mapping[str, Any]) -> Availability:
        """Whether this engine keeps what we promise, and how its tasks get their files."""
        assert self._engine is not None
        options = " ".join(about.get("SecurityOptions") or ())
        if about.get("OSType") != "linux":
            return Availability(False, "the engine runs Windows containers: switch it to Linux containers")
        unlimited = [what for flag, what in _LIMITS.items() if not about.get(flag)]
        if unlimited or about.get("CgroupDriver") == "none":
            advice = "a rootless engine needs cgroup v2 with systemd delegation" if "rootless" in options else ""
            what = ", ".join(unlimited) or "anything"
            return Availability(False, f"the engine cannot limit {what}{': ' if advice else ''}{advice}")
        if "seccomp" not in options:
            return Availability(False, "the engine runs without seccomp: it needs a kernel that has it")
        if self._runtime and self._runtime not in (about.get("Runtimes") or {}):
            return Availability(False, f"the engine has no runtime {self._runtime}: add it to its daemon.json")
        remapped = "name=rootless" in options or "name=userns" in options
        desktop = "Docker Desktop" in str(about.get("OperatingSystem"))
        self._binds = self._engine.endpoint.is_local and not remapped
        if self._prepared and self._binds and not desktop and sys.platform == "linux":
            self._pool = self._pool or Pool(self._make_prepared, self._remove, self._slots, self._prepared)
        notes = [
            f"engine {about.get('ServerVersion')} at {self._engine.endpoint}, cgroup v{about.get('CgroupVersion', 1)}"
        ]
        if not self._binds:
            notes.append("its files are not ours: /work is copied in and out")
        try:
            await self._engine.get(f"/images/{self._image}/json")
        except (EngineError, EngineUnreachable):
            notes.append(_missing_image(self._image))
        return Availability(True, notes=tuple(notes))

    async def root_of(self, mark: ProcessMark, workdir: Path) -> int | None:
        """Its first process, where the engine is on this machine and we may look at what it holds."""
        container = self._working.get(mark.token)
        if container is None or sys.platform != "linux":
            return None
        pid = await container.first_pid()
        # An engine may count its processes otherwise than we do: only whoever has the folder at /work is meant.
        return pid if pid and await asyncio.to_thread(_has_at_work, pid, workdir) else None

    async def sweep(self) -> None:
        """Remove what an earlier process of this agent left, and no journal tells of. Raises SandboxError."""
        if self._engine is None:
            return
        filters = f'{{"label":["{OWNER_LABEL}={self._owner}"]}}'
        try:
            for found in await self._engine.get("/containers/json", all="true", filters=filters):
                token = str(found["Names"][0]).removeprefix("/vespid-")
                if token not in self._ours:
                    await Container(self._engine, token).remove()
            volumes = await self._engine.get("/volumes", filters=filters)
            for volume in volumes["Volumes"] or ():
                if str(volume["Name"]).removeprefix("vespid-") not in self._ours:
                    await self._engine.delete(f"/volumes/{volume['Name']}", force="true")
        except (EngineError, EngineUnreachable) as error:
            raise SandboxError(UNAVAILABLE, str(error), retryable=True) from error
        if self._pool is not None and not self._ours:
            self._pool.clear_slots()

    async def close(self) -> None:
        """Remove what was prepared, and let go of the engine."""
        if self._pool is not None:
            await self._pool.close()
        if self._engine is not None:
            await self._engine.close()

    async def reap(self, mark: ProcessMark) -> None:
        if self._engine is None:
            raise SandboxError(UNAVAILABLE, self._invalid)
        try:
            await Container(self._engine, mark.token).remove()
            with contextlib.suppress(EngineError):
                await self._engine.delete(f"/volumes/{volume_name(mark.token)}", force="true")
        except (EngineError, EngineUnreachable) as error:
            raise SandboxError(UNAVAILABLE, str(error), retryable=True) from error

    # --- a task ------------------------------------------------------------------------------------------------------

    async def run(self, task: ShellTask, on_output: OnOutput, started: Started) -> TaskResult:
        if self._engine is None:
            raise SandboxError(UNAVAILABLE, self._invalid)
        check_task(task)
        for name in task.env:
            if _ENV_NAME.fullmatch(name) is None:
                raise SandboxError("INVALID_EXECUTE_PAYLOAD", f"config.task.env: {name[:64]!r} names no shell variable")
        image = task.image or self._image
        if _IMAGE.fullmatch(image) is None or ".." in image:
            raise SandboxError("INVALID_EXECUTE_PAYLOAD", f"sandbox.docker.image: {image[:64]!r} names no image")
        await self._remove_left()
        async with self._turn(task):
            return await self._run_alone(image, task, on_output, started)

    def _turn(self, task: ShellTask) -> contextlib.AbstractAsyncContextManager[object]:
        """Where files are copied in and out, tasks of one folder take turns, or the last would undo the others'."""
        if self._binds or not task.shared:
            return contextlib.nullcontext()
        return self._turns.setdefault(task.workdir, asyncio.Lock())

    async def _run_alone(self, image: str, task: ShellTask, on_output: OnOutput, started: Started) -> TaskResult:
        profile = self._profile(image, task.network or self._network_default)
        try:
            container, work = await self._container(profile, task)
            try:
                if self._binds:
                    self._working[container.token] = container
                await started(ProcessMark(self.name, 0, 0, "", container.token))
                result = await self._run(container, task, on_output)
                await _read_back(work, container, result)
            finally:
                self._working.pop(container.token, None)
                await to_the_end(self._remove(container, work))
        except EngineError as error:
            raise _refused(error, profile.image) from error
        except EngineUnreachable as error:
            raise SandboxError(UNAVAILABLE, str(error), retryable=True) from error
        except OSError as error:
            message = f"the engine dropped the task: {type(error).__name__}"
            raise SandboxError("NODE_EXECUTION_FAILED", message, retryable=True) from error
        return result

    async def _container(self, profile: Profile, task: ShellTask) -> tuple[Container, Work]:
        """A started container with the task's folder at /work: a prepared one where there is one and it fits."""
        assert self._engine is not None
        # A prepared one brings a folder of its own, which would take the place of the one that others are using.
        if self._pool is not None and not task.shared:
            container = self._pool.take(profile, task.workdir)
            if container is not None:
                return container, BoundWork(task.workdir, None)
        token = secrets.token_hex(16)
        if self._binds:
            work: Work = BoundWork(task.workdir, self._bound_owner())
        else:
            work = VolumeWork(self._engine, task.workdir, self._owner, token, self._user(), self._work_bytes)
        container = Container(self._engine, token)
        self._ours.add(token)
        try:
            container = await Container.make(self._engine, profile, self._owner, token, await work.mount())
            await work.fill(container)
            await container.start()
        except BaseException:
            await to_the_end(self._remove(container, work))
            raise
        return container, work

    async def _make_prepared(self, profile: Profile, slot: Path) -> Container:
        """Raises EngineError, EngineUnreachable."""
        assert self._engine is not None
        mount = await BoundWork(slot, self._bound_owner()).mount()
        token = secrets.token_hex(16)
        self._ours.add(token)
        try:
            container = await Container.make(self._engine, profile, self._owner, token, mount)
            await container.start()
        except BaseException:
            await to_the_end(self._remove(Container(self._engine, token)))
            raise
        return container

    async def _run(self, container: Container, task: ShellTask, on_output: OnOutput) -> TaskResult:
        captures: dict[Stream, OutputCapture] = {
            "stdout": _capture("stdout", task, on_output),
            "stderr": _capture("stderr", task, on_output),
        }
        begun = time.monotonic()
        await container.give(task.script, task.shell, task.env)
        reading = asyncio.ensure_future(_read(container, captures))
        try:
            timed_out = await runs_out_of_time(task, reading)
            if not reading.done():
                await self._end(container, reading)
            reading.result()
        finally:
            if not reading.done():
                # Cancelled: the task gets its grace all the same; the caller removes the container then.
                await to_the_end(self._end(container, reading))
        duration_ms = int((time.monotonic() - begun) * 1000)
        status = None if timed_out else await container.exit_status()
        note = None
        if status == 137 and await container.is_out_of_memory():
            note = f"it took more than its {self._limits.memory_mb} MB of memory"
        (stdout, stdout_cut), (stderr, stderr_cut) = (capture.finish() for capture in captures.values())
        return TaskResult(status, timed_out, stdout, stderr, stdout_cut, stderr_cut, duration_ms, note)

    async def _end(self, container: Container, reading: "asyncio.Future[None]") -> None:
        """SIGTERM, the grace, SIGKILL; its last words are read."""
        await container.kill("SIGTERM")
        await asyncio.wait([reading], timeout=self._kill_grace_s)
        if not reading.done():
            await container.kill("SIGKILL")
            await asyncio.wait([reading], timeout=_KILL_PATIENCE_S)
        if not reading.done():
            # An engine that is stuck: what it does not end is removed when it answers again.
            container.streams.close()
            await asyncio.wait([reading])

    async def _remove(self, container: Container, work: Work | None = None) -> None:
        """What cannot be removed now is, before the next task. `work` None: it had no task yet."""
        try:
            await container.remove()
            if work is not None:
                await work.remove()
        except (EngineError, EngineUnreachable):
            self._left.add(container.token)
        self._ours.discard(container.token)

    async def _remove_left(self) -> None:
        for token in tuple(self._left):
            with contextlib.suppress(SandboxError):
                await self.reap(ProcessMark(self.name, 0, 0, "", token))
                self._left.discard(token)

    def _profile(self, image: str, network: Network) -> Profile:
        return Profile(image, network, self._limits, self._user(), self._runtime, self._work_bytes)

    def _user(self) -> tuple[int, int]:
        """Who runs inside: whoever owns the files outside, but never root."""
        if not self._binds or sys.platform == "win32" or os.getuid() == 0:
            return _NOBODY, _NOBODY
        return os.getuid(), os.getgid()

    def _bound_owner(self) -> tuple[int, int] | None:
        return self._user() if sys.platform != "win32" and os.getuid() == 0 else None


def _capture(stream: Stream, task: ShellTask, on_output: OnOutput) -> OutputCapture:
    return OutputCapture(task.output_max_chars, task.redactor, lambda text, at: on_output(stream, text, at))


async def _read(container: Container, captures: Mapping[Stream, OutputCapture]) -> None:
    """Until the last process of the container has ended."""
    async for stream, data in container.streams.frames():
        captures[stream].feed(data)
        if captures[stream].over_cap:
            await asyncio.sleep(_OVER_CAP_PAUSE_S)


def _has_at_work(pid: int, workdir: Path) -> bool:
    """Whether this process, and not one of another machine's number, works in the folder."""
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/root{WORK}"), os.stat(workdir))
    except OSError:  # gone, or not ours to look at
        return False


async def _read_back(work: Work, container: Container, result: TaskResult) -> None:
    try:
        await work.read_back(container)
    except QuotaExceeded as exceeded:
        raise QuotaExceeded(exceeded.message, result) from None


def _missing_image(image: str) -> str:
    return f"the image {image} is not on the engine: run `docker pull {image}` there"


def _refused(error: EngineError, image: str) -> SandboxError:
    if error.status == 404 and "image" in error.message.lower():
        return SandboxError(UNAVAILABLE, _missing_image(image))
    if "/bin/sh" in error.message:
        return SandboxError(UNAVAILABLE, f"the image {image} has no /bin/sh: use one that has")
    return SandboxError("DOCKER_FAILED", f"the engine refused: {error.message}", retryable=True)
