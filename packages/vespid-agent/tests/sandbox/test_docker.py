"""The docker backend against a real engine: what a task cannot see, reach or outlive, and what is left of it."""

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.container_engine import IMAGE, ContainerEngine

from vespid_agent.sandbox.docker.backend import DockerBackend
from vespid_agent.sandbox.docker.container import Container
from vespid_agent.sandbox.limits import Limits
from vespid_agent.sandbox.task import ProcessMark, QuotaExceeded, SandboxError, ShellTask
from vespid_agent.sandbox.workdir import SLOTS, Workdirs

from .conftest import MakeTask, Observed, nothing_outlives, own_address, processes_saying

pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.needs_root]

NOBODY = 65534
NONE = "0" * 16
LIMITS = Limits(memory_mb=64, cpus=1, pids=48)


@contextlib.asynccontextmanager
async def backend_of(
    engine: ContainerEngine, workdirs: Workdirs, *, copies: bool = False, **more: Any
) -> AsyncIterator[Observed]:
    """A backend; with `copies` one for which the engine is on another machine."""
    given = {
        "image": IMAGE,
        "owner": f"agent-{uuid.uuid4().hex}",
        "slots": workdirs.root / SLOTS,
        "environment": engine.remote_environment if copies else engine.environment,
        "limits": LIMITS,
        "kill_grace_ms": 200,
    }
    backend = DockerBackend(**(given | more))
    try:
        state = await backend.available()
        assert state.ok, state.reason
        yield Observed(backend)
    finally:
        await backend.close()
        assert await engine.containers() == []
        assert await engine.volumes() == []


@pytest.fixture(params=["fresh", "prepared", "copied"])
async def docker(
    request: pytest.FixtureRequest, container_engine: ContainerEngine, workdirs: Workdirs
) -> AsyncIterator[Observed]:
    """Each of the ways in which a task gets its container."""
    more: dict[str, Any] = {"fresh": {}, "prepared": {"prepared": 1}, "copied": {"copies": True}}[request.param]
    async with backend_of(container_engine, workdirs, **more) as observed:
        if request.param == "prepared":
            await prepare(observed, workdirs)
        yield observed


async def prepare(observed: Observed, workdirs: Workdirs) -> None:
    """Have a container of the default profile ready."""
    backend = observed.backend
    assert isinstance(backend, DockerBackend)
    assert backend._pool is not None
    profile = backend._profile(IMAGE, "none")
    assert backend._pool.take(profile, workdirs.open("run", "warming")) is None
    await asyncio.gather(*backend._pool._tasks)
    assert len(backend._pool._ready[profile]) == 1


@pytest.fixture
async def fresh(container_engine: ContainerEngine, workdirs: Workdirs) -> AsyncIterator[Observed]:
    async with backend_of(container_engine, workdirs) as observed:
        yield observed


async def test_output_exit_code_environment_and_files(docker: Observed, make_task: MakeTask) -> None:
    value = 'it\'s\n$(echo no) `no` \\ "end"'
    task = make_task('pwd; echo kept > file; printf %s "$VALUE"; echo err >&2; exit 5', env={"VALUE": value})
    result = await docker.run(task)
    assert (result.exit_code, result.stdout, result.stderr) == (5, f"/work\n{value}", "err\n")
    assert (task.workdir / "file").read_text() == "kept\n"
    assert [(stream, text) for stream, text, _ in docker.chunks if stream == "stderr"] == [("stderr", "err\n")]


async def test_files_that_are_there_are_seen_and_changed(docker: Observed, make_task: MakeTask) -> None:
    task = make_task(
        "cat given/deep; rm gone; echo more >> given/deep; ln -s given/deep link; echo x > run; chmod +x run"
    )
    (task.workdir / "given").mkdir()
    (task.workdir / "given" / "deep").write_text("hello\n")
    (task.workdir / "gone").write_text("")
    for path in (task.workdir / "given", task.workdir / "given" / "deep"):
        os.chown(path, NOBODY, NOBODY)
    result = await docker.run(task)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "hello\n", "")
    assert (task.workdir / "given" / "deep").read_text() == "hello\nmore\n"
    assert sorted(path.name for path in task.workdir.iterdir()) == ["given", "link", "run"]
    assert (task.workdir / "run").stat().st_mode & 0o100


async def test_output_comes_while_the_task_runs(fresh: Observed, make_task: MakeTask) -> None:
    task = make_task("echo first; while [ ! -e go ]; do sleep 0.05; done; echo last")
    running = await fresh.begin(task)
    assert not running.done()
    (task.workdir / "go").touch()
    assert (await running).stdout == "first\nlast\n"


@pytest.mark.promise("P11")
async def test_the_root_is_read_only_and_files_of_the_machine_are_not_there(
    docker: Observed, make_task: MakeTask, container_engine: ContainerEngine, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("host-secret-text")
    places = "/ /bin /etc /dev /proc /proc/sys/kernel /sys /root /work /tmp /dev/shm"
    result = await docker.run(
        make_task(
            f'for p in {places}; do (echo x > "$p/probe") 2>/dev/null && echo "$p"; done;'
            f"cat {secret} /proc/1/root{secret}; ls {container_engine.socket} /var/run/docker.sock; true"
        )
    )
    assert result.stdout.split() == ["/work", "/tmp"]
    assert "host-secret-text" not in result.stdout + result.stderr


@pytest.mark.promise("P11")
async def test_the_task_is_nobody_without_capabilities_and_gains_none(docker: Observed, make_task: MakeTask) -> None:
    script = """
id -u
grep -E 'CapEff|CapPrm|CapBnd|CapAmb|NoNewPrivs|Seccomp:' /proc/self/status
su root -c 'echo root' </dev/null
unshare -r true 2>/dev/null && echo userns
mount -t tmpfs none /tmp 2>/dev/null && echo mounted
mknod /work/null c 1 3 2>/dev/null && echo device
chroot / true 2>/dev/null && echo chroot
cat /dev/mem /dev/kmsg /dev/vda 2>/dev/null | head -c 1
ls /dev | grep -E '^(sd|vd|nvme|mem|kmsg|fuse)'
true
"""
    lines = (await docker.run(make_task(script))).stdout.split("\n")
    assert lines[0] == str(NOBODY)
    assert [line.split() for line in lines[1:7]] == [
        ["CapPrm:", NONE],
        ["CapEff:", NONE],
        ["CapBnd:", NONE],
        ["CapAmb:", NONE],
        ["NoNewPrivs:", "1"],
        ["Seccomp:", "2"],
    ]
    assert lines[7:] == [""]


@pytest.mark.promise("P11")
async def test_other_processes_are_neither_seen_nor_signalled(docker: Observed, make_task: MakeTask) -> None:
    result = await docker.run(
        make_task(f"ls /proc | grep -c '^[0-9]'; kill -0 {os.getpid()} 2>/dev/null && echo reached; true")
    )
    count, *rest = result.stdout.split()
    assert int(count) < 8
    assert rest == []


@pytest.mark.promise("P11")
async def test_two_tasks_do_not_see_each_other(fresh: Observed, make_task: MakeTask) -> None:
    first = make_task("echo mine > /tmp/secret; echo ready; sleep 61", node="first")
    running = await fresh.begin(first)
    look = "ls -A /tmp; ls /work; cat /proc/[0-9]*/cmdline"
    second = await fresh.run(make_task(look, node="second"))
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert "secret" not in second.stdout
    assert "61" not in second.stdout


@pytest.mark.promise("P11")
async def test_network_none_reaches_nothing_and_enabled_reaches_out(fresh: Observed, make_task: MakeTask) -> None:
    script = "cat /proc/net/dev | tail -n +3 | cut -d: -f1; nc -w 2 {host} {port} </dev/null && echo reached; true"
    async with await asyncio.start_server(lambda _reader, writer: writer.close(), "0.0.0.0", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for network in ("none", None):
            for host, there in (("127.0.0.1", port), (own_address(), port), ("1.1.1.1", 53)):
                asked = script.format(host=host, port=there)
                result = await fresh.run(make_task(asked, network=network))
                assert result.stdout.split() == ["lo"], result
        gateway = "$(awk '$2 == \"00000000\" { print $3 }' /proc/net/route | sed 's/../0x& /g')"
        find = f"set -- {gateway}; host=$(($4)).$(($3)).$(($2)).$(($1)); "
        enabled = await fresh.run(make_task(find + script.format(host="$host", port=port), network="enabled"))
    assert "eth0" in enabled.stdout.split()
    assert "reached" in enabled.stdout.split()


@pytest.mark.promise("P7", "P11")
async def test_script_and_environment_are_in_no_process_list_and_not_with_the_engine(
    docker: Observed, make_task: MakeTask, container_engine: ContainerEngine
) -> None:
    canary = f"canary-{uuid.uuid4().hex}"
    task = make_task(f"true {canary}-script; echo ready; sleep 30", env={"TOKEN": canary}, timeout_ms=30_000)
    running = await docker.begin(task)
    assert processes_saying(canary) == []
    shown = await container_engine.get(f"/containers/vespid-{docker.marks[-1].token}/json")
    assert canary not in str(shown)
    for path in (container_engine.folder / "data" / "containers").rglob("*"):
        if path.is_file():
            assert canary.encode() not in path.read_bytes(), path
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert canary not in (container_engine.folder / "log").read_text(errors="replace")


@pytest.mark.promise("P11")
async def test_fork_bomb_stays_within_its_number_of_processes(docker: Observed, make_task: MakeTask) -> None:
    marker = f"bomb-{uuid.uuid4().hex}"
    script = f"b() {{ b {marker} | b {marker} & wait; }}; b 2>/dev/null; sleep 30"
    result = await docker.run(make_task(script, timeout_ms=1500))
    assert result.timed_out or result.exit_code != 0
    assert processes_saying(marker) == []


@pytest.mark.promise("P11")
async def test_memory_beyond_the_limit_is_not_had_and_said_so(docker: Observed, make_task: MakeTask) -> None:
    result = await docker.run(make_task("a=x; while :; do a=$a$a; done"))
    assert result.exit_code == 137
    assert result.note == "it took more than its 64 MB of memory"
    full = await docker.run(make_task("head -c 200000000 /dev/zero > /tmp/fill; stat -c %s /tmp/fill"))
    assert full.exit_code != 0 or int(full.stdout) <= LIMITS.memory_mb * 1024 * 1024


@pytest.mark.promise("P11")
async def test_timeout_cancel_and_orphans_leave_nothing(docker: Observed, make_task: MakeTask) -> None:
    await nothing_outlives(docker, make_task, setsid="/bin/setsid", timeout_ms=600, within_s=20)


async def test_sigterm_reaches_the_script_before_it_is_killed(docker: Observed, make_task: MakeTask) -> None:
    result = await docker.run(make_task("trap 'echo cleaned; exit 0' TERM; sleep 60 & wait", timeout_ms=500))
    assert (result.timed_out, result.stdout) == (True, "cleaned\n")


async def test_halted_task_is_ended_like_one_whose_time_is_up_and_has_its_result(
    docker: Observed, make_task: MakeTask
) -> None:
    halt = asyncio.get_running_loop().create_future()
    task = make_task("trap 'echo cleaned; exit 0' TERM; echo kept > file; echo up; sleep 60 & wait", halt=halt)
    running = await docker.begin(task)
    halt.set_result(None)
    result = await asyncio.wait_for(running, 15)
    assert (result.timed_out, result.stdout) == (False, "up\ncleaned\n")
    assert (task.workdir / "file").read_text() == "kept\n"


async def test_process_that_the_engine_names_is_looked_into_only_where_it_has_the_tasks_folder(
    fresh: Observed, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def named(_: Container) -> int:
        return os.getpid()

    task = make_task("echo up; while [ ! -e over ]; do sleep 0.05; done")
    running = await fresh.begin(task)
    root = await fresh.backend.root_of(fresh.marks[0], task.workdir)
    assert root is not None
    assert Path(f"/proc/{root}/cmdline").read_bytes().startswith(b"sh\0")
    with monkeypatch.context() as elsewhere:  # an engine that counts processes otherwise than we do
        elsewhere.setattr(Container, "first_pid", named)
        assert await fresh.backend.root_of(fresh.marks[0], task.workdir) is None
    (task.workdir / "over").touch()
    await running
    assert await fresh.backend.root_of(fresh.marks[0], task.workdir) is None


async def test_endless_output_keeps_head_and_tail_and_is_marked(fresh: Observed, make_task: MakeTask) -> None:
    script = "echo begin; yes | head -c 20000000; echo end"
    result = await fresh.run(make_task(script, cap=4000))
    assert result.stdout_truncated
    assert result.stdout.startswith("begin\ny\n")
    assert result.stdout.endswith("y\nend\n")
    assert len(result.stdout) <= 4000


@pytest.mark.promise("P11")
async def test_what_a_dead_agent_left_is_reaped_by_its_mark_and_by_the_sweep(
    container_engine: ContainerEngine, workdirs: Workdirs, make_task: MakeTask
) -> None:
    async with (
        backend_of(container_engine, workdirs, owner="dead", copies=True) as dead,
        backend_of(container_engine, workdirs, owner="other") as other,
        backend_of(container_engine, workdirs, owner="dead", prepared=1) as restarted,
    ):
        assert isinstance(dead.backend, DockerBackend)
        assert isinstance(restarted.backend, DockerBackend)
        journaled, _ = await dead.backend._container(dead.backend._profile(IMAGE, "none"), make_task("true"))
        await dead.backend._container(dead.backend._profile(IMAGE, "none"), make_task("true", node="n2"))
        assert isinstance(other.backend, DockerBackend)
        alive, _ = await other.backend._container(other.backend._profile(IMAGE, "none"), make_task("true", node="n3"))
        await restarted.backend.reap(ProcessMark("docker", 0, 0, "", journaled.token))
        await restarted.backend.reap(ProcessMark("docker", 0, 0, "", journaled.token))
        assert len(await container_engine.containers()) == 2
        await restarted.backend.sweep()
        assert [found["Names"] for found in await container_engine.containers()] == [[f"/{alive.name}"]]
        assert await container_engine.volumes() == []
        await alive.remove()


@pytest.mark.promise("P11")
async def test_what_a_task_leaves_cannot_lead_out_of_its_folder(
    container_engine: ContainerEngine, workdirs: Workdirs, make_task: MakeTask, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    async with backend_of(container_engine, workdirs, copies=True) as docker:
        task = make_task(
            f"ln -s {outside} absolute; ln -s ../../../../../../../../{outside} climbing; mkdir d; ln -s d inner;"
            " echo kept > d/file; ln d/file hard; mkfifo pipe 2>/dev/null; chmod 4755 d/file; true"
        )
        assert (await docker.run(task)).exit_code == 0
    names = sorted(path.name for path in task.workdir.iterdir())
    assert names == ["d", "hard", "inner"]
    assert (task.workdir / "inner" / "file").read_text() == "kept\n"
    assert not (task.workdir / "d" / "file").stat().st_mode & 0o4000
    assert outside.read_text() == "untouched"


@pytest.mark.promise("P9", "P11")
async def test_more_than_the_folder_may_hold_is_not_taken_back(
    container_engine: ContainerEngine, workdirs: Workdirs, make_task: MakeTask
) -> None:
    async with backend_of(container_engine, workdirs, copies=True, work_bytes=1_000_000) as docker:
        with pytest.raises(QuotaExceeded) as refused:
            await docker.run(make_task("echo said; for i in 1 2 3; do head -c 900000 /dev/zero > f$i; done"))
    assert refused.value.code == "WORKDIR_QUOTA_EXCEEDED"
    assert refused.value.result is not None
    assert (refused.value.result.exit_code, refused.value.result.stdout) == (0, "said\n")


async def test_a_sweep_leaves_alone_what_is_at_work_or_ready(
    container_engine: ContainerEngine, workdirs: Workdirs, make_task: MakeTask
) -> None:
    async with backend_of(container_engine, workdirs, prepared=1) as docker:
        await prepare(docker, workdirs)
        task = make_task("echo begun; while [ ! -e go ]; do sleep 0.05; done; echo over")
        running = await docker.begin(task)
        await docker.backend.sweep()
        (task.workdir / "go").touch()
        assert (await running).stdout == "begun\nover\n"


async def test_a_prepared_container_that_died_is_not_given_a_task(
    container_engine: ContainerEngine, workdirs: Workdirs, make_task: MakeTask
) -> None:
    async with backend_of(container_engine, workdirs, prepared=1) as docker:
        await prepare(docker, workdirs)
        assert isinstance(docker.backend, DockerBackend)
        assert docker.backend._pool is not None
        ((container, _slot),) = docker.backend._pool._ready[docker.backend._profile(IMAGE, "none")]
        await container.kill("SIGKILL")
        async with asyncio.timeout(20):
            while container.is_waiting:
                await asyncio.sleep(0.01)
        assert (await docker.run(make_task("echo alive"))).stdout == "alive\n"


async def test_a_missing_image_says_what_to_do(fresh: Observed, make_task: MakeTask) -> None:
    with pytest.raises(SandboxError) as refused:
        await fresh.run(make_task("true", image="no-such-image:1"))
    assert refused.value.code == "SANDBOX_UNAVAILABLE:docker"
    assert "docker pull no-such-image:1" in refused.value.message


async def test_a_missing_engine_says_what_to_do(workdirs: Workdirs, make_task: MakeTask) -> None:
    backend = DockerBackend(
        image=IMAGE, owner="o", slots=workdirs.root, environment={"DOCKER_HOST": "unix:///nowhere/docker.sock"}
    )
    state = await backend.available()
    assert not state.ok
    assert state.reason is not None
    assert "start Docker, or set DOCKER_HOST" in state.reason
    with pytest.raises(SandboxError) as refused:
        await Observed(backend).run(make_task("true"))
    assert (refused.value.code, refused.value.retryable) == ("SANDBOX_UNAVAILABLE:docker", True)
    await backend.close()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"MemoryLimit": False}, "cannot limit memory"),
        ({"PidsLimit": False, "CpuCfsQuota": False}, "cannot limit processes, CPU"),
        ({"CgroupDriver": "none", "SecurityOptions": ["name=seccomp", "name=rootless"]}, "cgroup v2"),
        ({"OSType": "windows"}, "Linux containers"),
        ({"SecurityOptions": []}, "without seccomp"),
        ({"Runtimes": {"runc": {}}}, "no runtime runsc"),
    ],
)
async def test_an_engine_that_cannot_keep_what_we_promise_is_not_used(
    workdirs: Workdirs, said: dict[str, object], why: str
) -> None:
    about = {
        "OSType": "linux",
        "MemoryLimit": True,
        "PidsLimit": True,
        "CpuCfsQuota": True,
        "CgroupDriver": "cgroupfs",
        "SecurityOptions": ["name=seccomp,profile=default"],
        "Runtimes": {"runc": {}, "runsc": {}},
    }
    backend = DockerBackend(image=IMAGE, owner="o", slots=workdirs.root, environment={}, runtime="runsc")
    state = await backend._judged(about | said)
    assert not state.ok
    assert state.reason is not None
    assert why in state.reason
    await backend.close()


async def test_names_that_are_no_variables_are_refused(fresh: Observed, make_task: MakeTask) -> None:
    with pytest.raises(SandboxError) as refused:
        await fresh.run(make_task("true", env={"A; touch /work/x": "1"}))
    assert refused.value.code == "INVALID_EXECUTE_PAYLOAD"


@pytest.mark.promise("P11")
async def test_many_tasks_leave_nothing(
    container_engine: ContainerEngine, workdirs: Workdirs, make_task: MakeTask
) -> None:
    before = _descriptors()
    async with backend_of(container_engine, workdirs, prepared=2) as docker:
        tasks = [make_task(f"echo {n} > out; cat out", node=f"node{n}") for n in range(30)]
        results = await asyncio.gather(*(docker.run(task) for task in tasks))
    assert [result.stdout for result in results] == [f"{n}\n" for n in range(30)]
    assert _descriptors() == before
    assert not (workdirs.root / SLOTS).exists()


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def sharing(workdirs: Workdirs, script: str) -> ShellTask:
    return ShellTask(script, "run", "n", script, workdirs.open("run", None), 20_000, 10_000, shared=True)


async def test_copied_folder_that_tasks_share_loses_nothing(
    container_engine: ContainerEngine, workdirs: Workdirs
) -> None:
    async with backend_of(container_engine, workdirs, copies=True) as docker:
        await asyncio.gather(*(docker.run(sharing(workdirs, f"echo x > {name}; sleep 0.1")) for name in "abc"))
        assert (await docker.run(sharing(workdirs, "ls"))).stdout == "a\nb\nc\n"


async def test_prepared_container_brings_no_folder_in_the_place_of_a_shared_one(
    container_engine: ContainerEngine, workdirs: Workdirs
) -> None:
    async with backend_of(container_engine, workdirs, prepared=1) as docker:
        await prepare(docker, workdirs)
        folder = workdirs.open("run", None)
        before = folder.stat().st_ino
        assert (await docker.run(sharing(workdirs, "echo here"))).stdout == "here\n"
        assert folder.stat().st_ino == before
