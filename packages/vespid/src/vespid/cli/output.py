"""What commands say: results on stdout as tables and lines, or as JSON; remarks and problems on stderr.

Whatever is handed in may come from agents, workflows and models: texts go through `plain`, styles are named beside them
and never in them. Where stdout is no terminal there are no colours, and columns are padded with spaces.
"""

import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TextIO

from vespid.cli.plain import coloured, plain, visible
from vespid.cli.problem import Problem

# A text, or a text and the style that it has on a terminal.
Cell = str | tuple[str, str]

# What is left of a column that is cut.
GIVEN_MIN = 12

# How the words of the API look.
STYLES: Mapping[str, str] = {
    "online": "green",
    "succeeded": "green",
    "published": "green",
    "approved": "green",
    "ok": "green",
    "running": "cyan",
    "queued": "cyan",
    "retrying": "yellow",
    "waiting": "yellow",
    "pending": "yellow",
    "draft": "yellow",
    "cordoned": "yellow",
    "warn": "yellow",
    "cancelled": "dim",
    "skipped": "dim",
    "offline": "dim",
    "expired": "dim",
    "failed": "red",
    "fail": "red",
    "revoked": "red",
    "denied": "red",
}


class Output:
    """Where one command writes."""

    def __init__(
        self, *, as_json: bool, stdout: TextIO | None = None, stderr: TextIO | None = None, env: Mapping[str, str]
    ) -> None:
        self.as_json = as_json
        self._stdout = stdout or sys.stdout
        self._stderr = stderr or sys.stderr
        dumb = bool(env.get("NO_COLOR")) or env.get("TERM") == "dumb"
        self.is_terminal = self._stdout.isatty()
        self.has_colours = self.is_terminal and not dumb
        self._notes_have_colours = self._stderr.isatty() and not dumb

    @classmethod
    def of_process(cls, *, as_json: bool = False) -> "Output":
        return cls(as_json=as_json, env=os.environ)

    # --- stdout ------------------------------------------------------------------------------------------------------

    def document(self, value: object) -> None:
        """The one JSON document of a `--json` command."""
        self._write(_json(value, indent=2))

    def event(self, value: object) -> None:
        """One line of a `--json` stream."""
        self._write(_json(value, indent=None))

    def line(self, *cells: Cell) -> None:
        """A line of texts one behind the other."""
        self._write("".join(self._cell(cell) for cell in cells))

    def block(self, text: str, indent: str = "") -> None:
        """Output of a program: all of its lines, with colours if there may be any."""
        shown = coloured(text, keep_colours=self.has_colours)
        for line in shown.split("\n"):
            self._write(f"{indent}{line}".rstrip(" "))

    def output_line(self, head: Sequence[Cell], mark: str, text: str, mark_style: str) -> None:
        """A line that a program or a model wrote, behind what tells whose it is."""
        shown = coloured(text, keep_colours=self.has_colours)
        for line in shown.split("\n"):
            self._write(("".join(self._cell(cell) for cell in (*head, (mark, mark_style))) + line).rstrip())

    def exact(self, text: str, indent: str = "") -> None:
        """What a person decides about: nothing taken away, nothing obeyed."""
        for line in visible(text).split("\n"):
            self._write(f"{indent}{line}")

    def piece(self, text: str) -> None:
        """Text as it comes, without an end of line."""
        self._stdout.write(coloured(text, keep_colours=self.has_colours))
        self._stdout.flush()

    def start_line(self, text: str, style: str = "") -> None:
        """The beginning of a line that `piece` and `end_line` go on with."""
        self._stdout.write(self._cell((text, style)))
        self._stdout.flush()

    def end_line(self) -> None:
        self._write("")

    def token(self, label: str, token: str) -> None:
        """A secret that is shown this once."""
        self._write(f"{label}{plain(token)}")

    def fields(self, pairs: Iterable[tuple[str, Cell]]) -> None:
        """A name and a value per line; what is empty is left out."""
        shown = [(name, value) for name, value in pairs if _text(value)]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            self.line((name.ljust(width), "dim"), "  ", value)

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, empty: str, give: Collection[str] = ()
    ) -> None:
        """Columns under their heads; `empty` says what to do where there is no row.

        Where a terminal is too narrow the columns in `give` are cut; what is too wide even so, it wraps.
        """
        found = [[(plain(_text(cell)), _style(cell)) for cell in row] for row in rows]
        if not found:
            self.note(empty)
            return
        import shutil

        from rich.cells import cell_len, set_cell_size

        lines = [[(column.upper(), "bold") for column in columns], *found]
        widths = [max(cell_len(line[at][0]) for line in lines) for at in range(len(columns))]
        if self.is_terminal:
            widths = _narrowed(widths, [column in give for column in columns], shutil.get_terminal_size().columns)
        for line in lines:
            cells = (
                (text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…", style, width)
                for (text, style), width in zip(line, widths, strict=True)
            )
            shown = "  ".join(
                self._cell((text, style)) + " " * (width - cell_len(text)) for text, style, width in cells
            )
            self._write(shown.rstrip(" "))

    # --- stderr ------------------------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """A remark: what was done, what comes next."""
        self._remark(plain(text), "dim")

    def warn(self, text: str) -> None:
        self._remark(f"warning: {plain(text)}", "yellow")

    def problem(self, problem: Problem) -> None:
        """Cause, then mend."""
        cause, *more = problem.cause.split("\n")
        self._remark(f"vespid: {plain(cause)}", "red")
        for line in more:
            self._remark(f"  {plain(line)}", "")
        if problem.mend:
            self._remark(f"  {plain(problem.mend)}", "")

    # --- how ---------------------------------------------------------------------------------------------------------

    def _write(self, line: str) -> None:
        self._stdout.write(line + "\n")
        self._stdout.flush()

    def _remark(self, text: str, style: str) -> None:
        self._stderr.write((_ansi(text, style) if self._notes_have_colours else text) + "\n")
        self._stderr.flush()

    def _cell(self, cell: Cell) -> str:
        text = plain(_text(cell))
        return _ansi(text, _style(cell)) if self.has_colours else text


def status(word: str) -> Cell:
    """A word of the API in its colour."""
    return (word, STYLES.get(word, ""))


def _narrowed(widths: Sequence[int], gives: Sequence[bool], room: int) -> list[int]:
    """Widths with the columns that give as narrow as it takes, the widest first, but never narrower than is of use."""
    narrowed = list(widths)
    while sum(narrowed) + 2 * (len(narrowed) - 1) > room:
        may_give = [at for at, width in enumerate(narrowed) if gives[at] and width > GIVEN_MIN]
        if not may_give:
            break
        narrowed[max(may_give, key=lambda at: narrowed[at])] -= 1
    return narrowed


_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}


def _ansi(text: str, style: str) -> str:
    codes = ";".join(_CODES[word] for word in style.split())
    return f"\x1b[{codes}m{text}\x1b[0m" if codes and text else text


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]


def _style(cell: Cell) -> str:
    return "" if isinstance(cell, str) else cell[1]


def _json(value: object, *, indent: int | None) -> str:
    """JSON in which nothing is obeyed by a terminal: such characters are inside of strings, and escaped there."""
    import json

    separators = None if indent else (",", ":")
    text = json.dumps(value, indent=indent, separators=separators, ensure_ascii=False)
    if text.isascii():
        return text
    return "".join(
        character if character == "\n" or plain(character) == character else json.dumps(character)[1:-1]
        for character in text
    )
