"""bubblewrap against tasks, names and folders that mean harm."""

import os
import shutil
import stat
import time
from pathlib import Path

import pytest

from vespid_agent.sandbox.bubblewrap import BubblewrapBackend
from vespid_agent.sandbox.host import HostBackend
from vespid_agent.sandbox.limits import Limits
from vespid_agent.sandbox.task import SandboxError

from .conftest import MakeTask, Observed

pytestmark = pytest.mark.promise("P11")

LIMIT_MB = 64
GRACE_MS = 200
# What a busy machine may add; judged by what the task itself reports.
MARGIN_MS = 1500


@pytest.fixture
def bubblewrap() -> Observed:
    return Observed(BubblewrapBackend(limits=Limits(memory_mb=LIMIT_MB, cpus=1, pids=64), kill_grace_ms=GRACE_MS))


@pytest.fixture(params=["host", "bubblewrap"])
def either(request: pytest.FixtureRequest, bubblewrap: Observed) -> Observed:
    return bubblewrap if request.param == "bubblewrap" else Observed(HostBackend(kill_grace_ms=GRACE_MS))


@pytest.mark.needs_root
async def test_a_setuid_program_gives_no_other_user(bubblewrap: Observed, make_task: MakeTask) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: plants a program that is root's")
    task = make_task("./planted -u; ./planted -ru")
    planted = task.workdir / "planted"
    shutil.copy(shutil.which("id") or "/usr/bin/id", planted)
    planted.chmod(0o4755)
    assert (await bubblewrap.run(task)).stdout.split() == ["1000", "1000"]


@pytest.mark.needs_root
async def test_a_device_file_in_the_folder_opens_nothing(bubblewrap: Observed, make_task: MakeTask) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: plants a device file")
    task = make_task("ls planted; head -c 8 planted && echo opened; echo x > planted && echo written; true")
    os.mknod(task.workdir / "planted", stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero
    (task.workdir / "planted").chmod(0o666)
    result = await bubblewrap.run(task)
    assert result.stdout == "planted\n"
    assert "Permission denied" in result.stderr


async def test_devices_are_the_harmless_ones(bubblewrap: Observed, make_task: MakeTask) -> None:
    result = await bubblewrap.run(make_task("cd /dev; ls; mknod /tmp/sda b 8 0 2>/dev/null && echo made; true"))
    assert set(result.stdout.split()) == {
        *("console", "core", "fd", "full", "null", "ptmx", "pts", "random", "shm"),
        *("stderr", "stdin", "stdout", "tty", "urandom", "zero"),
    } - ({"console"} if "console" not in result.stdout else set())


async def test_processes_outside_cannot_be_read_through_proc(bubblewrap: Observed, make_task: MakeTask) -> None:
    own = os.getpid()
    places = f"/proc/{own}/environ /proc/{own}/root/etc/hostname /proc/{own}/cwd /proc/{own}/fd /proc/1/root/etc/shadow"
    script = (
        f"for p in {places} /proc/kcore /proc/sysrq-trigger; do head -c 1 $p >/dev/null 2>&1 && echo $p; done; true"
    )
    result = await bubblewrap.run(make_task(script))
    assert result.stdout == ""


@pytest.mark.parametrize("place", ["/tmp", "/dev/shm"])
async def test_memory_file_systems_cannot_be_filled_past_the_limit(
    bubblewrap: Observed, make_task: MakeTask, place: str
) -> None:
    written = LIMIT_MB * 2
    result = await bubblewrap.run(
        make_task(f"head -c {written}M /dev/zero > {place}/fill; stat -c %s {place}/fill; echo end")
    )
    # The memory limit may have ended it, which is as good.
    sizes = [int(line) for line in result.stdout.split() if line.isdigit()]
    assert all(size <= LIMIT_MB * 1024 * 1024 for size in sizes), result


async def test_endless_output_keeps_head_and_tail_and_ends_in_time(either: Observed, make_task: MakeTask) -> None:
    script = "trap 'echo last; exit' TERM; echo first; yes & wait"
    result = await either.run(make_task(script, cap=4000, timeout_ms=500))
    assert (result.timed_out, result.stdout_truncated) == (True, True)
    assert result.stdout.startswith("first\n")
    assert len(result.stdout) <= 4000


@pytest.mark.parametrize("script", ["sleep 30", "trap '' TERM; sleep 30; sleep 30", "while :; do :; done"])
async def test_a_task_ends_when_its_time_is_up(either: Observed, make_task: MakeTask, script: str) -> None:
    result = await either.run(make_task(script, timeout_ms=500))
    assert (result.timed_out, result.exit_code) == (True, None)
    assert 500 <= result.duration_ms < 500 + GRACE_MS + MARGIN_MS


async def test_a_task_that_ends_first_has_not_timed_out(either: Observed, make_task: MakeTask) -> None:
    result = await either.run(make_task("exit 3", timeout_ms=5000))
    assert (result.timed_out, result.exit_code) == (False, 3)


async def test_a_link_in_place_of_the_folder_is_refused(either: Observed, make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task("touch /work/reached ./reached")
    task.workdir.rmdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    owner = outside.stat().st_uid
    task.workdir.symlink_to(outside)
    with pytest.raises(SandboxError) as refused:
        await either.run(task)
    assert refused.value.code == "WORKDIR_UNSAFE"
    assert list(outside.iterdir()) == []
    assert outside.stat().st_uid == owner


async def test_links_in_the_folder_lead_nowhere_outside(
    bubblewrap: Observed, make_task: MakeTask, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("host-secret-text")
    secret.chmod(0o644)
    task = make_task("cat absolute climbing; echo changed > absolute; ls -l /work")
    (task.workdir / "absolute").symlink_to(secret)
    (task.workdir / "climbing").symlink_to("../" * 12 + str(secret).lstrip("/"))
    result = await bubblewrap.run(task)
    assert "host-secret-text" not in result.stdout
    assert secret.read_text() == "host-secret-text"


@pytest.mark.parametrize(
    "env",
    [
        {"A": "x\0--bind\0/\0/host"},
        {"A\0--share-net": "x"},
        {"": "x"},
        {"A=B": "x"},
    ],
)
async def test_an_environment_that_cannot_be_one_is_refused(
    either: Observed, make_task: MakeTask, env: dict[str, str]
) -> None:
    with pytest.raises(SandboxError) as refused:
        await either.run(make_task("ls /host", env=env))
    assert (refused.value.code, refused.value.retryable) == ("INVALID_EXECUTE_PAYLOAD", False)


async def test_hostile_names_and_values_are_data(either: Observed, make_task: MakeTask) -> None:
    env = {"A": "--bind / /host", "B": "$(touch evil)\n`id`", "--C": "-", "LD_LIBRARY_PATH": "/work"}
    task = make_task('printf "%s|%s" "$A" "$B"; ls /host evil', env=env, node="../../etc/; rm -rf $HOME")
    (task.workdir / "-rf").touch()
    (task.workdir / "a\nb\x1b[31m").touch()
    result = await either.run(task)
    assert result.stdout == f"{env['A']}|{env['B']}"


async def test_a_flood_of_orphans_that_ignore_sigterm_is_gone(bubblewrap: Observed, make_task: MakeTask) -> None:
    mark = f"{int(time.time() * 1000) % 10**7 + 10**7}"
    script = (
        f"for i in 1 2 3 4 5 6 7 8; do (setsid sh -c 'trap \"\" TERM; while :; do sleep {mark}; done' &) ; done; exit 0"
    )
    result = await bubblewrap.run(make_task(script))
    assert result.exit_code == 0
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [line for line in lines if mark.encode() in line]
