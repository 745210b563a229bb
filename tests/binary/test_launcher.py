"""The launcher around a program of three lines: where it unpacks, what it trusts, and that it becomes the program."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from agent_binary.launcher import wrap

pytestmark = pytest.mark.skipif(sys.platform == "win32" or shutil.which("cc") is None, reason="needs a C compiler")

PROGRAM = """#!/bin/sh
echo "$$" "$@"
"""
SHOW = '#!/bin/sh\ncat "$(dirname "$0")/inner/data"; echo "$VESPID_AGENT_STARTED_AS" "$LD_LIBRARY_PATH"\n'
WAIT = '#!/bin/sh\necho ready\nread -r line\ncat "$(dirname "$0")/inner/data"\n'


def made(folder: Path, program: str = PROGRAM, version: str = "1.0", more: int = 0) -> Path:
    """A launcher of its own. `more`: so many further files, of 100 kB each."""
    content = folder / f"content-{version}"
    (content / "inner").mkdir(parents=True)
    (content / "inner" / "data").write_text("all of it\n")
    (content / "link").symlink_to("inner/data")
    (content / "tool").write_text(program)
    (content / "tool").chmod(0o755)
    for number in range(more):
        (content / f"more-{number}").write_bytes(os.urandom(100_000))
    return wrap(content, "tool", version, folder / f"work-{version}")


def run(launcher: Path, *arguments: str, home: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    home.mkdir(exist_ok=True)
    merged = {"PATH": os.environ["PATH"], "HOME": str(home), **env}
    return subprocess.run([launcher, *arguments], env=merged, capture_output=True, text=True, timeout=30)


def unpacked(home: Path) -> list[Path]:
    return sorted(one for one in (home / ".cache" / "vespid-agent").iterdir() if one.is_dir())


def test_it_becomes_the_program_under_the_number_that_was_started(tmp_path: Path) -> None:
    started = subprocess.Popen(
        [made(tmp_path), "with", "words"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    said, _ = started.communicate(timeout=30)
    assert said == f"{started.pid} with words\n"


def test_the_program_finds_its_files_and_is_told_where_it_was_started(tmp_path: Path) -> None:
    launcher = made(tmp_path, SHOW)
    done = run(launcher, home=tmp_path / "home", LD_LIBRARY_PATH="/theirs")
    (folder,) = unpacked(tmp_path / "home")
    assert done.stdout == f"all of it\n{launcher} {folder}/_internal:/theirs\n"
    assert os.readlink(folder / "link") == "inner/data"
    assert folder.stat().st_mode & 0o077 == 0


def test_what_is_missing_cut_short_or_open_to_others_is_written_again(tmp_path: Path) -> None:
    launcher, home = made(tmp_path, SHOW), tmp_path / "home"
    run(launcher, home=home)
    data = unpacked(home)[0] / "inner" / "data"
    for damage in (data.unlink, lambda: data.write_text(""), lambda: shutil.rmtree(data.parent)):
        damage()
        assert run(launcher, home=home).stdout.startswith("all of it\n")
    data.chmod(0o666)
    run(launcher, home=home)
    assert data.stat().st_mode & 0o777 == 0o600
    data.unlink()
    data.symlink_to("/etc/hostname")
    assert run(launcher, home=home).stdout.startswith("all of it\n")
    assert not data.is_symlink()


def test_many_first_starts_at_once_all_succeed_and_leave_nothing_half_done(tmp_path: Path) -> None:
    launcher, base = made(tmp_path, SHOW, more=60), tmp_path / "unpacked"
    # Named, so that none that fails there goes elsewhere.
    env = {"PATH": os.environ["PATH"], "VESPID_AGENT_UNPACK_DIR": str(base)}
    subprocess.run([launcher], env=env, check=True, capture_output=True, timeout=30)
    (folder,) = (one for one in base.iterdir() if one.is_dir())
    with folder.with_name(f"{folder.name}.lock").open() as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        shutil.rmtree(folder)
        racing = [subprocess.Popen([launcher], env=env, stdout=subprocess.PIPE, text=True) for _ in range(16)]
    said = [one.communicate(timeout=30)[0] for one in racing]
    assert all(words.startswith("all of it\n") for words in said)
    assert [one for one in base.rglob("*") if one.name.endswith("~")] == []


def test_a_place_that_others_may_write_to_or_that_forbids_programs_is_passed_over(tmp_path: Path) -> None:
    launcher = made(tmp_path)
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    refused = run(launcher, home=tmp_path / "home", VESPID_AGENT_UNPACK_DIR=str(open_to_all))
    assert (refused.returncode, "others may write there" in refused.stderr) == (126, True)
    # Nobody may run anything in /proc/self/fd, nor make a folder there: the next place is taken.
    done = run(launcher, home=tmp_path / "home", XDG_CACHE_HOME="/proc/self/fd")
    assert done.returncode == 0, done.stderr
    assert len(unpacked(tmp_path / "home")) == 1


def test_a_folder_of_another_user_is_not_trusted(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: gives a folder away")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    refused = run(made(tmp_path), home=tmp_path / "home", VESPID_AGENT_UNPACK_DIR=str(theirs))
    assert (refused.returncode, "others may write there" in refused.stderr) == (126, True)


def test_a_new_version_removes_the_old_one_unless_it_runs(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first, second, third = (made(tmp_path, WAIT if n == "1" else PROGRAM, n) for n in "123")
    home.mkdir()
    env = {"PATH": os.environ["PATH"], "HOME": str(home)}
    running = subprocess.Popen([first], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    run(second, home=home)
    assert [one.name.split("-")[0] for one in unpacked(home)] == ["1", "2"]
    assert running.communicate("go on\n", timeout=30)[0] == "all of it\n"
    run(third, home=home)
    assert [one.name.split("-")[0] for one in unpacked(home)] == ["3"]
    # Who starts a removed version again has it again.
    again = subprocess.run([first], env=env, input="\n", capture_output=True, text=True, timeout=30)
    assert again.stdout == "ready\nall of it\n"


def test_a_start_waits_while_its_version_is_being_removed(tmp_path: Path) -> None:
    launcher, home = made(tmp_path), tmp_path / "home"
    run(launcher, home=home)
    (folder,) = unpacked(home)
    with folder.with_name(f"{folder.name}.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        env = {"PATH": os.environ["PATH"], "HOME": str(home)}
        waiting = subprocess.Popen([launcher, "at last"], env=env, stdout=subprocess.PIPE, text=True)
        shutil.rmtree(folder)
        assert waiting.poll() is None
    assert waiting.communicate(timeout=30)[0] == f"{waiting.pid} at last\n"
