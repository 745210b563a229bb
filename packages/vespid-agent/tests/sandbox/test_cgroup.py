"""Control groups: version 2 against a tree of files that behaves as the kernel's does; the host may have version 1."""

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vespid_agent.sandbox import process_tree
from vespid_agent.sandbox.bubblewrap import BubblewrapBackend
from vespid_agent.sandbox.cgroup import Cgroup, Cgroups
from vespid_agent.sandbox.limits import Limits

from .conftest import MakeTask, Observed

CORE_FILES = {"cgroup.controllers": "", "cgroup.subtree_control": "", "cgroup.procs": "", "cgroup.kill": ""}
CONTROLLER_FILES = {
    "memory": {"memory.max": "max", "memory.swap.max": "max", "memory.oom.group": "0"},
    "pids": {"pids.max": "max"},
    "cpu": {"cpu.max": "max 100000"},
}
LIMITS = Limits(memory_mb=64, cpus=0.5, pids=48)


class FakeTree:
    """A cgroup v2 hierarchy: files come with the directory, go with it, and cannot be made."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = folder / "cgroup"
        self.proc = folder / "proc"
        # Groups that hold processes, so that the kernel refuses to divide them; others do by their `cgroup.procs`.
        self.inhabited: set[Path] = set()
        # Groups that systemd says it has handed on.
        self.handed_on: set[Path] = set()
        # Files that this kernel has not.
        self.without: set[str] = set()
        self.killed: list[str] = []
        self.settings: list[tuple[str, str]] = []
        self._originals: dict[str, Callable[..., Any]] = {
            name: getattr(Path, name) for name in ("mkdir", "rmdir", "write_text")
        }
        self.proc.mkdir()
        (self.proc / "cgroup").write_text("0::/agents/one\n")
        (self.proc / "mountinfo").write_text(f"30 20 0:26 / {self.root} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n")
        for name in self._originals:
            monkeypatch.setattr(Path, name, self._patched(name))
        monkeypatch.setattr(os, "getxattr", self._getxattr)
        self.root.mkdir()
        self._originals["write_text"](self.root / "cgroup.controllers", "cpuset cpu io memory hugetlb pids")
        (self.root / "cgroup.subtree_control").write_text("+cpu +memory +pids")
        (self.root / "agents").mkdir()
        (self.root / "agents" / "cgroup.subtree_control").write_text("+cpu +memory +pids")
        self.own = self.root / "agents" / "one"
        self.own.mkdir()
        self.settings.clear()

    def _patched(self, name: str) -> Callable[..., Any]:
        original, ours = self._originals[name], getattr(self, f"_{name}")

        def call(path: Path, *arguments: Any, **more: Any) -> Any:
            inside = path == self.root or self.root in path.parents
            return (ours if inside else original)(path, *arguments, **more)

        return call

    def _getxattr(self, path: Path, name: str) -> bytes:
        if path not in self.handed_on or name != "user.delegate":
            raise OSError(errno.ENODATA, "No data available", str(path))
        return b"1"

    def _mkdir(self, path: Path, **more: Any) -> None:
        if path.exists() and more.get("exist_ok"):
            return
        self._originals["mkdir"](path)
        above = path.parent / "cgroup.subtree_control"
        controllers = above.read_text().split() if above.exists() else []
        files = CORE_FILES | {"cgroup.controllers": " ".join(controllers)}
        for controller in controllers:
            files |= CONTROLLER_FILES[controller]
        for name, content in files.items():
            if name not in self.without:
                self._originals["write_text"](path / name, content)

    def _rmdir(self, path: Path) -> None:
        if any(process_tree.is_alive(int(pid)) for pid in (path / "cgroup.procs").read_text().split() if pid != "0"):
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        shutil.rmtree(path)

    def _write_text(self, path: Path, text: str) -> int:
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
        if path.name == "cgroup.subtree_control":
            if path.parent in self.inhabited or path.with_name("cgroup.procs").read_text().strip():
                raise OSError(errno.EBUSY, "Device or resource busy", str(path))
            offered = (path.parent / "cgroup.controllers").read_text().split()
            asked = [word.removeprefix("+") for word in text.split()]
            if not set(asked) <= set(offered):
                raise OSError(errno.ENOENT, "No such controller", str(path))
            text = " ".join(sorted({*path.read_text().split(), *asked}))
        elif path.name == "cgroup.kill":
            self.killed.append(path.parent.name)
            inside = {int(pid) for pid in (path.parent / "cgroup.procs").read_text().split()} - {0}
            process_tree.send(inside, signal.SIGKILL)
        elif path.name == "cgroup.procs":
            self._move(path.parent, text)
            return len(text)
        else:
            self.settings.append((path.name, text))
        return int(self._originals["write_text"](path, text))

    def _move(self, to: Path, pid: str) -> None:
        for procs in self.root.rglob("cgroup.procs"):
            stay = [line for line in procs.read_text().split() if line != pid]
            self._originals["write_text"](procs, "".join(f"{line}\n" for line in [*stay, *[pid][: procs.parent == to]]))
        if pid == str(os.getpid()):
            (self.proc / "cgroup").write_text(f"0::/{to.relative_to(self.root)}\n")

    def put(self, group: Cgroup, pid: int) -> None:
        self.live_in(group.directories[0], pid)

    def live_in(self, group: Path, *pids: int) -> None:
        for pid in pids:
            self._move(group, str(pid))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTree:
    return FakeTree(tmp_path, monkeypatch)


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


async def test_limits_are_written_and_swap_is_off(tree: FakeTree) -> None:
    groups = Cgroups.detect(tree.proc)
    assert (groups.version, groups.controllers) == (2, {"memory", "pids", "cpu"})
    group = groups.create("token", LIMITS)
    (directory,) = group.directories
    assert directory == tree.own / "vespid-agent" / "token"
    assert {name: (directory / name).read_text() for name, _ in tree.settings} == {
        "memory.max": str(64 * 1024 * 1024),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "48",
        "cpu.max": "50000 100000",
    }
    assert group.procs == (directory / "cgroup.procs",)


async def test_a_group_is_removed_and_removing_it_again_is_harmless(tree: FakeTree) -> None:
    groups = Cgroups.detect(tree.proc)
    group = groups.create("token", LIMITS)
    await group.remove()
    await group.remove()
    await groups.existing("token").remove()
    assert [path.name for path in (tree.own / "vespid-agent").iterdir() if path.is_dir()] == []


async def test_what_is_inside_is_killed_by_the_kernel_where_it_can(
    tree: FakeTree, sleeper: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Cgroups.detect(tree.proc).create("token", LIMITS)
    tree.put(group, sleeper.pid)
    await group.remove()
    assert tree.killed
    assert sleeper.wait(5) == -signal.SIGKILL
    assert not group.directories[0].exists()


async def test_what_is_inside_is_killed_one_by_one_where_it_cannot(
    tree: FakeTree, sleeper: "subprocess.Popen[bytes]"
) -> None:
    tree.without.add("cgroup.kill")
    group = Cgroups.detect(tree.proc).create("token", LIMITS)
    tree.put(group, sleeper.pid)
    await group.remove()
    assert tree.killed == []
    assert sleeper.wait(5) == -signal.SIGKILL
    assert not group.directories[0].exists()


async def test_a_group_that_is_still_busy_is_tried_again(tree: FakeTree, monkeypatch: pytest.MonkeyPatch) -> None:
    group = Cgroups.detect(tree.proc).create("token", LIMITS)
    rmdir, busy = tree._rmdir, [True, True]

    def refusing_twice(path: Path) -> None:
        if busy:
            busy.pop()
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        rmdir(path)

    monkeypatch.setattr(tree, "_rmdir", refusing_twice)
    monkeypatch.setattr(Path, "rmdir", tree._patched("rmdir"))
    await group.remove()
    assert not group.directories[0].exists()


async def test_a_process_of_another_namespace_is_not_taken_for_our_own_group(
    tree: FakeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.without.add("cgroup.kill")
    group = Cgroups.detect(tree.proc).create("token", LIMITS)
    tree.put(group, 0)
    sent: list[int] = []
    monkeypatch.setattr(process_tree, "send", lambda pids, _number: sent.extend(pids))
    await group.remove()
    assert sent == []


async def test_a_kernel_without_swap_accounting_still_limits_memory(tree: FakeTree) -> None:
    tree.without |= {"memory.swap.max", "memory.oom.group"}
    group = Cgroups.detect(tree.proc).create("token", LIMITS)
    assert (group.directories[0] / "memory.max").read_text() == str(64 * 1024 * 1024)


async def test_a_limit_that_cannot_be_set_makes_no_group(tree: FakeTree) -> None:
    groups = Cgroups.detect(tree.proc)
    tree.without.add("pids.max")
    with pytest.raises(OSError, match=r"pids\.max"):
        groups.create("token", LIMITS)
    assert not (tree.own / "vespid-agent" / "token").exists()


async def test_only_what_is_offered_is_used(tree: FakeTree) -> None:
    for file in ("cgroup.controllers", "cgroup.subtree_control"):
        tree._originals["write_text"](tree.own / file, "memory" if file == "cgroup.controllers" else "")
    groups = Cgroups.detect(tree.proc)
    assert (groups.version, groups.controllers) == (2, {"memory"})


async def test_a_group_that_is_not_ours_to_divide_leads_to_the_root(tree: FakeTree) -> None:
    tree.inhabited.add(tree.own)
    group = Cgroups.detect(tree.proc).create("token", LIMITS)
    assert group.directories == (tree.root / "vespid-agent" / "token",)


def pids_in(group: Path) -> list[int]:
    return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]


async def test_an_agent_that_was_handed_its_group_moves_into_a_leaf_of_it(
    tree: FakeTree, sleeper: "subprocess.Popen[bytes]"
) -> None:
    tree.handed_on.add(tree.own)
    tree.live_in(tree.own, os.getpid(), sleeper.pid)
    groups = Cgroups.detect(tree.proc)
    assert (groups.version, groups.controllers, groups.obstacle) == (2, {"memory", "pids", "cpu"}, None)
    assert groups.create("token", LIMITS).directories == (tree.own / "vespid-agent" / "token",)
    assert pids_in(tree.own) == []
    assert sorted(pids_in(tree.own / "vespid-agent-itself")) == sorted([os.getpid(), sleeper.pid])


async def test_in_its_leaf_already_it_uses_the_group_above(tree: FakeTree) -> None:
    tree.handed_on.add(tree.own)
    tree.live_in(tree.own, os.getpid())
    first, again = (Cgroups.detect(tree.proc).existing("token").directories for _ in range(2))
    assert first == again == (tree.own / "vespid-agent" / "token",)


async def test_in_a_leaf_that_systemd_made_it_uses_the_group_that_was_handed_on(tree: FakeTree) -> None:
    tree.handed_on.add(tree.own)
    (tree.own / "main").mkdir()
    tree.live_in(tree.own / "main", os.getpid())
    groups = Cgroups.detect(tree.proc)
    assert groups.existing("token").directories == (tree.own / "vespid-agent" / "token",)
    assert pids_in(tree.own / "main") == [os.getpid()]


async def test_the_outermost_group_that_can_be_changed_counts_as_handed_on(
    tree: FakeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path).is_relative_to(tree.own))
    tree.live_in(tree.own, os.getpid())
    assert Cgroups.detect(tree.proc).existing("t").directories == (tree.own / "vespid-agent" / "t",)


async def test_a_group_that_others_live_in_too_is_left_as_it_is(tree: FakeTree) -> None:
    tree.handed_on.add(tree.own)
    tree.inhabited.add(tree.root)
    tree.live_in(tree.own, os.getpid(), os.getppid())
    groups = Cgroups.detect(tree.proc)
    assert groups.controllers == frozenset()
    assert groups.obstacle is not None
    assert f"{tree.own}: processes {os.getppid()} live in it" in groups.obstacle
    assert sorted(pids_in(tree.own)) == sorted([os.getpid(), os.getppid()])


async def test_a_group_that_nobody_handed_on_is_left_as_it_is(tree: FakeTree) -> None:
    tree.live_in(tree.own, os.getpid())
    groups = Cgroups.detect(tree.proc)
    assert groups.existing("t").directories == (tree.root / "vespid-agent" / "t",)
    assert groups.obstacle is not None
    assert "Delegate=yes" in groups.obstacle
    assert pids_in(tree.own) == [os.getpid()]


async def test_a_group_without_the_memory_controller_says_so(tree: FakeTree) -> None:
    for place in (tree.own, tree.root):
        tree._originals["write_text"](place / "cgroup.controllers", "pids")
    obstacle = Cgroups.detect(tree.proc).obstacle
    assert obstacle is not None
    assert f"{tree.own}: it is given no memory controller" in obstacle


async def test_without_delegation_there_are_no_groups(tree: FakeTree) -> None:
    tree.inhabited |= {tree.own, tree.root}
    groups = Cgroups.detect(tree.proc)
    assert groups.controllers == frozenset()


async def test_without_delegation_the_first_version_is_used_where_it_is_mounted(tree: FakeTree, tmp_path: Path) -> None:
    tree.inhabited |= {tree.own, tree.root}
    mounts = (tree.proc / "mountinfo").read_text()
    own = (tree.proc / "cgroup").read_text()
    for number, controller in enumerate(("memory", "pids", "cpu")):
        (tmp_path / "v1" / controller / "mine").mkdir(parents=True)
        mounts += f"{31 + number} 20 0:3 / {tmp_path}/v1/{controller} rw - cgroup cgroup rw,{controller}\n"
        own += f"{number + 1}:{controller}:/mine\n"
    (tree.proc / "mountinfo").write_text(mounts)
    (tree.proc / "cgroup").write_text(own)
    groups = Cgroups.detect(tree.proc)
    assert (groups.version, groups.controllers) == (1, {"memory", "pids", "cpu"})
    assert groups.existing("t").directories == tuple(
        tmp_path / "v1" / controller / "mine" / "vespid-agent" / "t" for controller in ("memory", "pids", "cpu")
    )


async def test_a_bubblewrap_task_joins_its_group_and_needs_no_other_limits(
    tree: FakeTree, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[str] = []
    rmdir = tree._rmdir

    def note(path: Path) -> None:
        joined.append((path / "cgroup.procs").read_text())
        rmdir(path)

    monkeypatch.setattr(tree, "_rmdir", note)
    monkeypatch.setattr(Path, "rmdir", tree._patched("rmdir"))
    observed = Observed(BubblewrapBackend(cgroups=Cgroups.detect(tree.proc), limits=LIMITS))
    result = await observed.run(make_task("ulimit -v; ulimit -u"))
    assert result.stdout.split()[0] == "unlimited"
    assert joined == ["0"]
    assert not (tree.own / "vespid-agent" / observed.marks[0].token).exists()


async def test_bubblewrap_without_groups_says_what_limits_instead(tree: FakeTree) -> None:
    tree.inhabited |= {tree.own, tree.root}
    state = await BubblewrapBackend(cgroups=Cgroups.detect(tree.proc)).available()
    assert state.ok
    assert "no cgroup for cpu, memory, pids: memory and processes by rlimit, CPU not limited" in state.notes
    assert any(f"{tree.own}: it is not the agent's to divide" in note for note in state.notes), state.notes


@pytest.mark.needs_root
async def test_a_task_is_in_its_real_groups(make_task: MakeTask) -> None:
    groups = Cgroups.detect()
    if not groups.controllers:
        pytest.skip("needs a place where control groups can be made")
    observed = Observed(BubblewrapBackend(limits=LIMITS, cgroups=groups))
    members: list[int] = []

    def look(*_: object) -> None:
        found = groups.existing(observed.marks[0].token).directories
        members.extend(len((directory / "cgroup.procs").read_text().split()) for directory in found)

    task = make_task("echo here; sleep 0.2; sleep 0.2")
    await observed.backend.run(task, look, observed._started)
    # bwrap outside, its first process inside, the shell; sleep may have begun.
    assert len(members) >= len(groups.existing("x").directories)
    assert min(members) >= 3


@pytest.mark.needs_root
async def test_the_real_kernel_kills_a_group(sleeper: "subprocess.Popen[bytes]") -> None:
    """A hierarchy of version 2 without controllers is mounted beside version 1 too."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    places = [Path(place) for _, place, kind, *_ in mounts if kind == "cgroup2" and os.access(place, os.W_OK)]
    if not places:
        pytest.skip("needs a cgroup v2 hierarchy that can be written")
    directory = places[0] / f"vespid-test-{os.getpid()}"
    directory.mkdir()
    (directory / "cgroup.procs").write_text(str(sleeper.pid))
    await Cgroup((directory,)).remove()
    assert sleeper.wait(5) == -signal.SIGKILL
    assert not directory.exists()
