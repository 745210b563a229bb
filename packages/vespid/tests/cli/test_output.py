"""Columns, colours and JSON: for people at a terminal, for programs behind a pipe."""

import io
import json

import pytest

from vespid.cli.output import Output, status


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(screen: io.StringIO, **env: str) -> Output:
    return Output(as_json=False, stdout=screen, stderr=screen, env=env)


def test_a_pipe_gets_padded_columns_without_colours_and_tabs() -> None:
    pipe = io.StringIO()
    written(pipe).table(
        ("name", "status"), [(("box\t1", "bold"), status("online")), ("中文", status("offline"))], empty=""
    )
    assert pipe.getvalue() == "NAME   STATUS\nbox 1  online\n中文   offline\n"


@pytest.mark.parametrize("name", ["[red]x[/red]", "[/]", "[link=http://evil]x", ":boom:", "\\[b]"])
def test_what_looks_like_markup_is_shown_as_it_is(name: str) -> None:
    for screen in (io.StringIO(), Screen()):
        out = written(screen)
        out.table(("name",), [((name, "bold"),)], empty="")
        out.line((name, "red"))
        out.note(name)
        out.fields([("name", name)])
        assert screen.getvalue().count(name) == 4


def test_a_hostile_name_does_nothing_anywhere() -> None:
    screen = Screen()
    out = written(screen, NO_COLOR="1")
    name = "\x1b]0;owned\x07evil\x1b[2J\n\x9b"
    out.table((name,), [(name,)], empty="")
    out.line(name)
    out.warn(name)
    out.token("", name)
    out.block(name)
    out.exact(name)
    assert "\x1b" not in screen.getvalue()
    assert "\x07" not in screen.getvalue()
    assert "\x9b" not in screen.getvalue()


def test_a_narrow_terminal_cuts_the_columns_that_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    screen = Screen()
    written(screen, NO_COLOR="1").table(("id", "error"), [("0123456789", "e" * 60)], empty="", give=("error",))
    assert screen.getvalue().splitlines()[1] == "0123456789  " + "e" * 27 + "…"


def test_json_says_the_same_and_is_not_obeyed() -> None:
    screen = Screen()
    value = {"name": "中文 \x1b[2J \x9b \u202e"}
    written(screen).document(value)
    written(screen).event(value)
    text = screen.getvalue()
    assert "中文" in text
    assert not {"\x1b", "\x9b", "\u202e"} & set(text)
    assert json.loads(text.splitlines()[-1]) == value
