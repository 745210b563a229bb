"""The documents of a session: limits, what travels, and what somebody hostile puts in their place."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from vespid_protocol.frames import MemoryDocument
from vespid_runtime.memory import limits, tree, workspace
from vespid_runtime.memory.paths import MemoryRefused
from vespid_runtime.memory.tree import TreeByDescriptor, TreeByName
from vespid_runtime.memory.workspace import DELETED_SHA256, MemoryWorkspace, content_sha256

ORG = "0b8d2b4e-7d0f-4d56-9a3a-0d2f9d3d6a11"


@pytest.fixture(params=[TreeByDescriptor, TreeByName])
def memory(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MemoryWorkspace:
    monkeypatch.setattr(workspace, "open_tree", request.param)
    return MemoryWorkspace(tmp_path / "root", ORG, "key")


def document(path: str, content: str | None) -> MemoryDocument:
    return MemoryDocument(path=path, sha256="", content=content)


def everything(memory: MemoryWorkspace) -> dict[str, str | None]:
    return {document.path: document.content for document in memory.changes({}).documents}


# --- documents -------------------------------------------------------------------------------------------------------


def test_looking_makes_nothing_on_the_disk(memory: MemoryWorkspace) -> None:
    assert memory.paths() == []
    assert memory.read("MEMORY.md") is None
    assert not memory.remove("memory/a.md")
    assert memory.search("x") == []
    assert not memory.folder.parent.parent.exists()


def test_what_is_written_is_read(memory: MemoryWorkspace) -> None:
    assert memory.write("memory/a/b.md", "naïve\r\n") == content_sha256("naïve\r\n")
    assert memory.read("memory/a/b.md") == "naïve\r\n"
    assert memory.paths() == ["memory/a/b.md"]


def test_appended_text_is_on_lines_of_its_own(memory: MemoryWorkspace) -> None:
    memory.append("MEMORY.md", "one")
    memory.append("MEMORY.md", "two\n")
    memory.append("MEMORY.md", "three")
    assert memory.read("MEMORY.md") == "one\ntwo\nthree"


def test_two_sessions_do_not_see_each_other(memory: MemoryWorkspace, tmp_path: Path) -> None:
    memory.write("MEMORY.md", "mine")
    assert MemoryWorkspace(tmp_path / "root", ORG, "Key").read("MEMORY.md") is None


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_nobody_else_on_the_host_reads_it(memory: MemoryWorkspace, tmp_path: Path) -> None:
    memory.write("memory/a/b.md", "x")
    for path in (tmp_path / "root").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_bytes_that_are_no_text_survive_as_replacements(memory: MemoryWorkspace) -> None:
    memory.write("memory/a.md", "")
    (memory.folder / "memory" / "a.md").write_bytes(b"ok \xff\xfe\x00 ok")
    assert memory.read("memory/a.md") == "ok \ufffd\ufffd\ufffd ok"
    assert memory.write("memory/b.md", "\x00\ud800") == content_sha256("\ufffd\ufffd")


def test_removed_document_leaves_no_empty_folder(memory: MemoryWorkspace) -> None:
    memory.write("memory/a/b/c.md", "x")
    memory.write("memory/a/d.md", "x")
    assert memory.remove("memory/a/b/c.md")
    assert sorted(path.name for path in (memory.folder / "memory" / "a").iterdir()) == ["d.md"]


def test_write_that_fails_leaves_the_old_text_and_nothing_else(
    memory: MemoryWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.write("MEMORY.md", "old")

    def no_space(descriptor: int, data: bytes) -> None:
        os.close(descriptor)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tree, "_write", no_space)
    with pytest.raises(MemoryRefused, match="No space left"):
        memory.write("MEMORY.md", "new")
    assert [path.name for path in memory.folder.iterdir()] == ["MEMORY.md"]
    assert memory.read("MEMORY.md") == "old"


# --- limits ----------------------------------------------------------------------------------------------------------


def test_one_document_has_a_limit(memory: MemoryWorkspace) -> None:
    memory.write("MEMORY.md", "x" * limits.DOCUMENT_MAX_BYTES)
    with pytest.raises(MemoryRefused, match=r"^content: MEMORY.md is larger than 262144 bytes"):
        memory.append("MEMORY.md", "x")
    with pytest.raises(MemoryRefused, match=r"^content: "):
        memory.write("MEMORY.md", "ü" * limits.DOCUMENT_MAX_BYTES)


def test_number_of_documents_has_a_limit(memory: MemoryWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DOCUMENTS_MAX", 3)
    memory.apply(document(f"memory/{number}.md", "x") for number in range(3))
    with pytest.raises(MemoryRefused, match="at most 3 documents"):
        memory.write("memory/4.md", "x")
    memory.write("memory/0.md", "other")


def test_files_beyond_the_number_do_not_travel_and_stay_where_they_are(
    memory: MemoryWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.apply(document(f"memory/{number}.md", "x") for number in range(5))
    known = memory.snapshot()
    monkeypatch.setattr(limits, "DOCUMENTS_MAX", 3)
    changes = memory.changes(known)
    assert changes.documents == ()
    assert [refused.field for refused in changes.left_out] == ["path"]


def test_all_of_it_has_a_limit(memory: MemoryWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TOTAL_MAX_BYTES", 10)
    memory.write("memory/a.md", "123456")
    with pytest.raises(MemoryRefused, match="larger than 10 bytes"):
        memory.write("memory/b.md", "12345")
    memory.write("memory/a.md", "1234567890")


def test_too_large_a_file_is_left_out_and_said_and_keeps_nobody_from_writing(memory: MemoryWorkspace) -> None:
    memory.write("memory/a.md", "a")
    known = {"memory/big.md": "as it was", "memory/a.md": "other"}
    (memory.folder / "memory" / "big.md").write_bytes(b"x" * (limits.TOTAL_MAX_BYTES + 1))
    memory.write("memory/b.md", "b")
    changes = memory.changes(known)
    assert [found.path for found in changes.documents] == ["memory/a.md", "memory/b.md"]
    assert [str(refused) for refused in changes.left_out] == ["content: memory/big.md is larger than 262144 bytes"]


def test_names_that_are_one_file_elsewhere_are_refused(memory: MemoryWorkspace) -> None:
    memory.write("memory/Notes/a.md", "x")
    for path in ("memory/notes/b.md", "memory/Notes/A.md"):
        with pytest.raises(MemoryRefused, match=r"would be one file on some systems"):
            memory.write(path, "y")
    memory.write("memory/Notes/a.md", "z")


def test_names_that_are_one_file_elsewhere_do_not_both_travel(memory: MemoryWorkspace) -> None:
    memory.write("memory/A.md", "x")
    (memory.folder / "memory" / "a.md").write_text("y")
    changes = memory.changes({})
    assert [found.path for found in changes.documents] == ["memory/A.md"]
    assert len(changes.left_out) == 1
    memory.write("memory/b.md", "still")


# --- what travels ----------------------------------------------------------------------------------------------------


def test_changes_are_what_differs_from_a_snapshot(memory: MemoryWorkspace) -> None:
    memory.apply([document("MEMORY.md", "same"), document("memory/a.md", "old"), document("memory/gone.md", "x")])
    before = memory.snapshot()
    memory.write("memory/a.md", "new")
    memory.write("memory/b.md", "more")
    memory.remove("memory/gone.md")
    assert memory.changes(before).documents == (
        MemoryDocument(path="memory/a.md", sha256=content_sha256("new"), content="new"),
        MemoryDocument(path="memory/b.md", sha256=content_sha256("more"), content="more"),
        MemoryDocument(path="memory/gone.md", sha256=DELETED_SHA256, content=None),
    )
    assert memory.changes(memory.snapshot()).documents == ()


def test_changes_of_one_host_make_another_equal(memory: MemoryWorkspace, tmp_path: Path) -> None:
    other = MemoryWorkspace(tmp_path / "other", ORG, "key")
    memory.apply([document("MEMORY.md", "m"), document("memory/日記.md", "x")])
    other.apply(memory.changes({}).documents)
    before = memory.snapshot()
    memory.apply([document("memory/日記.md", None), document("memory/c.md", "c")])
    other.apply(memory.changes(before).documents)
    assert other.snapshot() == memory.snapshot()


def test_whole_memory_brought_in_leaves_nothing_else(memory: MemoryWorkspace) -> None:
    memory.apply([document("MEMORY.md", "old"), document("memory/old/x.md", "old")])
    (memory.folder / ".new-0123").write_text("of a process that was killed")
    memory.apply([document("memory/new.md", "new")], whole=True)
    assert [path.name for path in memory.folder.iterdir()] == ["memory"]
    assert everything(memory) == {"memory/new.md": "new"}


def test_documents_that_are_refused_change_nothing(memory: MemoryWorkspace) -> None:
    memory.write("MEMORY.md", "old")
    for bad in ("memory/../../x.md", "/etc/x.md", "x.md"):
        with pytest.raises(MemoryRefused):
            memory.apply([document("MEMORY.md", "new"), document(bad, "x")], whole=True)
    assert everything(memory) == {"MEMORY.md": "old"}


def test_documents_beyond_a_limit_change_nothing(memory: MemoryWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TOTAL_MAX_BYTES", 10)
    memory.apply([document("MEMORY.md", "old"), document("memory/gone.md", "x")])
    changes = [("memory/gone.md", None), ("memory/a.md", "12345"), ("memory/b.md", "678")]
    with pytest.raises(MemoryRefused, match="larger than 10 bytes"):
        memory.apply(document(path, text) for path, text in changes)
    assert everything(memory) == {"MEMORY.md": "old", "memory/gone.md": "x"}


def test_of_two_that_say_one_path_the_later_counts(memory: MemoryWorkspace) -> None:
    memory.apply([document("memory/a.md", None), document("memory/a.md", "there")])
    memory.apply([document("memory/b.md", "x"), document("memory/b.md", None)])
    assert everything(memory) == {"memory/a.md": "there"}


def test_search_sees_the_files_as_they_are_now(memory: MemoryWorkspace) -> None:
    memory.write("MEMORY.md", "apples")
    assert [found.path for found in memory.search("apples")] == ["MEMORY.md"]
    memory.write("MEMORY.md", "pears")
    assert memory.search("apples") == []
    assert [found.snippet for found in memory.search("pears")] == ["pears"]
    memory.remove("MEMORY.md")
    assert memory.search("pears") == []


# --- attacks ---------------------------------------------------------------------------------------------------------

needs_links = pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")


@needs_links
def test_no_link_is_read_written_or_listed(memory: MemoryWorkspace, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.md").write_text("secret")
    memory.write("memory/a.md", "x")
    (memory.folder / "memory" / "file.md").symlink_to(outside / "secret.md")
    (memory.folder / "memory" / "folder").symlink_to(outside)
    (memory.folder / "MEMORY.md").symlink_to(outside / "made.md")
    assert everything(memory) == {"memory/a.md": "x"}
    assert memory.read("memory/file.md") is None
    assert memory.read("memory/folder/secret.md") is None
    with pytest.raises(MemoryRefused):
        memory.write("memory/folder/made.md", "x")
    assert not memory.remove("memory/folder/secret.md")
    memory.write("MEMORY.md", "mine")  # in the place of the link, not through it
    assert [path.name for path in outside.iterdir()] == ["secret.md"]
    assert (outside / "secret.md").read_text() == "secret"
    assert not (memory.folder / "MEMORY.md").is_symlink()


@needs_links
def test_folder_of_the_session_that_is_a_link_is_not_entered(memory: MemoryWorkspace, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "memory").mkdir(parents=True)
    (outside / "memory" / "a.md").write_text("secret")
    memory.folder.parent.mkdir(parents=True)
    memory.folder.symlink_to(outside)
    assert memory.read("memory/a.md") is None
    with pytest.raises(OSError):
        memory.paths()
    with pytest.raises((OSError, MemoryRefused)):
        memory.write("memory/b.md", "x")
    assert [path.name for path in (outside / "memory").iterdir()] == ["a.md"]


@needs_links
@pytest.mark.parametrize("act", [lambda m: m.read("memory/d/x.md"), lambda m: m.write("memory/d/x.md", "new")])
def test_link_swapped_in_between_two_steps_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[MemoryWorkspace], str | None]
) -> None:
    memory = MemoryWorkspace(tmp_path / "root", ORG, "key")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.md").write_text("secret")
    memory.write("memory/d/x.md", "mine")
    folder, away = memory.folder / "memory" / "d", memory.folder / "memory" / "away"
    opened = os.open

    def swap_then_open(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        descriptor = opened(path, flags, mode, dir_fd=dir_fd)
        if path == "d" and not away.exists():
            folder.rename(away)
            folder.symlink_to(outside)
        return descriptor

    monkeypatch.setattr(os, "open", swap_then_open)
    try:
        found = act(memory)
    except MemoryRefused:
        found = None
    assert away.exists()
    assert found != "secret"
    assert (outside / "x.md").read_text() == "secret"
    assert [path.name for path in outside.iterdir()] == ["x.md"]


@needs_links
def test_what_is_no_file_keeps_nobody_waiting(memory: MemoryWorkspace) -> None:
    memory.write("memory/a.md", "x")
    os.mkfifo(memory.folder / "memory" / "pipe.md")
    (memory.folder / "memory" / "folder.md").mkdir()
    assert memory.read("memory/pipe.md") is None
    assert memory.read("memory/folder.md") is None
    assert everything(memory) == {"memory/a.md": "x"}
    with pytest.raises(MemoryRefused):
        memory.write("memory/folder.md", "x")


@needs_links
def test_names_that_are_no_documents_are_passed_over(memory: MemoryWorkspace) -> None:
    memory.write("memory/a.md", "x")
    for name in (b"\xff.md", b"con.md", b"a\nb.md", b"x.txt", b".hidden.md", b"e\xcc\x81.md", b"a:b.md"):
        (Path(os.fsdecode(os.fsencode(memory.folder / "memory") + b"/" + name))).write_text("x")
    deep = memory.folder / "memory"
    for _ in range(12):
        deep = deep / "d"
        deep.mkdir()
        (deep / "x.md").write_text("deep")
    found = memory.paths()
    assert [path for path in found if "/d/" not in path] == ["memory/a.md"]
    assert len([path for path in found if "/d/" in path]) == 6


def test_call_that_comes_again_writes_once(memory: MemoryWorkspace) -> None:
    first = memory.write_once("run:n:tool:0", "MEMORY.md", "one", append=True)
    assert memory.write_once("run:n:tool:0", "MEMORY.md", "one", append=True) == first
    memory.write_once("other:n:tool:0", "MEMORY.md", "two", append=True)
    assert memory.write_once("run:n:tool:0", "MEMORY.md", "one", append=True) == first
    assert memory.read("MEMORY.md") == "one\ntwo"
    assert memory.paths() == ["MEMORY.md"]


def test_call_that_was_cut_off_between_its_note_and_its_document_writes_when_it_comes_again(
    memory: MemoryWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(memory, "_write", lambda path, content: None)
        memory.write_once("run:n:tool:0", "MEMORY.md", "one", append=True)
    memory.write_once("other:n:tool:0", "MEMORY.md", "two", append=True)
    memory.write_once("run:n:tool:0", "MEMORY.md", "one", append=True)
    assert memory.read("MEMORY.md") == "two\none"


def test_note_of_calls_that_nobody_can_read_is_begun_anew(memory: MemoryWorkspace) -> None:
    memory.write_once("run:n:tool:0", "MEMORY.md", "one", append=False)
    (memory.folder / ".calls").write_text("{")
    memory.write_once("run:n:tool:1", "MEMORY.md", "two", append=True)
    assert memory.read("MEMORY.md") == "one\ntwo"


def test_number_of_calls_known_has_a_limit(memory: MemoryWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vespid_runtime.memory.calls.CALLS_MAX", 2)
    for call in range(5):
        memory.write_once(f"run:n:tool:{call}", "MEMORY.md", str(call), append=True)
    assert (memory.folder / ".calls").stat().st_size < 500
    assert memory.write_once("run:n:tool:4", "MEMORY.md", "4", append=True)
    assert memory.read("MEMORY.md") == "0\n1\n2\n3\n4"
