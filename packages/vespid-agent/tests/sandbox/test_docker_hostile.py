"""docker against images, names, folders and programs that mean harm."""

import os
import platform
import stat
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.container_engine import ContainerEngine

from vespid_agent.sandbox.task import SandboxError
from vespid_agent.sandbox.workdir import Workdirs

from .conftest import MakeTask, Observed
from .test_docker import backend_of

pytestmark = [pytest.mark.promise("P11"), pytest.mark.xdist_group("docker"), pytest.mark.needs_root]

GRACE_MS = 200
MARGIN_MS = 2500
ESRCH = 3


@pytest.fixture
async def docker(container_engine: ContainerEngine, workdirs: Workdirs) -> AsyncIterator[Observed]:
    async with backend_of(container_engine, workdirs) as observed:
        yield observed


@pytest.mark.skipif(platform.machine() != "x86_64", reason="its program is written for x86_64")
@pytest.mark.parametrize("call", ["ptrace", "process_vm_readv"])
async def test_processes_outside_cannot_be_traced(docker: Observed, make_task: MakeTask, call: str) -> None:
    task = make_task("./reach; echo $?")
    (task.workdir / "reach").write_bytes(_reaching(call, os.getpid()))
    (task.workdir / "reach").chmod(0o755)
    # There is no such process; a refusal would be as good.
    assert (await docker.run(task)).stdout.split() in ([str(ESRCH)], ["1"])


async def test_processes_outside_cannot_be_read_through_proc(docker: Observed, make_task: MakeTask) -> None:
    own = os.getpid()
    places = f"/proc/{own}/environ /proc/{own}/root/etc/hostname /proc/{own}/cwd /proc/{own}/fd /proc/1/root/etc/shadow"
    # Of these the engine leaves the names, with nothing behind them.
    places += " /proc/kcore /proc/keys /proc/timer_list"
    script = f"for p in {places}; do [ -n \"$(head -c 1 $p 2>/dev/null | tr '\\0' x)\" ] && echo $p; done; true"
    result = await docker.run(make_task(script))
    assert result.stdout == ""
    written = await docker.run(
        make_task("for p in /proc/sysrq-trigger /proc/sys/kernel/core_pattern; do echo x > $p; done")
    )
    assert written.stderr.count("can't create") == 2, written


async def test_links_in_the_folder_lead_nowhere_outside(docker: Observed, make_task: MakeTask, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("host-secret-text")
    secret.chmod(0o666)
    task = make_task("cat absolute climbing; echo changed > absolute; echo changed > climbing; ls -l /work")
    (task.workdir / "absolute").symlink_to(secret)
    (task.workdir / "climbing").symlink_to("../" * 12 + str(secret).lstrip("/"))
    result = await docker.run(task)
    assert "host-secret-text" not in result.stdout
    assert secret.read_text() == "host-secret-text"


async def test_hostile_names_and_values_are_data(docker: Observed, make_task: MakeTask) -> None:
    env = {"A": "--privileged -v /:/host", "B": "$(touch /work/evil)\n`id`'", "LD_LIBRARY_PATH": "/work"}
    task = make_task('printf "%s|%s" "$A" "$B"; ls /host /work/evil', env=env, node="../../etc/; rm -rf $HOME")
    (task.workdir / "-rf").touch()
    (task.workdir / "a\nb\x1b[31m").touch()
    result = await docker.run(task)
    assert result.stdout == f"{env['A']}|{env['B']}"


async def test_endless_output_keeps_head_and_tail_and_ends_in_time(docker: Observed, make_task: MakeTask) -> None:
    script = "trap 'echo last; exit' TERM; echo first; yes & wait"
    result = await docker.run(make_task(script, cap=4000, timeout_ms=500))
    assert (result.timed_out, result.stdout_truncated) == (True, True)
    assert result.stdout.startswith("first\n")
    assert len(result.stdout) <= 4000


async def test_a_device_file_in_the_folder_opens_nothing(docker: Observed, make_task: MakeTask) -> None:
    task = make_task("ls planted; head -c 1 planted && echo opened; echo x > planted && echo written; true")
    os.mknod(task.workdir / "planted", stat.S_IFCHR | 0o666, os.makedev(1, 11))  # /dev/kmsg
    (task.workdir / "planted").chmod(0o666)
    assert (await docker.run(task)).stdout == "planted\n"


async def test_a_setuid_program_in_the_folder_gives_no_other_user(docker: Observed, make_task: MakeTask) -> None:
    task = make_task("./id -u")
    (task.workdir / "id").write_bytes(Path("/usr/bin/busybox").read_bytes())
    (task.workdir / "id").chmod(0o4755)
    assert (await docker.run(task)).stdout == "65534\n"


@pytest.mark.parametrize("copies", [False, True])
async def test_a_link_in_place_of_the_folder_is_refused(
    container_engine: ContainerEngine, workdirs: Workdirs, make_task: MakeTask, tmp_path: Path, copies: bool
) -> None:
    task = make_task("touch reached")
    task.workdir.rmdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    task.workdir.symlink_to(outside)
    async with backend_of(container_engine, workdirs, copies=copies) as docker:
        with pytest.raises(SandboxError) as refused:
            await docker.run(task)
    assert refused.value.code == "WORKDIR_UNSAFE"
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    "image",
    ["../../containers/json", "a/../../b", "-v", "--privileged", "a b", "a\nb", "a\0b", "a?b=c", "a#b", "x" * 600],
)
async def test_what_names_no_image_is_refused(docker: Observed, make_task: MakeTask, image: str) -> None:
    with pytest.raises(SandboxError) as refused:
        await docker.run(make_task("true", image=image))
    assert refused.value.code == "INVALID_EXECUTE_PAYLOAD"


async def test_what_an_image_declares_for_itself_weakens_nothing(
    container_engine: ContainerEngine, docker: Observed, make_task: MakeTask
) -> None:
    image = await container_engine.image_with(
        "hostile", "VOLUME /data", "VOLUME /work", "USER 0", 'ENTRYPOINT ["/bin/yes"]', 'HEALTHCHECK CMD ["/bin/yes"]',
        "ENV VESPID_X=1", "WORKDIR /root", "EXPOSE 22",
    )  # fmt: skip
    script = "id -u; pwd; for p in / /data /work /tmp /etc; do (echo x > $p/probe) 2>/dev/null && echo $p; done; true"
    result = await docker.run(make_task(script, image=image))
    assert result.stdout.split() == ["65534", "/work", "/work", "/tmp"], result
    assert await container_engine.volumes() == []


@pytest.mark.parametrize("script", ["sleep 30", "trap '' TERM; sleep 30; sleep 30", "while :; do :; done"])
async def test_a_task_ends_when_its_time_is_up(docker: Observed, make_task: MakeTask, script: str) -> None:
    result = await docker.run(make_task(script, timeout_ms=500))
    assert (result.timed_out, result.exit_code) == (True, None)
    assert 500 <= result.duration_ms < 500 + GRACE_MS + MARGIN_MS


async def test_an_environment_that_cannot_be_one_is_refused(docker: Observed, make_task: MakeTask) -> None:
    with pytest.raises(SandboxError) as refused:
        await docker.run(make_task("true", env={"A": "x\0y"}))
    assert refused.value.code == "INVALID_EXECUTE_PAYLOAD"


def _reaching(call: str, pid: int) -> bytes:
    """A program of a few instructions: reach for that process, exit with the error's number."""
    attach = 16
    number, first, second = {"ptrace": (101, attach, pid), "process_vm_readv": (310, pid, 0)}[call]
    code = b"\xbf" + struct.pack("<I", first) + b"\xbe" + struct.pack("<I", second)
    code += b"\x31\xd2\x45\x31\xd2\x45\x31\xc0\x45\x31\xc9"  # the other arguments: 0
    code += b"\xb8" + struct.pack("<I", number) + b"\x0f\x05"
    code += b"\xf7\xd8\x89\xc7\xb8" + struct.pack("<I", 60) + b"\x0f\x05"  # exit(-result)
    base, header = 0x400000, 64 + 56
    elf = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, base + header, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    size = header + len(code)
    return elf + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000) + code
