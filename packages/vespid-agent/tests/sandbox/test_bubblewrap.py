"""The bubblewrap backend: what a task cannot see, cannot reach and cannot outlive.

Tests that fork drop to an ordinary user where the suite runs as root, so both ways are tried by one run.
"""

import asyncio
import codecs
import os
import pickle
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from vespid_agent.sandbox import bubblewrap as bubblewrap_module
from vespid_agent.sandbox.bubblewrap import BubblewrapBackend
from vespid_agent.sandbox.cgroup import Cgroups
from vespid_agent.sandbox.limits import Limits
from vespid_agent.sandbox.quota import Quota
from vespid_agent.sandbox.task import Availability, QuotaExceeded, SandboxError, ShellTask, TaskResult
from vespid_agent.sandbox.workdir import Workdirs

from .conftest import MakeTask, Observed, nothing_outlives, own_address, processes_saying

_NOBODY = 65534


@pytest.fixture
def bubblewrap() -> Observed:
    return Observed(BubblewrapBackend(limits=Limits(memory_mb=128, cpus=1, pids=64), kill_grace_ms=200))


async def test_is_available_here_and_says_how_it_limits(bubblewrap: Observed) -> None:
    state = await bubblewrap.backend.available()
    assert state.ok, state.reason
    assert any("cgroup" in note for note in state.notes)


async def test_missing_program_is_told_precisely(bubblewrap: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert await bubblewrap.backend.available() == Availability(
        False, "there is no `bwrap` in PATH: install the package bubblewrap"
    )


async def test_output_exit_code_and_files_in_work(bubblewrap: Observed, make_task: MakeTask) -> None:
    task = make_task("pwd; echo kept > file; echo err >&2; exit 5")
    result = await bubblewrap.run(task)
    assert (result.exit_code, result.stdout, result.stderr) == (5, "/work\n", "err\n")
    assert (task.workdir / "file").read_text() == "kept\n"


@pytest.mark.promise("P11")
async def test_host_files_are_not_there(bubblewrap: Observed, make_task: MakeTask) -> None:
    with tempfile.NamedTemporaryFile("w", prefix="vespid-host-", suffix=".secret") as file:
        file.write("host-secret-text")
        file.flush()
        os.chmod(file.name, 0o644)
        places = f"{file.name} /etc/shadow /etc/ssh /root /home /var /run /opt /srv /sys /proc/1/root{file.name}"
        result = await bubblewrap.run(make_task(f"for p in {places}; do cat $p 2>&1; ls -d $p 2>/dev/null; done"))
    assert "host-secret-text" not in result.stdout
    for place in places.split():
        assert f"\n{place}\n" not in f"\n{result.stdout}"


@pytest.mark.promise("P11")
async def test_only_work_and_tmp_can_be_written(bubblewrap: Observed, make_task: MakeTask) -> None:
    places = "/ /usr /usr/bin /etc /dev /proc /proc/sys/kernel /bin /work /tmp /dev/shm"
    script = f'for p in {places}; do (echo x > "$p/probe") 2>/dev/null && echo "$p"; done; true'
    assert (await bubblewrap.run(make_task(script))).stdout.split() == ["/work", "/tmp", "/dev/shm"]


@pytest.mark.promise("P11")
async def test_files_that_are_copied_in_can_be_read_and_not_changed(bubblewrap: Observed, make_task: MakeTask) -> None:
    script = (
        "for f in passwd group hosts nsswitch.conf ld.so.cache; do "
        "cat /etc/$f >/dev/null && (echo x >> /etc/$f || chmod u+w /etc/$f || mv /etc/$f /etc/y || rm -f /etc/$f) "
        "2>/dev/null && echo changed $f; done; wc -c < /etc/nsswitch.conf; touch -c /etc/passwd 2>/dev/null || echo end"
    )
    result = await bubblewrap.run(make_task(script))
    assert result.stdout.split() == [str(Path("/etc/nsswitch.conf").stat().st_size), "end"], result


async def test_a_file_of_the_system_that_is_not_for_everybody_is_not_copied_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, mode in (("open", 0o644), ("closed", 0o640)):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(mode)
    (tmp_path / "large").write_bytes(b"x" * 300_000)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(bubblewrap_module, "_ETC", [f"..{tmp_path}/{name}" for name in os.listdir(tmp_path)])
    opened = bubblewrap_module._open_small_files()
    for descriptor in opened.values():
        os.close(descriptor)
    assert list(opened) == [f"..{tmp_path}/open"]


@pytest.mark.promise("P11")
async def test_other_processes_are_neither_seen_nor_signalled(bubblewrap: Observed, make_task: MakeTask) -> None:
    script = f"ls /proc | grep -c '^[0-9]'; kill -0 {os.getpid()} 2>/dev/null && echo reached; true"
    result = await bubblewrap.run(make_task(script))
    count, *rest = result.stdout.split()
    assert int(count) < 8
    assert rest == []


@pytest.mark.promise("P11")
async def test_two_tasks_do_not_see_each_other(bubblewrap: Observed, make_task: MakeTask) -> None:
    first = make_task("echo mine > /tmp/secret; echo ready; sleep 60", node="first", timeout_ms=20_000)
    running = await bubblewrap.begin(first, within_s=10)
    second = await bubblewrap.run(make_task("ls -A /tmp; ls /work; pgrep sleep; cat /proc/*/cmdline", node="second"))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert "secret" not in second.stdout
    assert "sleep 60" not in second.stdout.replace("\0", " ").replace("�", " ")


@pytest.mark.promise("P11")
async def test_network_none_reaches_neither_loopback_nor_abstract_sockets(
    bubblewrap: Observed, make_task: MakeTask
) -> None:
    name = f"vespid-{uuid.uuid4().hex}"
    with socket.create_server(("0.0.0.0", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0{name}")
        abstract.listen()
        port = server.getsockname()[1]
        script = f"""
(exec 9<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null && echo loopback
(exec 9<>/dev/tcp/{own_address()}/{port}) 2>/dev/null && echo host
(exec 9<>/dev/tcp/1.1.1.1/53) 2>/dev/null && echo outside
cat /proc/net/unix | grep -c {name}
cat /proc/net/dev | tail -n +3 | cut -d: -f1
"""
        none = await bubblewrap.run(make_task(script, shell="bash", network="none"))
        unsaid = await bubblewrap.run(make_task(script, shell="bash"))
        enabled = await bubblewrap.run(make_task(script, shell="bash", network="enabled"))
    assert none.stdout.split() == ["0", "lo"]
    assert unsaid.stdout.split() == ["0", "lo"]
    assert enabled.stdout.split()[0] == "loopback"


@pytest.mark.promise("P11")
async def test_task_has_no_capability_and_gains_none(bubblewrap: Observed, make_task: MakeTask) -> None:
    script = """
grep -E 'CapEff|CapPrm|CapBnd|NoNewPrivs' /proc/self/status
unshare -U true 2>/dev/null && echo userns
unshare -m true 2>/dev/null && echo mountns
mount -t tmpfs none /tmp 2>/dev/null && echo mounted
mknod /work/null c 1 3 2>/dev/null && echo device
chroot / true 2>/dev/null && echo chroot
ls /dev | grep -E '^(sd|vd|nvme|mem|kmsg|fuse)' ; true
"""
    result = await bubblewrap.run(make_task(script))
    lines = [line.split() for line in result.stdout.splitlines()]
    none = "0" * 16
    assert lines == [["CapPrm:", none], ["CapEff:", none], ["CapBnd:", none], ["NoNewPrivs:", "1"]]


@pytest.mark.promise("P11")
@pytest.mark.needs_root
async def test_started_by_root_it_is_not_root_outside(bubblewrap: Observed, make_task: MakeTask) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: says what becomes of it")
    sleep = f"sleep {600 + uuid.uuid4().int % 10**6 / 10**7:.7f}"
    owners: set[int] = set()

    async def note_owner() -> None:
        async with asyncio.timeout(10):
            while not (found := [pid for pid in processes_saying(sleep) if _command(pid) == "sleep"]):
                await asyncio.sleep(0.01)
        owners.update(os.stat(f"/proc/{pid}").st_uid for pid in found)

    watching = asyncio.ensure_future(note_owner())
    await bubblewrap.run(make_task(sleep, timeout_ms=1000))
    await watching
    assert owners == {_NOBODY}


@pytest.mark.promise("P11")
async def test_loader_variables_of_a_task_do_not_reach_the_program_outside(
    bubblewrap: Observed, make_task: MakeTask
) -> None:
    # A library that cannot be loaded makes the loader complain on stderr: outside, it would do so before bwrap starts.
    task = make_task("echo ran", env={"LD_PRELOAD": "/work/evil.so"})
    result = await bubblewrap.run(task)
    assert result.stdout == "ran\n"
    complaints = result.stderr.count("/work/evil.so")
    assert complaints == 1  # the shell inside; bwrap would have been another


async def test_environment_is_in_no_process_list(bubblewrap: Observed, make_task: MakeTask) -> None:
    task = make_task("cat /proc/1/cmdline; printenv TOKEN", env={"TOKEN": "tok-123456"})
    result = await bubblewrap.run(task)
    assert result.stdout.count("tok-123456") == 1


@pytest.mark.promise("P11")
async def test_fork_bomb_stays_within_its_number_of_processes(bubblewrap: Observed, make_task: MakeTask) -> None:
    marker = f"bomb-{uuid.uuid4().hex}"
    script = f"b() {{ b {marker} | b {marker} & wait; }}; b 2>/dev/null; sleep 30"
    result = await bubblewrap.run(make_task(script, shell="bash", timeout_ms=1500))
    assert result.timed_out or result.exit_code != 0
    assert processes_saying(marker) == []


@pytest.mark.promise("P11")
async def test_memory_beyond_the_limit_is_not_had(bubblewrap: Observed, make_task: MakeTask) -> None:
    result = await bubblewrap.run(
        make_task("head -c 400M /dev/zero | tail -c 390M | wc -c; echo end", timeout_ms=20_000)
    )
    assert str(390 * 1024 * 1024) not in result.stdout


@pytest.mark.promise("P11")
async def test_timeout_cancel_and_orphans_leave_nothing(bubblewrap: Observed, make_task: MakeTask) -> None:
    await nothing_outlives(bubblewrap, make_task, setsid="setsid", timeout_ms=400, within_s=10)


async def test_sigterm_reaches_the_script_before_it_is_killed(bubblewrap: Observed, make_task: MakeTask) -> None:
    result = await bubblewrap.run(make_task("trap 'echo cleaned; exit 0' TERM; sleep 60 & wait", timeout_ms=400))
    assert (result.timed_out, result.stdout) == (True, "cleaned\n")


async def test_cgroups_are_removed_again(make_task: MakeTask) -> None:
    groups = Cgroups.detect()
    observed = Observed(BubblewrapBackend(cgroups=groups))
    await observed.run(make_task("true"))
    left = [path for path in groups.existing(observed.marks[0].token).directories if path.exists()]
    assert left == []


@pytest.mark.promise("P11")
async def test_ordinary_user_gets_the_same_walls() -> None:
    script = """
id -u; cat /etc/shadow 2>&1 | head -1; ls /home 2>&1
cat /proc/net/dev | tail -n +3 | cut -d: -f1
i=0; while [ $i -lt 100 ]; do sleep 5 & i=$((i+1)); done 2>/dev/null; echo forked all
"""
    result = _as_ordinary_user(lambda folder: _run_in(folder, script))
    if isinstance(result, str):
        pytest.fail(result)
    lines = result.stdout.splitlines()
    assert lines[0] == "1000"
    assert "No such file" in lines[1]
    assert "No such file" in lines[2]
    assert lines[3].strip() == "lo"
    assert "forked all" not in result.stdout  # 64 processes, then the shell gives up


@pytest.mark.promise("P11")
async def test_ordinary_users_agent_sees_what_a_task_holds_without_a_name() -> None:
    result = _as_ordinary_user(_holds_too_much_in)
    if isinstance(result, str):
        pytest.fail(result)
    assert (result.exit_code, result.timed_out, result.stdout) == (None, False, "held\n")


async def test_unknown_shell_setup_is_a_sandbox_error(bubblewrap: Observed, make_task: MakeTask) -> None:
    task = make_task("true")
    task.workdir.rmdir()
    with pytest.raises(SandboxError) as failed:
        await bubblewrap.run(task)
    assert failed.value.code == "SANDBOX_UNAVAILABLE:bubblewrap"


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


async def _run_in(folder: Path, script: str) -> TaskResult | str:
    backend = BubblewrapBackend(limits=Limits(memory_mb=256, cpus=1, pids=64), kill_grace_ms=200)
    state = await backend.available()
    if not state.ok:
        return f"not available to an ordinary user: {state.reason}"
    task = ShellTask("r", "run", "n", script, Workdirs(folder).open("run", "n"), 10_000, 10_000)
    return await Observed(backend).run(task)


async def _holds_too_much_in(folder: Path) -> TaskResult | str:
    observed = Observed(BubblewrapBackend(limits=Limits(memory_mb=256, cpus=1, pids=64), kill_grace_ms=200))
    script = "exec 5>x; rm x; head -c 3000000 /dev/zero >&5; echo held; while :; do sleep 0.1; done"
    task = ShellTask("r", "run", "n", script, Workdirs(folder).open("run", "n"), 20_000, 10_000)

    async def root() -> int | None:
        return observed.marks[0].pid if observed.marks else None

    try:
        return f"ended as {await Quota(1).keep(task, observed.run, root)}"
    except QuotaExceeded as exceeded:
        return exceeded.result or "there is no result"


def _as_ordinary_user(work: Callable[[Path], object]) -> TaskResult | str:
    """The outcome of an asynchronous function in a process of another user (or of ours, when we are not root)."""
    folder = Path(tempfile.mkdtemp(prefix="vespid-user-"))
    read_end, write_end = os.pipe()
    if os.geteuid() == 0:
        os.chown(folder, _NOBODY, _NOBODY)
    codecs.lookup("ascii")  # loaded at its first use: by then the interpreter's own files may be out of reach
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(_NOBODY, _NOBODY, _NOBODY)
                os.setresuid(_NOBODY, _NOBODY, _NOBODY)
            asyncio.events._set_running_loop(None)
            outcome = asyncio.new_event_loop().run_until_complete(work(folder))  # type: ignore[arg-type]
        except BaseException as failure:  # noqa: BLE001 - a forked child must not return into pytest
            outcome = f"raised {failure!r}"
        os.write(write_end, pickle.dumps(outcome))
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as reader:
        outcome = reader.read()
    os.waitpid(child, 0)
    shutil.rmtree(folder)
    loaded: TaskResult | str = pickle.loads(outcome)
    return loaded
