"""Where memory lies: no key meets another, no path leads out."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vespid_runtime.memory.paths import MemoryRefused, document_path, folder_names, same_file_key, session_folder

ORG = "0b8d2b4e-7d0f-4d56-9a3a-0d2f9d3d6a11"
_KEYS = st.text(st.characters(), min_size=1, max_size=300) | st.text("aA./\\-:~é\u0301 ", min_size=1, max_size=40)
_PATHS = st.text(st.characters(), max_size=80) | st.text("mMeory/.d\\ \x00:A", max_size=30)


@given(_KEYS)
def test_folder_of_any_key_is_one_plain_short_name(key: str) -> None:
    _organization, name = folder_names(ORG, key)
    assert re.fullmatch(r"[a-z0-9_-]+", name)
    assert len(name.encode()) <= 120


@given(_KEYS, _KEYS)
def test_two_keys_never_share_a_folder_even_where_case_does_not_matter(one: str, other: str) -> None:
    same = folder_names(ORG, one)[1].casefold() == folder_names(ORG, other)[1].casefold()
    assert same == (one == other)


@pytest.mark.parametrize(
    ("one", "other"), [("a/b", "a-b"), ("A", "a"), ("é", "e\u0301"), ("x", "x "), ("\ud800", "\ud801")]
)
def test_keys_that_look_alike_have_folders_of_their_own(one: str, other: str) -> None:
    assert folder_names(ORG, one) != folder_names(ORG, other)


def test_folder_says_whose_it_is() -> None:
    folder = session_folder(Path("/r"), ORG.upper(), f"agent:main:org:{ORG}:scope:per-peer:peer:ann")
    assert folder.parent == Path("/r") / ORG
    assert folder.name.startswith("agent-main-scope-per-peer-peer-ann-")


@pytest.mark.parametrize(("organization", "key", "field"), [("../x", "k", "organizationId"), (ORG, "", "sessionKey")])
def test_what_is_no_key_is_refused_by_name(organization: str, key: str, field: str) -> None:
    with pytest.raises(MemoryRefused, match=f"^{field}: ") as refused:
        folder_names(organization, key)
    assert refused.value.field == field


@pytest.mark.parametrize(
    "path",
    [
        "MEMORY.md",
        "memory/a.md",
        "memory/b c/d.md",
        "memory/日記/二〇二六.md",
        "memory/a/b/c/d/e/f/g.md",
        "memory/v1.2.md",
    ],
)
def test_document_may_be_there(path: str) -> None:
    assert document_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "memory",
        "memory/",
        "memory.md",
        "memory.md/x.md",
        "Memory.md",
        "MEMORY.MD",
        "MEMORY.md/x.md",
        "Memory/x.md",
        "x.md",
        "./MEMORY.md",
        "/MEMORY.md",
        "/etc/passwd",
        "memory/../MEMORY.md",
        "memory/../../x.md",
        "memory//x.md",
        "memory/./x.md",
        "memory\\..\\x.md",
        "C:memory/x.md",
        "memory/x.md:stream.md",
        "memory/x.txt",
        "memory/x.MD",
        "memory/.md",
        "memory/.git/x.md",
        "memory/a\x00b.md",
        "memory/a\nb.md",
        "memory/a\u2028b.md",
        "memory/a\ud800.md",
        "memory/con.md",
        "memory/CON .x.md",
        "memory/lpt¹.md",
        "memory/aux/x.md",
        "memory/x.md/y.md",
        "memory/X.MD/y.md",
        "memory/x /y.md",
        "memory/x./y.md",
        "memory/ x.md",
        "memory/" + "x" * 198 + ".md",
        "memory/" + "/".join("x" * 90 for _ in range(5)) + ".md",
        "memory/" + "d/" * 7 + "x.md",
    ],
)
def test_document_may_not_be_there(path: str) -> None:
    with pytest.raises(MemoryRefused, match=r"^path: "):
        document_path(path)


@given(_PATHS)
def test_path_that_is_let_in_stays_below_and_is_spelled_once(text: str) -> None:
    for candidate in (text, f"memory/{text}.md"):
        try:
            path = document_path(candidate)
        except MemoryRefused:
            continue
        assert document_path(path) == path
        assert Path("/r", path).resolve() == Path("/r") / path
        assert path == "MEMORY.md" or path.startswith("memory/")


def test_spellings_of_a_letter_are_one_path() -> None:
    assert document_path("memory/e\u0301.md") == document_path("memory/é.md")


def test_paths_that_differ_in_case_only_are_one_file() -> None:
    assert same_file_key("memory/Größe.md") == same_file_key("memory/GRÖSSE.md")
