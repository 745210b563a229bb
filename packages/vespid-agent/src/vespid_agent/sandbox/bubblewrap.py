"""The bubblewrap backend: a task in namespaces of its own, with a read-only system and two places to write.

It sees /usr and what of /etc a program needs to start, its /work and /tmp, its own processes, and a network of its own
without any way out unless the node asks for one. The agent's environment and home, other tasks and their processes are
not there. System calls that no ordinary program needs are refused. Started by root it runs as `nobody`, so that not
even a hole in the namespaces is root.
"""

import asyncio
import contextlib
import os
import resource
import secrets
import shutil
import stat
import sys
import tempfile
from pathlib import Path

from vespid_agent.sandbox import process_tree, seccomp, stage, supervise
from vespid_agent.sandbox.cgroup import Cgroup, Cgroups
from vespid_agent.sandbox.ending import to_the_end
from vespid_agent.sandbox.launch import Launch, encoded
from vespid_agent.sandbox.limits import Limits
from vespid_agent.sandbox.script import SCRIPT_DESCRIPTOR, SCRIPT_PATH, memory_file
from vespid_agent.sandbox.task import (
    Availability,
    Network,
    OnOutput,
    ProcessMark,
    SandboxError,
    ShellTask,
    Started,
    TaskResult,
    check_task,
)

assert sys.platform == "linux"

DEFAULT_KILL_GRACE_MS = 500
_TRY_TIMEOUT_MS = 10_000
_PRLIMIT = "/usr/bin/prlimit"

_NOBODY = 65534
# The one inside: any number but 0, so that programs do not take themselves for root.
_INNER_ID = 1000

_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
_ROOT_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# What programs read to start, to name things and to trust certificates. No passwd, no keys, no host names.
_ETC = (
    "alternatives",
    "ca-certificates",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "pki/ca-trust/extracted",
    "pki/tls/certs",
    "protocols",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
)
_ETC_WITH_NETWORK = ("resolv.conf", "hosts", "gai.conf")

_ARGS_DESCRIPTOR = 4
_PASSWD_DESCRIPTOR = 5
_GROUP_DESCRIPTOR = 6
_HOSTS_DESCRIPTOR = 7
_FILTER_DESCRIPTOR = 8
_ETC_DESCRIPTOR = 9  # and up
# A larger one is worth a mount.
_COPIED_BYTES = 256 * 1024
_PASSWD = b"sandbox:x:%d:%d::/work:/bin/sh\nnobody:x:%d:%d::/:/usr/sbin/nologin\n" % (*[_INNER_ID] * 2, *[_NOBODY] * 2)
_GROUP = b"sandbox:x:%d:\nnogroup:x:%d:\n" % (_INNER_ID, _NOBODY)
_HOSTS = b"127.0.0.1 localhost sandbox\n::1 localhost\n"
_NO_FILTER = f"there is no filter of system calls for this machine, only for {' and '.join(seccomp.MACHINES)}"


class BubblewrapBackend:
    name = "bubblewrap"

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        network_default: Network = "none",
        kill_grace_ms: int = DEFAULT_KILL_GRACE_MS,
        cgroups: Cgroups | None = None,
        file_bytes: int = 0,
    ) -> None:
        """`file_bytes`: the largest file that a task may write; 0: no limit."""
        self._limits = limits or Limits()
        self._network_default = network_default
        self._kill_grace_ms = kill_grace_ms
        self._cgroups = cgroups
        self._file_bytes = file_bytes
        self._availability: Availability | None = None
        # Groups whose removal failed: tried again before the next task.
        self._left: frozenset[Cgroup] = frozenset()

    async def available(self) -> Availability:
        """Tries it once for real: whether namespaces are allowed cannot be told from settings alone."""
        if self._availability is None:
            self._availability = await self._try()
        return self._availability

    async def run(self, task: ShellTask, on_output: OnOutput, started: Started) -> TaskResult:
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise SandboxError("SANDBOX_UNAVAILABLE:bubblewrap", "there is no `bwrap` in PATH: install bubblewrap")
        check_task(task)
        system_calls = seccomp.program()
        if system_calls is None:
            raise SandboxError("SANDBOX_UNAVAILABLE:bubblewrap", _NO_FILTER)
        for left in self._left:
            await self._remove(left)
        token = secrets.token_hex(16)
        group = self._make_group(token)
        opened: dict[int, int] = {}
        try:
            inside = [*self._nproc_limit(group), f"/bin/{task.shell}", SCRIPT_PATH]
            copied = _open_small_files()
            opened |= {_ETC_DESCRIPTOR + at: descriptor for at, descriptor in enumerate(copied.values())}
            arguments = self._arguments(task, token, list(copied))
            contents = {
                SCRIPT_DESCRIPTOR: task.script.encode("utf-8", "replace"),
                _ARGS_DESCRIPTOR: "".join(f"{argument}\0" for argument in arguments).encode("utf-8", "replace"),
                _PASSWD_DESCRIPTOR: _PASSWD,
                _GROUP_DESCRIPTOR: _GROUP,
                _HOSTS_DESCRIPTOR: _HOSTS,
                _FILTER_DESCRIPTOR: system_calls,
            }
            for number, content in contents.items():
                opened[number] = memory_file("sandbox", content)
            launch = Launch(
                argv=[os.fsencode(argument) for argument in (bwrap, "--args", str(_ARGS_DESCRIPTOR), "--", *inside)],
                # Empty on purpose: bwrap itself runs outside, and LD_PRELOAD of a task must not reach it.
                env=encoded({process_tree.TOKEN_VARIABLE: token}),
                cwd=os.fsencode(task.workdir),
                kill_grace_ms=self._kill_grace_ms,
                descriptors=opened,
                limits=self._rlimits(group),
                cgroup_procs=[os.fsencode(procs) for procs in group.procs] if group is not None else [],
                as_nobody=os.geteuid() == 0,
                spare_root=True,
            )
            return await supervise.supervise(launch, task, self.name, token, on_output, started)
        finally:
            for descriptor in opened.values():
                os.close(descriptor)
            if group is not None:
                await to_the_end(self._remove(group))

    async def root_of(self, mark: ProcessMark, workdir: Path) -> int | None:
        return mark.pid or None

    async def sweep(self) -> None:
        """Every process of a task has its mark, and nothing else is left of one."""

    async def close(self) -> None:
        """Nothing is held between tasks."""

    async def reap(self, mark: ProcessMark) -> None:
        await supervise.reap(mark, self._kill_grace_ms)
        await self._remove(self._groups().existing(mark.token))

    async def _remove(self, group: Cgroup) -> None:
        try:
            await group.remove()
        except OSError:
            self._left |= {group}
        else:
            self._left -= {group}

    def _groups(self) -> Cgroups:
        if self._cgroups is None:
            self._cgroups = Cgroups.detect()
        return self._cgroups

    def _make_group(self, token: str) -> Cgroup | None:
        groups = self._groups()
        if not groups.controllers:
            return None
        try:
            return groups.create(token, self._limits)
        except OSError as refused:
            message = f"cannot make a cgroup: {refused.strerror}"
            raise SandboxError("SANDBOX_UNAVAILABLE:bubblewrap", message, retryable=True) from refused

    def _rlimits(self, group: Cgroup | None) -> dict[int, int]:
        limits = {resource.RLIMIT_CORE: 0}
        if self._file_bytes:
            limits[resource.RLIMIT_FSIZE] = self._file_bytes
        if group is None or "memory" not in self._groups().controllers:
            # Per process and of address space: coarser than a cgroup, and all there is without one.
            limits[resource.RLIMIT_AS] = self._limits.memory_mb * 1024 * 1024
        return limits

    def _nproc_limit(self, group: Cgroup | None) -> list[str]:
        """Counted per user namespace, so it must be set inside; outside it would count all tasks together."""
        if group is not None and "pids" in self._groups().controllers:
            return []
        return [_PRLIMIT, f"--nproc={self._limits.pids}", "--"]

    def _arguments(self, task: ShellTask, token: str, copied: list[str]) -> list[str]:
        """`copied`: what of /etc is given as open files, from `_ETC_DESCRIPTOR` up."""
        network = task.network or self._network_default
        env = {"PATH": _PATH, "HOME": "/work", "TMPDIR": "/tmp", "USER": "sandbox", "LANG": "C.UTF-8"}  # noqa: S108
        env |= dict(task.env) | {process_tree.TOKEN_VARIABLE: token}
        size = str(self._limits.memory_mb * 1024 * 1024)
        arguments = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        arguments += [] if network == "enabled" else ["--unshare-net"]
        arguments += ["--disable-userns", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
        arguments += ["--seccomp", str(_FILTER_DESCRIPTOR)]
        arguments += ["--uid", str(_INNER_ID), "--gid", str(_INNER_ID), "--hostname", "sandbox", "--clearenv"]
        for name, value in env.items():
            arguments += ["--setenv", name, value]
        arguments += self._file_system(network, copied)
        arguments += ["--proc", "/proc", "--dev", "/dev"]
        arguments += ["--size", size, "--tmpfs", "/dev/shm", "--perms", "1777", "--size", size, "--tmpfs", "/tmp"]  # noqa: S108
        workdir = stage.FOLDER if os.geteuid() == 0 else str(task.workdir)
        arguments += ["--bind", workdir, "/work", "--chdir", "/work"]
        # Without this the tmpfs that holds the mount points could be filled.
        return [*arguments, "--remount-ro", "/dev", "--remount-ro", "/"]

    @staticmethod
    def _file_system(network: Network, copied: list[str]) -> list[str]:
        """Files are copied in, not mounted: a mount costs bwrap more, and what holds them is read-only in the end."""
        arguments = ["--ro-bind", "/usr", "/usr"]
        for name in _ROOT_LINKS:
            path = Path("/") / name
            if path.is_symlink():
                arguments += ["--symlink", str(path.readlink()), str(path)]
            elif path.is_dir():
                arguments += ["--ro-bind", str(path), str(path)]
        for name in (*_ETC, *(_ETC_WITH_NETWORK if network == "enabled" else ())):
            if name not in copied:
                arguments += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
        files = {name: _ETC_DESCRIPTOR + at for at, name in enumerate(copied)}
        files |= {"passwd": _PASSWD_DESCRIPTOR, "group": _GROUP_DESCRIPTOR}
        if network == "none":
            files["hosts"] = _HOSTS_DESCRIPTOR
        for name, descriptor in files.items():
            arguments += ["--perms", "0444", "--file", str(descriptor), f"/etc/{name}"]
        return arguments

    async def _try(self) -> Availability:
        if shutil.which("bwrap") is None:
            return Availability(False, "there is no `bwrap` in PATH: install the package bubblewrap")
        if seccomp.program() is None:
            return Availability(False, _NO_FILTER)
        groups = self._groups()
        if "pids" not in groups.controllers and shutil.which(_PRLIMIT) is None:
            return Availability(False, "neither a cgroup nor /usr/bin/prlimit to limit processes: install util-linux")
        with tempfile.TemporaryDirectory(prefix="vespid-try-") as folder:
            probe = ShellTask(
                request_id="probe",
                run_id="probe",
                node_id="probe",
                script="true",
                workdir=Path(folder),
                timeout_ms=_TRY_TIMEOUT_MS,
                output_max_chars=2000,
                network="none",
            )
            try:
                result = await self.run(probe, _ignore_output, _ignore_mark)
            except SandboxError as failed:
                return Availability(False, failed.message + _hint())
        if result.exit_code != 0:
            said = result.stderr.strip() or f"exit status {result.exit_code}"
            return Availability(False, f"a trial run failed: {said}{_hint()}")
        missing = sorted({"memory", "pids", "cpu"} - groups.controllers)
        notes = [f"limits by cgroup v{groups.version}: {', '.join(sorted(groups.controllers)) or 'none'}"]
        if missing:
            notes.append(f"no cgroup for {', '.join(missing)}: memory and processes by rlimit, CPU not limited")
        if groups.obstacle is not None:
            notes.append(f"control groups of the agent's own: {groups.obstacle}")
        return Availability(True, notes=tuple(notes))


def _open_small_files() -> dict[str, int]:
    """Those of `_ETC` that are small files which anybody may read, opened, by name; the caller closes them."""
    found: dict[str, int] = {}
    for name in _ETC:
        with contextlib.suppress(OSError):
            descriptor = os.open(f"/etc/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            seen = os.fstat(descriptor)
            if stat.S_ISREG(seen.st_mode) and seen.st_mode & stat.S_IROTH and seen.st_size <= _COPIED_BYTES:
                found[name] = descriptor
            else:
                os.close(descriptor)
    return found


def _ignore_output(stream: str, text: str, offset: int) -> None:
    """The trial's output is in its result."""


async def _ignore_mark(mark: ProcessMark) -> None:
    await asyncio.sleep(0)


def _hint() -> str:
    """What usually stands in the way, as far as the kernel tells."""
    for setting, bad, advice in (
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "set kernel.unprivileged_userns_clone=1"),
        ("/proc/sys/user/max_user_namespaces", "0", "set user.max_user_namespaces above 0"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "allow user namespaces for bwrap in AppArmor (kernel.apparmor_restrict_unprivileged_userns)",
        ),
    ):
        path = Path(setting)
        if path.exists() and path.read_text().strip() == bad:
            return f"; {advice}"
    return ""
