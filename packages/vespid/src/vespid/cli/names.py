"""Things by the name that people gave them, or by their id."""

import difflib
from collections.abc import Callable, Sequence
from typing import TypeVar

from vespid.cli.problem import missing, wrong_usage

Thing = TypeVar("Thing")


def pick(
    found: Sequence[Thing],
    wanted: str,
    noun: str,
    *,
    id_of: Callable[[Thing], str],
    name_of: Callable[[Thing], str],
    told: Callable[[Thing], str] = lambda _thing: "",
) -> Thing:
    """The one that is meant: by its whole id, else by its name, else by its name whatever its case. Raises Problem.

    `told` says of a candidate what tells it from the others.
    """
    by_id = [thing for thing in found if id_of(thing) == wanted.lower()]
    if by_id:
        return by_id[0]
    named = [thing for thing in found if name_of(thing) == wanted]
    named = named or [thing for thing in found if name_of(thing).lower() == wanted.lower()]
    if len(named) == 1:
        return named[0]
    if named:
        lines = "\n".join(f"{id_of(thing)}  {name_of(thing)}  {told(thing)}".rstrip() for thing in named)
        raise wrong_usage(f"{len(named)} {noun}s are called {wanted!r}:\n{lines}", "Say which one by its id")
    near = difflib.get_close_matches(wanted, [name_of(thing) for thing in found], n=3)
    mend = f"Did you mean: {', '.join(near)}" if near else f"vespid {noun.replace(' ', '-')} ls shows what there is"
    raise missing(f"There is no {noun} {wanted!r}", mend)
