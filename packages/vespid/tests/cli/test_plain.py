"""What comes from agents, workflows and models reaches a terminal as text and colours, and as nothing else."""

import pytest

from vespid.cli.plain import RESET, coloured, plain, visible

HOSTILE = {
    "clears the screen": "\x1b[2J\x1b[H",
    "moves the cursor": "\x1b[1A\x1b[K",
    "sets the title": "\x1b]0;owned\x07",
    "sets the title, ended by ST": "\x1b]0;owned\x1b\\",
    "writes the clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "is a link": "\x1b]8;;http://evil\x1b\\",
    "asks the terminal": "\x1b[c\x1b[6n",
    "a device string": "\x1bP+q544e\x1b\\",
    "resets": "\x1bc",
    "the alternate screen": "\x1b[?1049h",
    "a C1 control": "\x9b2J",
    "rings": "\x07",
    "goes back": "\x08\x08",
    "turns the direction": "\u202e\u2066",
    "cannot be seen": "\u200b\ufeff\U000e0041",
}


@pytest.mark.parametrize("sequence", HOSTILE.values(), ids=HOSTILE.keys())
def test_nothing_but_colours_is_obeyed(sequence: str) -> None:
    for text in (plain(f"a{sequence}b"), coloured(f"a{sequence}b", keep_colours=True)):
        assert text.replace("2J", "") == "ab"


@pytest.mark.parametrize("sequence", ["\x1b[", "\x1b]0;title", "\x1b", "\x1b[38;5"])
def test_a_sequence_that_is_cut_off_hides_nothing_behind_it(sequence: str) -> None:
    assert "\x1b" not in coloured(sequence, keep_colours=True)
    assert plain(f"{sequence}\nrm -rf /").endswith("rm -rf /")


def test_colours_stay_where_there_may_be_any_and_are_switched_off_at_the_end() -> None:
    assert coloured("\x1b[32mgreen\x1b[0m", keep_colours=True) == "\x1b[32mgreen\x1b[0m"
    assert coloured("\x1b[1;38;5;8mgrey", keep_colours=True) == f"\x1b[1;38;5;8mgrey{RESET}"
    assert coloured("\x1b[32mgreen\x1b[0m", keep_colours=False) == "green"


@pytest.mark.parametrize("sequence", ["\x1b[8m", "\x1b[1;8m", "\x1b[5m", "\x1b[38;2;1;2;3;8m", "\x1b[08m"])
def test_text_cannot_be_concealed(sequence: str) -> None:
    assert coloured(f"{sequence}rm", keep_colours=True) == "rm"


def test_a_lone_return_overwrites_nothing() -> None:
    assert coloured("rm -rf /\rls      ", keep_colours=True) == "rm -rf /\nls      "
    assert coloured("a\r\nb", keep_colours=True) == "a\nb"
    assert plain("a\tb\r\nc") == "a b  c"


def test_what_is_decided_about_is_spelled_out_whole() -> None:
    assert visible("echo \x1b[8mrm\u202e\r\n\tx\u200d") == "echo <U+001B>[8mrm<U+202E><U+000D>\n\tx<U+200D>"
    assert visible("plain ü 中文\n\t") == "plain ü 中文\n\t"
