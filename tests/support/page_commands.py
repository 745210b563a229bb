"""Commands of a page of docs/, run in a shell as a reader would, and what they print compared with what the page says.

In a block fenced by ```console a line with `$ ` in front is a command, lines with `> ` below it go on with it, and what
follows is what it prints, on stdout and stderr together. There

    …        stands for anything within a line, and on a line of its own for any lines;
    <name>   stands for a word that the reader takes from there: it is put into later commands that say `<name>`,
             and where the page has it in a later output, it must be the same word.

Commands that only look are asked again until the page is right, as a reader would who waits for something.
"""

import asyncio
import os
import re
import secrets
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

# Commands that only look.
_LOOKS = re.compile(
    r"(\S*/)?vespid (agent|run|session|approval|workflow) (ls|show)|vespid-agent status|tail "
    r"|curl -s \S+( |$)(?!.* -d )"
)
LOOK_WITHIN_S: Final = 20.0
LOOK_AGAIN_S: Final = 0.2
WITHIN_S: Final = 60.0

_BLOCK = re.compile(r"^( *)```console\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_HOLE = re.compile(r"…|<([a-zA-Z][a-zA-Z0-9-]*)>")
_WORD = r"[^\s\"',]+"


@dataclass(frozen=True)
class Step:
    """A command and what the page says that it prints."""

    line: int
    command: str
    expected: tuple[str, ...]


class PageWrong(AssertionError):
    """What a command printed is not what the page says; names the line."""


def steps_of(text: str) -> list[Step]:
    """The commands of a page in their order. Raises PageWrong where a block does not begin with one."""
    found: list[Step] = []
    for block in _BLOCK.finditer(text):
        indent, first = len(block[1]), text.count("\n", 0, block.start()) + 2
        lines = [line[indent:] for line in block[2].splitlines()]
        found += _steps_of_block(lines, first)
    return found


def _steps_of_block(lines: list[str], first: int) -> Iterator[Step]:
    at = 0
    while at < len(lines):
        if not lines[at].startswith("$ "):
            raise PageWrong(f"{first + at}: a block begins with a command, `$ …`, not with {lines[at]!r}")
        begun, command = at, [lines[at][2:]]
        at += 1
        while at < len(lines) and (lines[at] == ">" or lines[at].startswith("> ")):
            command.append(lines[at][2:])
            at += 1
        expected = []
        while at < len(lines) and not lines[at].startswith("$ "):
            expected.append(lines[at])
            at += 1
        yield Step(first + begun, "\n".join(command), tuple(expected))


class Words:
    """What `<name>` stands for, once it was seen."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def fill(self, step: Step) -> str:
        """The command with the words in it. Raises PageWrong for a word that nothing has said."""

        def word(hole: re.Match[str]) -> str:
            if hole[1] is None:
                raise PageWrong(f"{step.line}: a command is whole, without `…`")
            if hole[1] not in self.known:
                raise PageWrong(f"{step.line}: nothing above has said what <{hole[1]}> is")
            return self.known[hole[1]]

        return _HOLE.sub(word, step.command)

    def take(self, step: Step, printed: Sequence[str]) -> None:
        """Learn the words of what was printed. Raises PageWrong where that is not what the page says."""
        found = self.match(step, printed)
        if found is None:
            said, was = "\n".join(step.expected), "\n".join(printed)
            raise PageWrong(f"{step.line}: $ {step.command}\n--- the page says\n{said}\n--- it printed\n{was}")
        self.known.update({name.replace("_", "-"): word for name, word in found.groupdict().items()})

    def match(self, step: Step, printed: Sequence[str]) -> re.Match[str] | None:
        """What was printed as the page says it; None where it is not."""
        names: set[str] = set()
        pattern = "".join(self._line_pattern(line, names) for line in step.expected)
        return re.fullmatch(pattern, "".join(f"{line}\n" for line in printed))

    def _line_pattern(self, line: str, names: set[str]) -> str:
        if line.strip() == "…":
            return r"(?:.*\n)*?"
        pattern, end = "", 0
        for hole in _HOLE.finditer(line):
            pattern += re.escape(line[end : hole.start()]) + self._hole_pattern(hole[1], names)
            end = hole.end()
        return pattern + re.escape(line[end:].rstrip()) + r"[ ]*\n"

    def _hole_pattern(self, name: str | None, names: set[str]) -> str:
        if name is None:
            return ".*?"
        if name in self.known:
            return re.escape(self.known[name])
        if name in names:
            return f"(?P={_group(name)})"
        names.add(name)
        return f"(?P<{_group(name)}>{_WORD})"


def _group(name: str) -> str:
    return name.replace("-", "_")


class Shell:
    """One bash, kept open from the first command to the last; what it left running ends with it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def open(cls, folder: Path, env: Mapping[str, str]) -> Self:
        """In that folder, which is home too."""
        bash = await asyncio.create_subprocess_exec(
            *("bash", "--noprofile", "--norc"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", "TZ": "UTC", **env},
            start_new_session=True,
        )
        return cls(bash)

    async def run(self, command: str, within_s: float = WITHIN_S) -> list[str]:
        """What the command printed, by lines; what it leaves in the background must print elsewhere."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        mark = f"-- {secrets.token_hex(8)} --"
        # Commands have no stdin of their own: what they read would be what is said next.
        self._process.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\n%s\\n' '{mark}'\n".encode())
        await self._process.stdin.drain()
        lines: list[str] = []
        async with asyncio.timeout(within_s):
            while True:
                raw = await self._process.stdout.readline()
                if not raw:
                    raise PageWrong(f"the shell ended at {command!r}:\n{chr(10).join(lines)}")
                line = raw.decode(errors="replace").rstrip("\r\n")
                if line == mark:
                    break
                lines.append(line)
        # The mark stands on a line of its own, whether or not the last line of the output had an end.
        if lines and not lines[-1]:
            lines.pop()
        return lines

    async def close(self) -> None:
        """End what was started in the background, by its process id, then the shell."""
        for pid in await self.run("jobs -p"):
            if pid.isdigit():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGTERM)
        await self.run("wait")
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


async def follow(page: Path, steps: Sequence[Step], shell: Shell, words: Words, *, places: Mapping[str, str]) -> None:
    """Run commands of a page. Raises PageWrong at the first that does not print what the page says.

    `places`: addresses as the page has them, and where they are in this test.
    """
    back = {there: here for here, there in places.items()}
    for step in steps:
        try:
            command = replaced(words.fill(step), places)
            printed = await _run_until_right(shell, step, command, words, back)
            words.take(step, printed)
        except PageWrong as wrong:
            raise PageWrong(f"{page.name}:{wrong}") from None


async def _run_until_right(shell: Shell, step: Step, command: str, words: Words, back: Mapping[str, str]) -> list[str]:
    loop = asyncio.get_running_loop()
    until = loop.time() + LOOK_WITHIN_S
    while True:
        try:
            printed = [replaced(line, back) for line in await shell.run(command)]
        except TimeoutError:
            raise PageWrong(f"{step.line}: $ {step.command}\n--- it has not ended") from None
        if not _LOOKS.match(step.command) or words.match(step, printed) or loop.time() > until:
            return printed
        await asyncio.sleep(LOOK_AGAIN_S)


def replaced(text: str, places: Mapping[str, str]) -> str:
    """The text with each address where it is in `places`."""
    for here, there in places.items():
        text = text.replace(here, there)
    return text
