"""Working directories: no name and no link leads out of the root."""

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vespid_agent.sandbox.task import SandboxError
from vespid_agent.sandbox.workdir import Workdirs, directory_name, is_own_directory


@pytest.mark.promise("P11")
@given(st.text(max_size=200), st.text(max_size=200))
def test_any_two_names_give_two_plain_directories(one: str, other: str) -> None:
    for name in (directory_name(one), directory_name(other)):
        assert name not in ("", ".", "..")
        assert "/" not in name
        assert "\0" not in name
        assert len(name) <= 64
    assert (directory_name(one) == directory_name(other)) == (one == other)


@pytest.mark.promise("P11")
def test_names_that_differ_in_case_alone_get_two_folders_where_the_file_system_does_not_tell_them_apart() -> None:
    names = [directory_name(name, folds_case=True) for name in ("build", "Build", "BUILD")]
    assert names[0] == "build"
    assert len({name.lower() for name in names}) == 3
    assert [directory_name(name, folds_case=False) for name in ("build", "Build")] == ["build", "Build"]


@pytest.mark.promise("P11")
@pytest.mark.parametrize("name", ["con", "NUL", "aux", "com1", "lpt9"])
def test_device_of_windows_is_no_folder(name: str) -> None:
    assert directory_name(name, folds_case=True).startswith("~")


@pytest.mark.promise("P11")
def test_junction_is_no_directory_of_ours() -> None:
    class Status:
        st_mode = stat.S_IFDIR | 0o700
        st_file_attributes = stat.FILE_ATTRIBUTE_DIRECTORY

    status = Status()
    assert is_own_directory(status)  # type: ignore[arg-type]
    status.st_file_attributes |= stat.FILE_ATTRIBUTE_REPARSE_POINT
    assert not is_own_directory(status)  # type: ignore[arg-type]


@pytest.mark.promise("P11")
@pytest.mark.parametrize("name", ["../../etc", "/etc", ".", "..", "", "a/b", "a\0b", "~root", "x" * 300, "\ud800"])
def test_hostile_names_stay_below_the_root(tmp_path: Path, name: str) -> None:
    made = Workdirs(tmp_path / "root").open(name, name)
    assert made.resolve().is_relative_to((tmp_path / "root").resolve())
    assert len(made.relative_to(tmp_path / "root").parts) == 2


def test_no_nodes_folder_is_the_one_they_share(tmp_path: Path) -> None:
    workdirs = Workdirs(tmp_path / "root")
    shared = workdirs.open("run", None)
    assert shared == workdirs.open("run", None)
    assert shared not in {workdirs.open("run", name) for name in ("~run", "run", "", "None")}
    assert shared != workdirs.open("other", None)


@pytest.mark.promise("P11")
def test_a_link_in_place_of_a_directory_is_refused(tmp_path: Path) -> None:
    workdirs = Workdirs(tmp_path / "root")
    node = workdirs.open("run", "n1")
    node.rmdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    node.symlink_to(outside)
    with pytest.raises(SandboxError) as refused:
        workdirs.open("run", "n1")
    assert refused.value.code == "WORKDIR_UNSAFE"


def test_directories_are_closed_to_other_users(tmp_path: Path) -> None:
    node = Workdirs(tmp_path / "root").open("run", "n1")
    assert [path.stat().st_mode & 0o777 for path in (node, node.parent, node.parent.parent)] == [0o700] * 3


def test_the_same_node_finds_its_files_again(tmp_path: Path) -> None:
    workdirs = Workdirs(tmp_path / "root")
    (workdirs.open("run", "n1") / "file").write_text("x")
    assert (workdirs.open("run", "n1") / "file").read_text() == "x"
