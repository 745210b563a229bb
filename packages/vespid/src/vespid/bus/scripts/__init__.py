"""The Lua scripts, each with what they share put in front, and the digests they are called by."""

from functools import cache
from hashlib import sha1
from importlib.resources import files

import msgspec


class Script(msgspec.Struct, frozen=True):
    """A script as the server knows it."""

    name: str
    source: str
    # SHA-1 of the source: what EVALSHA calls it by.
    digest: str


@cache
def load(name: str) -> Script:
    """The script of `<name>.lua`, with `partition.lua` before it."""
    folder = files(__package__)
    source = (folder / "partition.lua").read_text() + (folder / f"{name}.lua").read_text()
    return Script(name=name, source=source, digest=sha1(source.encode(), usedforsecurity=False).hexdigest())
