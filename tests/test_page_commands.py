"""What is red when a page and its commands differ: the rule of `…` and `<name>`, tried on pages of a few lines."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support.page_commands import PageWrong, Shell, Words, follow, steps_of

PAGE = Path("page.md")


@pytest_asyncio.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    opened = await Shell.open(tmp_path, {})
    yield opened
    await opened.close()


def page(*lines: str) -> str:
    return "\n".join(("# A page", "", "```console", *lines, "```", ""))


@pytest.mark.parametrize(
    "lines",
    [
        ("$ echo one; echo two", "one", "two"),
        ("$ echo one; echo two", "…"),
        ("$ echo one; echo two; echo three", "one", "…", "three"),
        ("$ echo one; echo two", "…", "one", "two"),
        ("$ echo took 12 ms", "took … ms"),
        ("$ true",),
        ("$ printf 'no end of line'", "no end of line"),
        ("$ echo bad >&2", "bad"),
        ("$ X=kept", "$ echo $X", "kept"),
        ("$ cat <<'END'", "> one", ">", "> two", "> END", "one", "", "two"),
        ("$ echo token=abc", "token=<token>", "$ echo say <token>", "say abc"),
        ("$ echo abc abc", "<word> <word>"),
        ("$ sleep 60 > log 2>&1 & KEPT=$!", "$ kill $KEPT"),
    ],
)
async def test_a_page_that_is_right_is_followed_to_its_end(shell: Shell, lines: tuple[str, ...]) -> None:
    await follow(PAGE, steps_of(page(*lines)), shell, Words(), places={})


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        (("$ echo one", "two"), 4),
        (("$ echo one",), 4),
        (("$ true", "one"), 4),
        (("$ echo one", "one", "$ echo two; echo more", "two"), 6),
        (("$ echo took 12 s", "took … ms"), 4),
        (("$ echo one; echo two", "one", "…", "three"), 4),
        (("$ echo abc", "<word>", "$ echo abd", "<word>"), 6),
        (("$ echo abc", "abc", "$ echo <word>", "abc"), 6),
        (("$ ecko one", "one"), 4),
        (("one",), 4),
    ],
)
async def test_what_differs_is_told_with_the_line_of_the_page(shell: Shell, lines: tuple[str, ...], wrong: int) -> None:
    with pytest.raises(PageWrong, match=rf"^(page\.md:)?{wrong}: "):
        await follow(PAGE, steps_of(page(*lines)), shell, Words(), places={})


async def test_addresses_are_those_of_the_test_in_commands_and_those_of_the_page_in_outputs(shell: Shell) -> None:
    text = page("$ echo http://127.0.0.1:3001/readyz; test $((3001)) = 3001", "http://127.0.0.1:3001/readyz")
    await follow(PAGE, steps_of(text), shell, Words(), places={"127.0.0.1:3001": "127.0.0.1:40000"})
    assert await shell.run("history | wc -l; echo http://127.0.0.1:40000") == ["0", "http://127.0.0.1:40000"]


async def test_what_is_still_to_come_true_is_looked_at_again(shell: Shell, tmp_path: Path) -> None:
    text = page("$ (sleep 0.3; echo ready >> log) 2>/dev/null &", "$ touch log; tail -n 1 log", "ready")
    await follow(PAGE, steps_of(text.replace("touch log; ", "")), shell, Words(), places={})
