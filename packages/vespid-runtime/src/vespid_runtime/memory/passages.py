"""Markdown in passages: what a search finds is a piece that can be read at once, under the headings it stands below."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$")
_FENCE = re.compile(r" {0,3}(```|~~~)")

# Beyond the first figure the next empty line ends a passage, beyond the second any line does.
_SOFT_LINES, _HARD_LINES = 16, 40
_SOFT_CHARS, _HARD_CHARS = 1000, 2000


@dataclass(frozen=True)
class Passage:
    """Lines that follow each other; a line that is very long may be in several passages, a piece in each."""

    # The number of the first line, from 1.
    line_start: int
    lines: tuple[str, ...]
    # The headings above, the outermost first; one in the passage itself is among them.
    headings: tuple[str, ...]


def lines_of(text: str) -> list[str]:
    """As an editor numbers them; whatever ends the last one makes no other."""
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def passages(text: str) -> Iterator[Passage]:
    """All that is not blank."""
    headings: dict[int, str] = {}
    held: list[str] = []
    start, chars, fence = 1, 0, ""

    def cut() -> Iterator[Passage]:
        if any(line and not line.isspace() for line in held):
            yield Passage(start, tuple(held), tuple(headings[level] for level in sorted(headings)))
        held.clear()

    for number, line in enumerate(lines_of(text), 1):
        heading = None if fence else _HEADING.match(line)
        is_full = len(held) >= _HARD_LINES or chars + len(line) > _HARD_CHARS
        if heading or is_full or (not line.strip() and (len(held) >= _SOFT_LINES or chars >= _SOFT_CHARS)):
            yield from cut()
        if not held:
            start, chars = number, 0
        if heading:
            level = len(heading[1])
            headings = {above: title for above, title in headings.items() if above < level}
            headings[level] = heading[2]
        mark = _FENCE.match(line)
        if mark and fence in ("", mark[1]):
            fence = "" if fence else mark[1]
        *whole, rest = _pieces(line)
        for piece in whole:
            held.append(piece)
            yield from cut()
            start, chars = number, 0
        held.append(rest)
        chars += len(rest)
    yield from cut()


def _pieces(line: str) -> list[str]:
    """A line in pieces that are not too long, cut between words where there are any."""
    pieces = []
    while len(line) > _HARD_CHARS:
        at = line.rfind(" ", _HARD_CHARS // 2, _HARD_CHARS) + 1 or _HARD_CHARS
        pieces.append(line[:at])
        line = line[at:]
    return [*pieces, line]
