"""The pages about the command lines know every command, and no command that is not there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from vespid.cli import create_app
from vespid_agent.cli import app as agent_app

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [("vespid", create_app(), DOCS / "cli.md"), ("vespid-agent", agent_app, DOCS / "agent.md")]
# Code of a page: fenced, indented or within a line.
_CODE = re.compile(r"```.*?```|^    .*$|`[^`\n]+`", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.parametrize(("program", "app", "page"), PAGES, ids=[program for program, _, _ in PAGES])


def commands(command: object, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Every command by its words, and whether it is a group."""
    below = getattr(command, "commands", {})
    if names:
        yield names, bool(below)
    for name, child in below.items():
        if not child.hidden:
            yield from commands(child, (*names, name))


def mentioned(page: Path, program: str) -> set[tuple[str, ...]]:
    """The words behind the program's name, wherever the page has it in code."""
    found: set[tuple[str, ...]] = set()
    for code in _CODE.findall(page.read_text()):
        for rest in re.findall(rf"(?<![\w./-]){program}((?: [a-z][a-z-]*)+)", code):
            found.add(tuple(rest.split()))
    return found


def test_every_command_is_on_the_page(program: str, app: typer.Typer, page: Path) -> None:
    told = mentioned(page, program)
    missing = [
        " ".join((program, *names))
        for names, is_group in commands(get_command(app))
        if not is_group and not any(words[: len(names)] == names for words in told)
    ]
    assert missing == []


def test_every_command_on_the_page_is_there(program: str, app: typer.Typer, page: Path) -> None:
    known = dict(commands(get_command(app)))
    unknown = []
    for words in mentioned(page, program):
        is_group = known.get(words[:1])
        if is_group is None or (is_group and len(words) > 1 and words[:2] not in known):
            unknown.append(" ".join((program, *words)))
    assert unknown == []
