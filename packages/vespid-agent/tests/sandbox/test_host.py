"""The host backend: exact results, exact ends, nothing left."""

import asyncio
import os
import signal
import uuid
from pathlib import Path

import pytest

from vespid_agent.sandbox import piped, process_list, process_tree
from vespid_agent.sandbox.host import HostBackend
from vespid_agent.sandbox.host_linux import KeptHost
from vespid_agent.sandbox.host_part import HostPart
from vespid_agent.sandbox.process_group import GroupHost
from vespid_agent.sandbox.task import ProcessMark, SandboxError, ShellTask
from vespid_runtime.redaction import Redactor

from .conftest import MakeTask, Observed, processes_saying


@pytest.fixture(params=[KeptHost, GroupHost])
def backend(request: pytest.FixtureRequest) -> HostBackend:
    """Linux' own part, and what other POSIX systems have, which runs here as well."""
    return HostBackend(kill_grace_ms=200, part=request.param())


@pytest.fixture
def host(backend: HostBackend) -> Observed:
    return Observed(backend)


@pytest.fixture
def kept() -> Observed:
    return Observed(HostBackend(kill_grace_ms=200, part=KeptHost()))


@pytest.fixture
def grouped() -> Observed:
    return Observed(HostBackend(kill_grace_ms=200, part=GroupHost()))


def unique_sleep() -> str:
    """A `sleep` that can be recognised in the process list: no two tests ask for the same number of seconds."""
    return f"sleep {600 + uuid.uuid4().int % 10**6 / 10**7:.7f}"


async def until_running(text: str) -> None:
    async with asyncio.timeout(10):
        while not processes_saying(text):
            await asyncio.sleep(0.01)


async def test_streams_exit_code_and_output_are_the_scripts_own(host: Observed, make_task: MakeTask) -> None:
    result = await host.run(make_task("echo out; echo err >&2; exit 7"))
    assert (result.exit_code, result.timed_out) == (7, False)
    assert (result.stdout, result.stderr) == ("out\n", "err\n")
    assert (result.stdout_truncated, result.stderr_truncated) == (False, False)
    assert sorted(host.chunks) == [("stderr", "err\n", 0), ("stdout", "out\n", 0)]


async def test_shell_ended_by_signal_gives_128_and_its_number(host: Observed, make_task: MakeTask) -> None:
    assert (await host.run(make_task("kill -9 $$"))).exit_code == 128 + signal.SIGKILL


async def test_bash_is_used_where_it_is_asked_for(host: Observed, make_task: MakeTask) -> None:
    assert (await host.run(make_task("a=(1 2 3); echo ${#a[@]}", shell="bash"))).stdout == "3\n"


async def test_output_arrives_while_the_task_still_runs(host: Observed, make_task: MakeTask) -> None:
    seen = asyncio.Event()
    task = make_task("echo first; read -r _ < gate; echo second")
    os.mkfifo(task.workdir / "gate")

    async def open_gate() -> None:
        await seen.wait()
        (task.workdir / "gate").write_text("go\n")

    async def started(mark: ProcessMark) -> None:
        host.marks.append(mark)

    async with asyncio.TaskGroup() as group:
        group.create_task(open_gate())
        running = group.create_task(host.backend.run(task, lambda *_: seen.set(), started))
    assert running.result().stdout == "first\nsecond\n"


async def test_environment_is_minimal_and_the_tasks_own(
    host: Observed, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_CREDENTIAL", "hunter2hunter2")
    monkeypatch.setenv("VESPID_AGENT_TOKEN", "hunter2hunter2")
    result = await host.run(make_task("env", env={"GREETING": "hello world"}))
    assert "hunter2" not in result.stdout
    assert "GREETING=hello world\n" in result.stdout
    names = {line.partition("=")[0] for line in result.stdout.splitlines()}
    allowed = {"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PWD", "OLDPWD", "SHLVL", "_"}
    assert names <= allowed | {"GREETING", process_tree.TOKEN_VARIABLE}


async def test_task_has_no_descriptor_but_its_own(kept: Observed, make_task: MakeTask) -> None:
    # Without a pipe in the script, which the shell would have open for a moment.
    result = await kept.run(make_task("ls -l /proc/$$/fd"))
    links = [line.split(" -> ") for line in result.stdout.splitlines() if " -> " in line]
    found = {link.rpartition(" ")[2]: what for link, what in links}
    assert {number: what.partition(":")[0] for number, what in found.items() if "/memfd" not in what} == {
        "0": "/dev/null",
        "1": "pipe",
        "2": "pipe",
    }


@pytest.mark.promise("P11")
async def test_task_of_a_killed_agent_that_ends_before_its_orphan_takes_it_along(
    kept: Observed, make_task: MakeTask
) -> None:
    sleep = unique_sleep()
    task = make_task(f"(env -i setsid sh -c 'trap \"\" TERM HUP; {sleep} & wait' &) ; sleep 600 & wait")
    agent = os.fork()
    if agent == 0:
        _agent_that_runs(kept.backend, task)
    await until_running(sleep)
    os.kill(agent, signal.SIGKILL)
    os.waitpid(agent, 0)
    await gone(sleep)


async def test_script_is_in_no_process_list(host: Observed, make_task: MakeTask) -> None:
    result = await host.run(make_task("marker=s3cr3t-in-script; cat /proc/$$/cmdline"))
    assert "s3cr3t" not in result.stdout


async def test_script_longer_than_an_argument_may_be_runs(host: Observed, make_task: MakeTask) -> None:
    script = "\n".join(["# filler " + "x" * 90] * 4000) + "\necho done"
    assert (await host.run(make_task(script))).stdout == "done\n"


async def test_network_none_is_refused(host: Observed, make_task: MakeTask) -> None:
    with pytest.raises(SandboxError) as refused:
        await host.run(make_task("true", network="none"))
    assert refused.value.code == "HOST_NETWORK_MODE_UNSUPPORTED"


async def test_invalid_utf8_and_nul_are_survived(host: Observed, make_task: MakeTask) -> None:
    result = await host.run(make_task(r"printf 'a\377b\000c\303'"))
    assert result.stdout == "a�b�c�"


async def test_missing_workdir_is_a_sandbox_error_that_says_so(host: Observed, make_task: MakeTask) -> None:
    task = make_task("true")
    task.workdir.rmdir()
    with pytest.raises(SandboxError, match="No such file") as failed:
        await host.run(task)
    assert failed.value.code == "SANDBOX_UNAVAILABLE:host"


@pytest.mark.promise("P11")
async def test_timeout_ends_a_task_that_ignores_sigterm(host: Observed, make_task: MakeTask) -> None:
    sleep = unique_sleep()
    task = make_task(f"trap '' TERM; echo before; {sleep} & while :; do wait; done", timeout_ms=300)
    result = await host.run(task)
    assert (result.exit_code, result.timed_out, result.stdout) == (None, True, "before\n")
    assert 300 <= result.duration_ms < 3000
    assert processes_saying(sleep) == []


@pytest.mark.promise("P11")
async def test_sigterm_comes_first_so_that_a_task_can_clean_up(host: Observed, make_task: MakeTask) -> None:
    task = make_task("trap 'echo cleaned; exit 0' TERM; echo up; sleep 60 & wait", timeout_ms=300)
    result = await host.run(task)
    assert result.timed_out
    assert result.stdout == "up\ncleaned\n"


@pytest.mark.promise("P11")
async def test_halted_task_is_ended_like_one_whose_time_is_up_and_has_its_result(
    host: Observed, make_task: MakeTask
) -> None:
    sleep = unique_sleep()
    halt = asyncio.get_running_loop().create_future()
    task = make_task(f"trap 'echo cleaned; exit 0' TERM; {sleep} & echo up; wait", halt=halt)
    running = await host.begin(task)
    halt.set_result(None)
    result = await asyncio.wait_for(running, 15)
    assert (result.timed_out, result.stdout) == (False, "up\ncleaned\n")
    assert processes_saying(sleep) == []


@pytest.mark.promise("P11")
async def test_double_forked_orphan_without_environment_does_not_outlive_the_task(
    kept: Observed, make_task: MakeTask
) -> None:
    sleep = unique_sleep()
    daemon = f"(env -i setsid sh -c 'trap \"\" TERM HUP; {sleep} & wait' >/dev/null 2>&1 &)"
    result = await kept.run(make_task(f"{daemon}; while ! pgrep -f '{sleep}' >/dev/null; do :; done; echo left"))
    assert (result.exit_code, result.stdout) == (0, "left\n")
    assert processes_saying(sleep) == []


@pytest.mark.promise("P11")
async def test_double_forked_orphan_of_another_session_does_not_outlive_the_task(
    host: Observed, make_task: MakeTask
) -> None:
    sleep = unique_sleep()
    daemon = f"(setsid sh -c 'trap \"\" TERM HUP; {sleep} & wait' >/dev/null 2>&1 &)"
    result = await host.run(make_task(f"{daemon}; while ! pgrep -f '{sleep}' >/dev/null; do :; done; echo left"))
    assert (result.exit_code, result.stdout) == (0, "left\n")
    assert processes_saying(sleep) == []


@pytest.mark.promise("P11")
async def test_child_of_another_session_without_environment_ends_with_the_time(
    grouped: Observed, make_task: MakeTask
) -> None:
    sleep = unique_sleep()
    result = await grouped.run(make_task(f"env -i setsid -w {sleep}", timeout_ms=500))
    assert result.timed_out
    assert processes_saying(sleep) == []


async def test_script_cut_short_by_the_death_of_the_agent_runs_nothing() -> None:
    for shell in ("sh", "bash"):
        gate = await asyncio.create_subprocess_exec(
            *(shell, "-c", piped.GATE, shell, "the-seal"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await gate.communicate(b"echo first\necho second\nthe-se")
        assert (said, gate.returncode) == (b"", 125)


async def test_script_finds_its_input_empty_and_no_arguments(host: Observed, make_task: MakeTask) -> None:
    for shell in ("sh", "bash"):
        result = await host.run(make_task('cat; echo "$#[$1]"; read -r x || echo end', shell=shell))
        assert (result.stdout, result.stderr) == ("0[]\nend\n", "")


@pytest.mark.parametrize("part", [KeptHost, GroupHost])
def test_tasks_run_on_uvloop_too(part: type[HostPart], make_task: MakeTask) -> None:
    uvloop = pytest.importorskip("uvloop")
    host = Observed(HostBackend(kill_grace_ms=200, part=part()))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ended = runner.run(host.run(make_task("echo out; echo err >&2; exit 7")))
        cut = runner.run(host.run(make_task("trap '' TERM; yes", timeout_ms=300, cap=4000)))
    assert (ended.exit_code, ended.stdout, ended.stderr) == (7, "out\n", "err\n")
    assert (cut.timed_out, cut.stdout_truncated, cut.stdout[:4]) == (True, True, "y\ny\n")


@pytest.mark.promise("P11")
async def test_cancelled_run_leaves_no_process(host: Observed, make_task: MakeTask) -> None:
    sleep = unique_sleep()
    running = asyncio.ensure_future(host.run(make_task(f"trap '' TERM; setsid {sleep} & {sleep}")))
    await until_running(sleep)
    running.cancel()
    # A second cancel must not cut the clean-up short.
    asyncio.get_running_loop().call_later(0.05, running.cancel)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert processes_saying(sleep) == []


@pytest.mark.promise("P11")
async def test_stopped_process_is_ended_too(host: Observed, make_task: MakeTask) -> None:
    sleep = unique_sleep()
    result = await host.run(make_task(f"{sleep} & kill -STOP $!; wait", timeout_ms=300))
    assert result.timed_out
    assert processes_saying(sleep) == []


@pytest.mark.promise("P11")
async def test_endless_output_is_cut_and_does_not_stall_the_loop(host: Observed, make_task: MakeTask) -> None:
    loop, gaps = asyncio.get_running_loop(), [0.0]

    async def heartbeat() -> None:
        while True:
            before = loop.time()
            await asyncio.sleep(0.01)
            gaps.append(loop.time() - before)

    beating = loop.create_task(heartbeat())
    result = await host.run(make_task("echo head; yes 0123456789", timeout_ms=700, cap=4000))
    beating.cancel()
    assert result.timed_out
    assert result.stdout_truncated
    assert len(result.stdout) <= 4000
    assert result.stdout.startswith("head\n")
    assert "characters cut" in result.stdout
    assert result.stdout.rstrip().endswith("0123456789") or "0123456789\n" in result.stdout[-30:]
    assert max(gaps) < 0.5


@pytest.mark.promise("P7")
async def test_secret_is_masked_before_output_is_cut(host: Observed, make_task: MakeTask) -> None:
    secret = "correct-horse-battery"
    script = f"i=0; while [ $i -lt 400 ]; do printf '{secret[:9]}'; printf '{secret[9:]}.'; i=$((i+1)); done"
    result = await host.run(make_task(script, cap=500, redactor=Redactor([secret])))
    told = result.stdout + "".join(text for _, text, _ in host.chunks)
    for size in range(5, len(secret) + 1):
        assert secret[:size] not in told
    assert "***" in told


async def test_mark_is_journaled_before_the_script_starts(host: Observed, make_task: MakeTask) -> None:
    task = make_task("touch began")
    seen: list[bool] = []

    async def started(mark: ProcessMark) -> None:
        await asyncio.sleep(0.05)  # as an fsync would take
        seen.append((task.workdir / "began").exists())

    await host.backend.run(task, lambda *_: None, started)
    assert seen == [False]
    assert (task.workdir / "began").exists()


async def test_task_whose_mark_cannot_be_journaled_never_runs(host: Observed, make_task: MakeTask) -> None:
    task = make_task("touch began")

    async def started(mark: ProcessMark) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        await host.backend.run(task, lambda *_: None, started)
    assert not (task.workdir / "began").exists()


@pytest.mark.promise("P11")
async def test_killed_keeper_fails_the_task_and_leaves_nothing(kept: Observed, make_task: MakeTask) -> None:
    sleep = unique_sleep()
    running = asyncio.ensure_future(kept.run(make_task(f"setsid {sleep} & {sleep}")))
    await until_running(sleep)
    os.kill(kept.marks[0].pid, signal.SIGKILL)
    with pytest.raises(SandboxError, match="kept the task was killed"):
        await running
    await gone(sleep)


@pytest.mark.promise("P11")
async def test_task_of_a_killed_agent_ends_and_reap_returns_when_it_has(
    backend: HostBackend, make_task: MakeTask
) -> None:
    sleep = unique_sleep()
    task = make_task(f"trap '' TERM; (setsid {sleep} &) ; {sleep}")
    agent = os.fork()
    if agent == 0:
        _agent_that_runs(backend, task)
    await until_running(sleep)
    async with asyncio.timeout(10):
        while not (text := (task.workdir / "mark").read_text()):
            await asyncio.sleep(0.01)
    pid, ticks, boot, token = text.split()
    os.kill(agent, signal.SIGKILL)
    os.waitpid(agent, 0)
    await backend.reap(ProcessMark("host", int(pid), int(ticks), boot, token))
    assert processes_saying(sleep) == []


@pytest.mark.promise("P11")
async def test_group_of_a_killed_agent_ends_without_another_agent(backend: HostBackend, make_task: MakeTask) -> None:
    sleep = unique_sleep()
    task = make_task(f"trap '' TERM; {sleep} & {sleep}")
    agent = os.fork()
    if agent == 0:
        _agent_that_runs(backend, task)
    await until_running(sleep)
    os.kill(agent, signal.SIGKILL)
    os.waitpid(agent, 0)
    await gone(sleep)


async def test_reaping_a_mark_of_another_boot_touches_nothing(backend: HostBackend) -> None:
    mark = ProcessMark("host", os.getpid(), process_tree.start_ticks(os.getpid()) or 0, "another-boot", "token")
    await backend.reap(mark)


async def test_reaping_leaves_a_group_alone_whose_leader_is_not_the_marked_process(
    grouped: Observed, make_task: MakeTask
) -> None:
    other = await asyncio.create_subprocess_exec("sleep", "60", start_new_session=True)
    try:
        mark = ProcessMark("host", other.pid, 1_000_000, await process_list.boot_id(), "no-such-token")
        await grouped.backend.reap(mark)
        assert process_tree.is_alive(other.pid)
    finally:
        other.kill()
        await other.wait()


async def test_many_tasks_leave_no_descriptor_and_no_child(host: Observed, make_task: MakeTask) -> None:
    await host.run(make_task("true"))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await asyncio.gather(*(host.run(make_task("echo x", node=f"n{at}")) for at in range(8)))
    assert len(os.listdir("/proc/self/fd")) == before
    async with asyncio.timeout(5):  # a keeper's last act is to say that all is done
        while [pid for mark in host.marks if (pid := mark.pid) and Path(f"/proc/{pid}").exists()]:
            await asyncio.sleep(0.01)


async def gone(text: str) -> None:
    async with asyncio.timeout(5):
        while processes_saying(text):
            await asyncio.sleep(0.01)


def _agent_that_runs(backend: HostBackend, task: ShellTask) -> None:
    """In a forked child: a whole agent as far as the backend is concerned, until it is killed."""

    async def started(mark: ProcessMark) -> None:
        line = f"{mark.pid} {mark.start_ticks} {mark.boot_id} {mark.token}"
        (task.workdir / "mark").write_text(line)

    asyncio.events._set_running_loop(None)
    try:
        asyncio.new_event_loop().run_until_complete(backend.run(task, lambda *_: None, started))
    finally:
        os._exit(1)
