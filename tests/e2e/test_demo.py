"""`vespid demo` on a data folder of its own: from nothing to the result of a run, for root and for everybody else."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.processes import BIN, Processes

from vespid.local.account import UNPRIVILEGED_ID, Account, may_execute

# Starting everything on a busy machine, and a run that may wait for a sweep.
DEMO_WITHIN_S = 90.0

# What the events of the demo's three nodes are, as they are printed.
EVENTS = (
    *("run_started", "node_dispatched        greet", "remote_event           greet", "node_succeeded         greet"),
    *("node_dispatched        send", "node_succeeded         send", "node_succeeded         heard", "run_succeeded"),
)


@pytest.fixture
def home() -> Iterator[Path]:
    # Not pytest's own folder: under root that is closed to the account which the servers run as.
    path = Path(tempfile.mkdtemp(prefix="vespid-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def plain_env(home: Path) -> dict[str, str]:
    """What a new user's shell has, and nothing of ours."""
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home)}


async def test_the_demo_ends_with_0_and_run_succeeded(processes: Processes, home: Path) -> None:
    demo = await processes.run([str(BIN / "vespid"), "demo", "--data", str(home / "demo")], "demo", plain_env(home))
    assert await demo.wait(DEMO_WITHIN_S) == 0, demo.log()
    told = demo.log()
    places = [told.find(event) for event in EVENTS]
    assert -1 not in places, told
    assert places == sorted(places), told
    assert "run succeeded" in told.splitlines()[-1]


async def test_the_demo_works_again_after_it_was_killed_in_the_middle(processes: Processes, home: Path) -> None:
    argv = [str(BIN / "vespid"), "demo", "--data", str(home / "demo")]
    killed = await processes.run(argv, "killed-demo", plain_env(home))
    await killed.has_printed("Pairing an agent")
    await killed.kill()
    again = await processes.run(argv, "demo", plain_env(home))
    assert await again.wait(DEMO_WITHIN_S) == 0, again.log()
    assert "run succeeded" in again.log().splitlines()[-1]
    assert list((home / "demo").glob("agent-*")) == [], "the killed demo's agent left its folder"


@pytest.mark.needs_root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: becomes an ordinary user")
async def test_under_root_the_demo_works_for_an_ordinary_user_too(processes: Processes, home: Path) -> None:
    user = Account(UNPRIVILEGED_ID, UNPRIVILEGED_ID)
    for program in (BIN / "vespid", BIN / "python"):
        if not may_execute(program, user):
            pytest.skip(f"an ordinary user cannot execute {program.resolve()}: it is in a closed folder")
    os.chown(home, user.uid, user.gid)
    become = ["setpriv", "--reuid", str(user.uid), "--regid", str(user.gid), "--clear-groups"]
    # Without --data: where an ordinary user's data is, is a part of this.
    demo = await processes.run([*become, str(BIN / "vespid"), "demo"], "demo", plain_env(home))
    assert await demo.wait(DEMO_WITHIN_S) == 0, demo.log()
    assert "run succeeded" in demo.log().splitlines()[-1]
    assert (home / ".vespid" / "demo" / "postgres").stat().st_uid == user.uid


async def test_a_second_up_on_the_same_data_folder_is_refused_and_told_by_whom_it_is_held(
    processes: Processes, home: Path
) -> None:
    argv = [str(BIN / "vespid"), "up", "--data", str(home / "up")]
    ports = {"API_PORT": processes.env["API_PORT"], "GATEWAY_PORT": processes.env["GATEWAY_PORT"]}
    env = {**plain_env(home), **ports, "ENGINE_RUNNER_PORT": processes.env["ENGINE_RUNNER_PORT"]}
    first = await processes.run(argv, "up", env)
    await first.has_printed("Press Ctrl-C")
    second = await processes.run(argv, "second-up", env)
    assert await second.wait() == 1
    assert f"another vespid (process {first.pid}) is running on {home / 'up'}" in second.log()
    assert await first.terminate() == 0, first.log()
    # What was kept is told again: the same first owner, with the same password.
    again = await processes.run(argv, "up-again", env)
    await again.has_printed("Press Ctrl-C")
    login = next(line for line in first.log().splitlines() if "login" in line)
    assert login in again.log()
    assert await again.terminate() == 0, again.log()
