"""What lies in the folder of skills: read when it changed, each for itself, and what is wrong with it told."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vespid_agent.logs import get_logger
from vespid_agent.skills import library as module
from vespid_agent.skills.document import Document
from vespid_agent.skills.library import Library
from vespid_agent.skills.manifest import FILE_MAX_BYTES, Skill

GOOD = {
    "id": "greet",
    "version": "1.0.0",
    "description": "Greets.",
    "entrypoint": "scripts/run.sh",
    "runtime": "shell",
    "inputSchema": {"type": "object"},
    "outputMode": "text",
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(name: str = "greet", text: str | None = None, *, first: str = "#!/bin/sh\n", **manifest: object) -> Path:
        folder = tmp_path / name
        (folder / "scripts").mkdir(parents=True, exist_ok=True)
        (folder / "scripts" / "run.sh").write_text(first)
        said = {key: value for key, value in {**GOOD, "id": name, **manifest}.items() if value is not None}
        (folder / "skill.json").write_text(text if text is not None else json.dumps(said))
        return folder

    return put


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path, get_logger("test"))


def problem(library: Library, name: str = "greet") -> str:
    library.refresh()
    assert [skill.id for skill in library.skills if skill.id == name] == []
    return library.problems[f"skill.{name}"]


def test_a_good_one_is_there_with_what_it_says(library: Library, write: Write) -> None:
    write(outputMode="json", sandbox={"backend": "docker", "timeoutMs": 5, "docker": {"image": "i"}})
    assert library.refresh()
    (skill,) = library.skills
    assert isinstance(skill, Skill)
    assert (skill.id, skill.version, skill.output_mode, skill.shell) == ("greet", "1.0.0", "json", "sh")
    assert (skill.wishes.backend, skill.wishes.timeout_ms, skill.wishes.image) == ("docker", 5, "i")
    assert library.problems == {}


def test_a_script_that_names_bash_gets_it(library: Library, write: Write) -> None:
    write(first="#!/usr/bin/env bash\n")
    library.refresh()
    (skill,) = library.skills
    assert isinstance(skill, Skill)
    assert skill.shell == "bash"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"id": "other"}, "'other'"),
        ({"description": " "}, "description"),
        ({"description": None}, "description"),
        ({"version": None}, "version"),
        ({"runtime": "ruby"}, "runtime"),
        ({"outputMode": "xml"}, "outputMode"),
        ({"inputSchema": {"type": "nonsense"}}, "inputSchema"),
        ({"inputSchema": {"$ref": "http://127.0.0.1:9/schema"}}, "inputSchema"),
        ({"inputSchema": True}, "inputSchema"),
        ({"entrypoint": "../other/run.sh"}, "entrypoint"),
        ({"entrypoint": "/bin/sh"}, "entrypoint"),
        ({"entrypoint": "scripts/../../greet/scripts/run.sh"}, "entrypoint"),
        ({"entrypoint": "scripts\\run.sh"}, "entrypoint"),
        ({"entrypoint": "scripts/none.sh"}, "entrypoint"),
        ({"entrypoint": "scripts"}, "entrypoint"),
        ({"entrypoint": ""}, "entrypoint"),
        ({"sandbox": {"backend": "moon"}}, "sandbox"),
        ({"sandbox": {"timeoutMs": "soon"}}, "sandbox"),
    ],
)
def test_what_is_wrong_is_named(library: Library, write: Write, change: dict[str, object], named: str) -> None:
    write(**change) if "id" not in change else write("greet", json.dumps({**GOOD, **change}))
    assert named in problem(library)


def test_no_json_too_much_of_it_and_none_at_all(library: Library, write: Write, tmp_path: Path) -> None:
    write("broken", "{")
    write("huge", " " * (FILE_MAX_BYTES + 1))
    (tmp_path / "empty").mkdir()
    write("folder").joinpath("skill.json").unlink()
    (tmp_path / "folder" / "skill.json").mkdir()
    os.mkfifo(write("pipe").joinpath("pipe"))
    (tmp_path / "pipe" / "skill.json").unlink()
    os.mkfifo(tmp_path / "pipe" / "skill.json")
    assert "skill.json" in problem(library, "broken")
    assert "bytes" in problem(library, "huge")
    assert "neither" in problem(library, "empty")
    assert "plain file" in problem(library, "folder") or "cannot be read" in problem(library, "folder")
    assert "plain file" in problem(library, "pipe")


@pytest.mark.promise("P11")
def test_an_entrypoint_behind_a_link_that_leads_out_is_none(library: Library, write: Write) -> None:
    folder = write()
    (folder / "scripts" / "run.sh").unlink()
    (folder / "scripts" / "run.sh").symlink_to("/bin/sh")
    assert "leads out" in problem(library)
    shutil.rmtree(folder / "scripts")
    (folder / "scripts").symlink_to("/bin")
    write_to = json.dumps({**GOOD, "entrypoint": "scripts/sh"})
    (folder / "skill.json").write_text(write_to)
    assert "leads out" in problem(library)


def test_a_folder_with_another_kind_of_name_is_told_of(library: Library, write: Write) -> None:
    write("My Skill")
    assert "name" in problem(library, "My Skill")


def test_a_bad_one_takes_no_other_with_it(library: Library, write: Write) -> None:
    write("bad", "{")
    write("good")
    write("worse", json.dumps(GOOD))
    library.refresh()
    assert [skill.id for skill in library.skills] == ["good"]
    assert sorted(library.problems) == ["skill.bad", "skill.worse"]


def test_every_change_is_seen_at_the_next_look(library: Library, write: Write, tmp_path: Path) -> None:
    assert not library.refresh()
    folder = write()
    assert library.refresh()
    assert not library.refresh()
    write(description="Greets otherwise.")
    assert library.refresh()
    assert library.skills[0].description == "Greets otherwise."
    (folder / "scripts" / "run.sh").unlink()
    assert library.refresh()
    assert library.skills == ()
    (folder / "scripts" / "run.sh").write_text("true")
    assert library.refresh()
    assert len(library.skills) == 1
    (folder / "scripts" / "run.sh").write_text("#!/bin/bash\n")
    assert library.refresh()
    shutil.rmtree(folder)
    assert library.refresh()
    assert (library.skills, library.problems) == ((), {})


def test_what_has_not_changed_is_not_read_again(
    library: Library, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    library.refresh()

    def never(folder: Path) -> Skill:
        raise AssertionError(folder)

    monkeypatch.setattr(module, "_read", never)
    assert not library.refresh()
    assert len(library.skills) == 1


def test_more_than_a_reasonable_number_is_a_problem(
    library: Library, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SKILLS_MAX", 2)
    for n in range(3):
        write(f"s{n}")
    library.refresh()
    assert library.skills == ()
    assert "more than 2" in library.problems["skill"]


def document(folder: Path, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "SKILL.md").write_text(text)


def test_a_document_is_a_skill_by_its_front_matter(library: Library, tmp_path: Path) -> None:
    document(tmp_path / "notes", "---\nname: Release notes\ndescription: |\n  How we\n  write.\n---\n# Do\n")
    document(tmp_path / "nameless", "---\r\ndescription: Short.\r\n---\r\nDo\r\n")
    library.refresh()
    nameless, notes = library.skills
    assert isinstance(notes, Document)
    assert (notes.name, notes.description) == ("Release notes", "How we\nwrite.")
    assert isinstance(nameless, Document)
    assert nameless.name == "nameless"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("# No front matter", "front matter"),
        ("---\nname: x\n# no end", "front matter"),
        ("---\nname: x\n---\n", "description"),
        ("---\ndescription: [a]\n---\n", "description"),
        ("---\nname: [a]\ndescription: x\n---\n", "name"),
        ("---\n- a\n---\n", "names and values"),
        ("---\ndescription: 'x\n---\n", "YAML"),
        ("---\ndescription: !!python/object/apply:os.system ['touch ran']\n---\n", "YAML"),
        ("---\na: &a [x]\nb: [*a, *a]\ndescription: x\n---\n", "aliases"),
        ("---\ndescription: x\nmore: " + "x" * 20_000 + "\n---\n", "characters"),
        ("---\ndescription: x\nmore: " + "[" * 3_000 + "\n---\n", "YAML"),
    ],
)
def test_a_document_without_good_front_matter_is_told_of(
    library: Library, tmp_path: Path, text: str, named: str
) -> None:
    document(tmp_path / "notes", text)
    assert named in problem(library, "notes")


def test_a_manifest_beside_a_document_is_what_counts(library: Library, write: Write) -> None:
    document(write(), "no front matter")
    library.refresh()
    assert [type(skill) for skill in library.skills] == [Skill]
