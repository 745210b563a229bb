"""The SQL of the store: one file per noun, blocks named by `-- name: claim_due_runs`.

`load("runs").claim_due_runs` is the text of that block. Comment lines inside a block say why; they stay in the text,
where a slow-query log shows them.
"""

import functools
import re
from importlib import resources

_NAME = re.compile(r"^-- name: ([a-z][a-z0-9_]*)[ \t]*$", re.MULTILINE)


class Queries:
    """The named statements of one file, as attributes."""

    def __init__(self, noun: str, statements: dict[str, str]) -> None:
        self._noun = noun
        self._statements = statements

    def __getattr__(self, name: str) -> str:
        try:
            return self._statements[name]
        except KeyError:
            raise AttributeError(f"{self._noun}.sql has no query named {name}") from None

    def __dir__(self) -> list[str]:
        return sorted(self._statements)


def parse(noun: str, text: str) -> Queries:
    """Split a file into its named blocks.

    Raises ValueError for a name used twice, an empty block, or SQL before the first name.
    """
    pieces = _NAME.split(text)
    if any(line.strip() and not line.startswith("--") for line in pieces[0].splitlines()):
        raise ValueError(f"{noun}.sql: there is SQL before the first name")
    statements: dict[str, str] = {}
    for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
        if name in statements:
            raise ValueError(f"{noun}.sql: {name} is there twice")
        statement = body.strip().removesuffix(";").rstrip()
        if all(not line.strip() or line.startswith("--") for line in statement.splitlines()):
            raise ValueError(f"{noun}.sql: {name} is empty")
        statements[name] = statement
    return Queries(noun, statements)


@functools.cache
def load(noun: str) -> Queries:
    """Read the queries of a noun, once."""
    return parse(noun, (resources.files(__package__) / f"{noun}.sql").read_text("utf-8"))
