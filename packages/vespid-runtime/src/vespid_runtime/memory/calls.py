"""Which calls have written to a memory on a disk, so that one that comes again after a crash does not write again.

    begun on disk → document on disk → done with the next call, or with the same one when it comes again

The one thing to know: a document and the note of its call are two files. The note comes first and says what the
document will be; whoever writes next looks whether it became that, before anything else is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

# Calls that are known of one memory; the oldest are forgotten first.
CALLS_MAX = 1_000
_KEY_CHARS = 32


class Begun(msgspec.Struct, frozen=True):
    """A write that may have happened."""

    call: str
    path: str
    sha256: str


class Calls(msgspec.Struct, frozen=True):
    """The file of them."""

    # sha256 of what a call wrote, by the call; the newest last.
    done: dict[str, str] = {}
    begun: Begun | None = None

    def settled(self, sha256_of: Callable[[str], str | None]) -> Calls:
        """With what has begun either done or never done. `sha256_of`: the document at a path, as it is now."""
        begun = self.begun
        if begun is None:
            return self
        if sha256_of(begun.path) != begun.sha256:
            return Calls(self.done)
        done = [*self.done.items(), (begun.call, begun.sha256)]
        return Calls(dict(done[-CALLS_MAX:]))

    def written_by(self, key: str) -> str | None:
        """The sha256 of what this call wrote; None where it has not written yet."""
        return self.done.get(_call(key))

    def begin(self, key: str, path: str, sha256: str) -> Calls:
        return msgspec.structs.replace(self, begun=Begun(_call(key), path, sha256))


_decoder = msgspec.json.Decoder(Calls)


def read_calls(data: bytes | None) -> Calls:
    """None, or what nobody can read: none."""
    try:
        return Calls() if data is None else _decoder.decode(data)
    except msgspec.DecodeError:
        return Calls()


def _call(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:_KEY_CHARS]
