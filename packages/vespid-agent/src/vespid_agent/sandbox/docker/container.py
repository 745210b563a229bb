"""One hardened container: what it is made of, how a task gets into it, and its end.

A container is started before it has a task: its shell waits for a line that says how long the script is, takes the
script into memory of its own, and becomes it. So the script and the environment are on no disk, in no process list and
in nothing that the engine keeps, and a container can be prepared ahead of its task.
"""

import asyncio
import contextlib
import posixpath
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vespid_agent.sandbox.docker.engine import Attached, Engine, EngineError, EngineUnreachable
from vespid_agent.sandbox.limits import Limits
from vespid_agent.sandbox.task import Network, Shell

# Which agent a container is of, and which task.
OWNER_LABEL = "run.vespid.agent"
TASK_LABEL = "run.vespid.task"

WORK = "/work"
_WRITABLE = (WORK, "/tmp")  # noqa: S108
_MB = 1024 * 1024
# In /tmp, which is memory; the file has no name any more when the task begins.
_TAKE = (
    "IFS=' ' read -r n shell && head -c \"$n\" >/tmp/.task && exec 3</tmp/.task && rm /tmp/.task"
    ' && exec "$shell" /dev/fd/3 </dev/null'
)
_ENVIRONMENT = {"HOME": WORK, "TMPDIR": "/tmp", "USER": "sandbox", "LANG": "C.UTF-8"}  # noqa: S108
_REMOVE_TRIES = 5
_REMOVE_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Profile:
    """What containers are made of."""

    image: str
    network: Network
    limits: Limits
    # uid and gid of the one inside, never 0.
    user: tuple[int, int]
    # An OCI runtime of the engine's; "": its default one.
    runtime: str
    # Largest file a task may write, in bytes; 0: no limit.
    file_bytes: int = 0


def recipe(
    profile: Profile, owner: str, token: str, work: Mapping[str, object], volumes: Iterable[str] = ()
) -> dict[str, Any]:
    """The body of the engine's create call. `work` is the mount at /work; `volumes` are those that the image declares.

    An image's volume would be a folder of the engine's disk that a task can fill: it is covered by nothing, read-only.
    """
    covers = [
        {"Type": "tmpfs", "Target": path, "ReadOnly": True, "TmpfsOptions": {"SizeBytes": 4096}}
        for path in dict.fromkeys(posixpath.normpath(path) for path in volumes)
        if path not in _WRITABLE
    ]
    memory = profile.limits.memory_mb * _MB
    uid, gid = profile.user
    ulimits = [{"Name": "core", "Soft": 0, "Hard": 0}]
    if profile.file_bytes:
        ulimits.append({"Name": "fsize", "Soft": profile.file_bytes, "Hard": profile.file_bytes})
    host: dict[str, Any] = {
        "Memory": memory,
        # No swap beside it.
        "MemorySwap": memory,
        "NanoCpus": int(profile.limits.cpus * 1e9),
        "PidsLimit": profile.limits.pids,
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "NetworkMode": "none" if profile.network == "none" else "bridge",
        # Its own IPC, and no /dev/shm: /work and /tmp are the only places that can be written.
        "IpcMode": "none",
        "Mounts": [dict(work), *covers],
        # Its owner is named because the mode is that of the image's own /tmp, where it has one.
        "Tmpfs": {"/tmp": f"rw,nosuid,nodev,exec,mode=1777,uid={uid},gid={gid},size={memory}"},  # noqa: S108
        "Ulimits": ulimits,
        # What is printed goes to whoever is attached and nowhere else.
        "LogConfig": {"Type": "none"},
        "RestartPolicy": {"Name": "no"},
    }
    if profile.runtime:
        host["Runtime"] = profile.runtime
    return {
        "Image": profile.image,
        "Entrypoint": ["/bin/sh", "-c", _TAKE],
        "Cmd": [],
        "User": f"{uid}:{gid}",
        "WorkingDir": WORK,
        "Hostname": "sandbox",
        "Env": [f"{name}={value}" for name, value in _ENVIRONMENT.items()],
        "Labels": {OWNER_LABEL: owner, TASK_LABEL: token},
        "Healthcheck": {"Test": ["NONE"]},
        "OpenStdin": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "HostConfig": host,
    }


def name_of(token: str) -> str:
    """A container's name, by which it is found again after the agent was killed."""
    return f"vespid-{token}"


class Container:
    """A container that exists. Whoever made it removes it."""

    def __init__(self, engine: Engine, token: str) -> None:
        self.engine = engine
        self.token = token
        self.name = name_of(token)
        self._attached: Attached | None = None
        self._first_pid = 0

    @classmethod
    async def make(
        cls, engine: Engine, profile: Profile, owner: str, token: str, work: Mapping[str, object]
    ) -> "Container":
        """Raises EngineError, EngineUnreachable."""
        container = cls(engine, token)
        about = await engine.get(f"/images/{profile.image}/json")
        body = recipe(profile, owner, token, work, (about.get("Config") or {}).get("Volumes") or ())
        try:
            await engine.post("/containers/create", body, name=container.name)
        except BaseException:
            # Cancelled in mid-call, the engine may have made it all the same.
            await asyncio.shield(container.remove())
            raise
        return container

    async def start(self) -> None:
        """Attach and start; its shell waits for a task then."""
        self._attached = await self.engine.attach(self.name)
        await self.engine.post(f"/containers/{self.name}/start")

    @property
    def streams(self) -> Attached:
        assert self._attached is not None
        return self._attached

    @property
    def is_waiting(self) -> bool:
        """Whether it still waits for its task, as far as its streams tell."""
        return self.streams.is_open

    async def give(self, script: str, shell: Shell, env: Mapping[str, str]) -> None:
        """Have it run a script. Raises OSError."""
        exports = "".join(f"export {name}={shlex.quote(value)}; " for name, value in env.items())
        text = (exports + script).encode("utf-8", "replace")
        await self.streams.give(f"{len(text)} {shell}\n".encode() + text)

    async def exit_status(self) -> int:
        """Wait for its end. 128 + n where signal n ended it."""
        answer = await self.engine.post(f"/containers/{self.name}/wait", timeout_s=None, condition="not-running")
        return int(answer["StatusCode"])

    async def is_out_of_memory(self) -> bool:
        """Whether its memory limit ended a process of it."""
        return bool((await self.engine.get(f"/containers/{self.name}/json"))["State"]["OOMKilled"])

    async def first_pid(self) -> int:
        """The number of its first process on the engine's machine; 0 where it has none, or the engine is away."""
        if not self._first_pid:
            with contextlib.suppress(EngineError, EngineUnreachable):
                self._first_pid = int((await self.engine.get(f"/containers/{self.name}/json"))["State"]["Pid"])
        return self._first_pid

    async def kill(self, signal: str) -> None:
        """Harmless where it is over, or the engine away: its removal tells that."""
        with contextlib.suppress(EngineError, EngineUnreachable):
            await self.engine.post(f"/containers/{self.name}/kill", signal=signal)

    async def remove(self) -> None:
        """Kill it if need be and remove it with all it wrote. Harmless to repeat. Raises what keeps it from that."""
        if self._attached is not None:
            self._attached.close()
        for attempt in range(_REMOVE_TRIES):
            try:
                await self.engine.delete(f"/containers/{self.name}", force="true", v="true")
            except EngineError as error:
                if error.status == 404:
                    return
                # 409: its removal is under way. 500: a mount was still busy.
                if attempt == _REMOVE_TRIES - 1:
                    raise
            except EngineUnreachable:
                if attempt == _REMOVE_TRIES - 1:
                    raise
            else:
                return
            await asyncio.sleep(_REMOVE_PAUSE_S)
