"""The host backend on Windows: each task is a job object that the kernel ends when the agent's handle to it closes.

The shell is created suspended, put into the job and then resumed, so nothing it starts is ever outside. There is no
SIGTERM for such a tree: at timeout and cancel it is ended at once. The agent's own death, whichever way, closes the
handle: that is why a mark needs no reaping.

The shell is `sh` or `bash` of Git for Windows or MSYS2; the `bash.exe` of Windows itself runs tasks in a virtual
machine that no job reaches, and is passed over.
"""

import asyncio
import contextlib
import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import PureWindowsPath

from vespid_agent.sandbox import piped
from vespid_agent.sandbox.host_part import Launch
from vespid_agent.sandbox.task import OnOutput, ProcessMark, Shell, ShellTask, Started, TaskResult

MISSING_SHELL = (
    "there is no POSIX shell: install Git for Windows (https://gitforwindows.org), or put the folder of an `sh.exe` "
    "into PATH; then start the agent again. The `bash.exe` of Windows itself does not do"
)

# What a program of Windows needs to start at all, and to find its user's files.
PASSED = (
    *("PATH", "PATHEXT", "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "TEMP", "TMP", "NUMBER_OF_PROCESSORS"),
    *("USERNAME", "USERPROFILE", "HOMEDRIVE", "HOMEPATH", "HOME", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA"),
    *("PROGRAMFILES", "PROGRAMFILES(X86)", "LANG", "LC_ALL", "TZ"),
)

CREATE_SUSPENDED = 0x0000_0004
CREATE_NO_WINDOW = 0x0800_0000

EXTENDED_LIMIT_INFORMATION = 9  # JobObjectExtendedLimitInformation
LIMIT_DIE_ON_UNHANDLED_EXCEPTION = 0x0000_0400
LIMIT_KILL_ON_JOB_CLOSE = 0x0000_2000
# Neither BREAKAWAY_OK (0x800) nor SILENT_BREAKAWAY_OK (0x1000): nothing leaves the job.
LIMIT_FLAGS = LIMIT_KILL_ON_JOB_CLOSE | LIMIT_DIE_ON_UNHANDLED_EXCEPTION

BASIC_ACCOUNTING_INFORMATION = 1  # JobObjectBasicAccountingInformation
PROCESS_SET_QUOTA_TERMINATE_SUSPEND = 0x0100 | 0x0001 | 0x0800

# What the processes of an ended job report; the result of a task never shows it, for its time was up.
_ENDED = 1
_POLL_S = 0.01
_END_PATIENCE_S = 10.0


class BasicLimitInformation(ctypes.Structure):
    """JOBOBJECT_BASIC_LIMIT_INFORMATION"""

    _fields_ = (
        ("PerProcessUserTimeLimit", ctypes.c_int64),
        ("PerJobUserTimeLimit", ctypes.c_int64),
        ("LimitFlags", ctypes.c_uint32),
        ("MinimumWorkingSetSize", ctypes.c_size_t),
        ("MaximumWorkingSetSize", ctypes.c_size_t),
        ("ActiveProcessLimit", ctypes.c_uint32),
        ("Affinity", ctypes.c_size_t),
        ("PriorityClass", ctypes.c_uint32),
        ("SchedulingClass", ctypes.c_uint32),
    )


class IoCounters(ctypes.Structure):
    """IO_COUNTERS"""

    _fields_ = (
        ("ReadOperationCount", ctypes.c_uint64),
        ("WriteOperationCount", ctypes.c_uint64),
        ("OtherOperationCount", ctypes.c_uint64),
        ("ReadTransferCount", ctypes.c_uint64),
        ("WriteTransferCount", ctypes.c_uint64),
        ("OtherTransferCount", ctypes.c_uint64),
    )


class ExtendedLimitInformation(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION"""

    _fields_ = (
        ("BasicLimitInformation", BasicLimitInformation),
        ("IoInfo", IoCounters),
        ("ProcessMemoryLimit", ctypes.c_size_t),
        ("JobMemoryLimit", ctypes.c_size_t),
        ("PeakProcessMemoryUsed", ctypes.c_size_t),
        ("PeakJobMemoryUsed", ctypes.c_size_t),
    )


class BasicAccountingInformation(ctypes.Structure):
    """JOBOBJECT_BASIC_ACCOUNTING_INFORMATION"""

    _fields_ = (
        ("TotalUserTime", ctypes.c_int64),
        ("TotalKernelTime", ctypes.c_int64),
        ("ThisPeriodTotalUserTime", ctypes.c_int64),
        ("ThisPeriodTotalKernelTime", ctypes.c_int64),
        ("TotalPageFaultCount", ctypes.c_uint32),
        ("TotalProcesses", ctypes.c_uint32),
        ("ActiveProcesses", ctypes.c_uint32),
        ("TotalTerminatedProcesses", ctypes.c_uint32),
    )


def limits() -> ExtendedLimitInformation:
    information = ExtendedLimitInformation()
    information.BasicLimitInformation.LimitFlags = LIMIT_FLAGS
    return information


def environment(agent: Mapping[str, str], task: Mapping[str, str]) -> dict[str, str]:
    """Names are the same in any case there, so the agent's `Path` must not stand beside the task's `PATH`."""
    own = {name.upper() for name in task}
    passed = {name: value for name, value in agent.items() if name.upper() in PASSED and name.upper() not in own}
    return passed | dict(task)


def with_tools(env: Mapping[str, str], shell: str) -> dict[str, str]:
    """`env` with the shell's own folder last in its PATH: `cat`, which the gate needs, lies beside `sh`."""
    folder = str(PureWindowsPath(shell).parent)
    name = next((name for name in env if name.upper() == "PATH"), "PATH")
    return {**env, name: f"{env[name]};{folder}" if env.get(name) else folder}


def find_shell(shell: Shell, path: str, which: Callable[[str, str], str | None]) -> str | None:
    """In PATH, else beside the `git` that is in PATH: its installer puts only `cmd\\git.exe` there."""
    found = which(shell, path)
    if found is not None and not belongs_to_windows(found):
        return found
    git = which("git", path)
    if git is None:
        return None
    root = PureWindowsPath(git).parent.parent
    # `usr\bin` and not `bin`, whose programs are only starters of those here.
    return which(shell, f"{root / 'usr' / 'bin'};{root.parent / 'usr' / 'bin'}")


def belongs_to_windows(path: str) -> bool:
    """Whether this is the starter of the Linux subsystem, or the store's advertisement for it."""
    folders = {part.lower() for part in PureWindowsPath(path).parts}
    return bool(folders & {"system32", "sysnative", "windowsapps"})


if sys.platform == "win32":

    class JobHost:
        notes: tuple[str, ...] = ("a task is ended at once, without a signal before",)

        def missing(self) -> str | None:
            return None if self.find_shell("sh", os.environ.get("PATH", "")) else MISSING_SHELL

        def environment(self, task: Mapping[str, str]) -> dict[str, str]:
            return environment(os.environ, task)

        def find_shell(self, shell: Shell, path: str) -> str | None:
            def which(name: str, where: str) -> str | None:
                return shutil.which(name, path=where)

            return find_shell(shell, path, which) or find_shell(shell, os.environ.get("PATH", ""), which)

        async def run(self, launch: Launch, task: ShellTask, on_output: OnOutput, started: Started) -> TaskResult:
            async def begin(pipes: piped.Pipes) -> piped.Tree:
                return await _begin(pipes, launch, task)

            return await piped.supervise(begin, launch.token, task, on_output, started)

        async def reap(self, mark: ProcessMark, kill_grace_ms: int) -> None:
            """The kernel did it when the agent's handle closed."""

    class _JobTree:
        def __init__(self, mark: ProcessMark, job: int) -> None:
            self.mark = mark
            self._job = job

        async def end(self) -> list[int]:
            loop = asyncio.get_running_loop()
            give_up = loop.time() + _END_PATIENCE_S
            try:
                _checked(_kernel32.TerminateJobObject(self._job, _ENDED))
                while _active(self._job) and loop.time() < give_up:  # noqa: ASYNC110 - a job tells nobody
                    await asyncio.sleep(_POLL_S)
                return [self.mark.pid] if _active(self._job) else []
            finally:
                _kernel32.CloseHandle(self._job)

    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _ntdll = ctypes.WinDLL("ntdll")
    _kernel32.CreateJobObjectW.restype = ctypes.c_void_p
    _kernel32.CreateJobObjectW.argtypes = [ctypes.c_void_p, ctypes.c_wchar_p]
    _kernel32.OpenProcess.restype = ctypes.c_void_p
    _kernel32.OpenProcess.argtypes = [ctypes.c_uint32, ctypes.c_int, ctypes.c_uint32]
    _kernel32.SetInformationJobObject.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32]
    _kernel32.QueryInformationJobObject.argtypes = [
        *(ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
    ]
    _kernel32.AssignProcessToJobObject.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    _kernel32.TerminateJobObject.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    _kernel32.CloseHandle.argtypes = [ctypes.c_void_p]
    _ntdll.NtResumeProcess.argtypes = [ctypes.c_void_p]
    _ntdll.NtResumeProcess.restype = ctypes.c_int32

    async def _begin(pipes: piped.Pipes, launch: Launch, task: ShellTask) -> _JobTree:
        """Raises OSError, with nothing left."""
        job = _make_job()
        try:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.subprocess_exec(
                lambda: pipes,
                *(launch.shell, "-c", piped.GATE, task.shell, launch.token),
                env=with_tools(launch.env, launch.shell),
                cwd=task.workdir,
                creationflags=CREATE_SUSPENDED | CREATE_NO_WINDOW,
            )
            try:
                _enter(job, transport.get_pid())
            except OSError:
                with contextlib.suppress(ProcessLookupError):
                    transport.kill()
                await pipes.close()
                raise
        except BaseException:
            _kernel32.CloseHandle(job)
            raise
        return _JobTree(ProcessMark("host", transport.get_pid(), 0, "", launch.token), job)

    def _make_job() -> int:
        job = _checked(_kernel32.CreateJobObjectW(None, None))
        information = limits()
        try:
            size = ctypes.sizeof(information)
            _checked(
                _kernel32.SetInformationJobObject(job, EXTENDED_LIMIT_INFORMATION, ctypes.byref(information), size)
            )
        except OSError:
            _kernel32.CloseHandle(job)
            raise
        return job

    def _enter(job: int, pid: int) -> None:
        """Put the suspended process into the job, then let it run. Its pid is its own: we hold a handle to it."""
        process = _checked(_kernel32.OpenProcess(PROCESS_SET_QUOTA_TERMINATE_SUSPEND, 0, pid))
        try:
            _checked(_kernel32.AssignProcessToJobObject(job, process))
            status = _ntdll.NtResumeProcess(process)
            if status < 0:
                raise OSError(f"NtResumeProcess: {status & 0xFFFF_FFFF:#010x}")
        finally:
            _kernel32.CloseHandle(process)

    def _active(job: int) -> int:
        found = BasicAccountingInformation()
        size = ctypes.sizeof(found)
        _checked(
            _kernel32.QueryInformationJobObject(job, BASIC_ACCOUNTING_INFORMATION, ctypes.byref(found), size, None)
        )
        return int(found.ActiveProcesses)

    def _checked(value: int | None) -> int:
        """Nought is how these functions fail."""
        if not value:
            raise ctypes.WinError(ctypes.get_last_error())
        return value
