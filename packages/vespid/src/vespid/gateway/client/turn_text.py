"""The text of the turn that runs, put together from deltas that may come twice, late, or not at all.

A turn's try is a key, `(user_seq, turn_epoch)`; a higher one is a later try, whose text begins anew. Within one key a
piece says at which character it begins: what is known of it is cut, and what leaves a gap is kept until the text so far
was asked for. Pure.
"""

from enum import Enum
from typing import NamedTuple

# Pieces behind a gap that are kept; more than that and the whole text is asked for once they are over.
LATER_MAX_CHARS = 1_000_000


class Key(NamedTuple):
    """One try of one turn; keys compare in the order in which tries run."""

    user_seq: int
    turn_epoch: int


class Heard(Enum):
    """What a piece was good for."""

    ADDED = "added"
    # Known already, or of a try that is over.
    NOTHING = "nothing"
    # Something before it is missing: ask for the text so far.
    GAP = "gap"


class TurnText:
    """What is known of the newest try's text, from its first character on."""

    __slots__ = ("_later", "_later_chars", "_pieces", "is_torn", "key", "length", "version")

    def __init__(self) -> None:
        self.key: Key | None = None
        # Grows when the text begins anew: what was told of an earlier version is void.
        self.version = 0
        self.length = 0
        # Something is known to be missing.
        self.is_torn = False
        self._pieces: list[str] = []
        # Pieces behind a gap.
        self._later: list[tuple[int, str]] = []
        self._later_chars = 0

    def begin(self, key: Key | None, *, is_torn: bool = False) -> None:
        """Nothing is known of this try yet; torn: though there is something."""
        self.key = key
        self.version += 1
        self.length = 0
        self.is_torn = is_torn
        self._pieces = []
        self._forget_later()

    def hear(self, key: Key, offset: int, content: str) -> Heard:
        """A piece came."""
        if self.key is None or key > self.key:
            self.begin(key)
        elif key < self.key:
            return Heard.NOTHING
        if offset == 0 and self.length > 0:
            known = self.since(0)
            if known.startswith(content):
                return Heard.NOTHING
            if not content.startswith(known):
                # Its host counts anew, and not from what we have.
                self.begin(key)
        if offset > self.length:
            self.is_torn = True
            if self._later_chars + len(content) <= LATER_MAX_CHARS:
                self._later.append((offset, content))
                self._later_chars += len(content)
            return Heard.GAP
        before = self.length
        self._add(offset, content)
        self._mend()
        return Heard.ADDED if self.length > before else Heard.NOTHING

    def so_far(self, key: Key, text: str) -> bool:
        """The text so far, as the host's edge has it. True: that is more than was known."""
        if self.key is None or key > self.key:
            self.begin(key)
        elif key < self.key:
            return False
        before = (self.version, self.length)
        known = self.since(0)
        if not known.startswith(text):
            if not text.startswith(known):
                later = self._later
                self.begin(key)
                self._later = later
            self._add(0, text)
        self._mend()
        return (self.version, self.length) != before

    def since(self, offset: int) -> str:
        """The text from that character on."""
        return "".join(self.pieces(offset))

    def pieces(self, offset: int) -> list[str]:
        """The same, as it came."""
        found = []
        begin = self.length
        for piece in reversed(self._pieces):
            if begin <= offset:
                break
            begin -= len(piece)
            found.append(piece[max(0, offset - begin) :])
        found.reverse()
        return found

    def _add(self, offset: int, content: str) -> None:
        added = content[self.length - offset :]
        if added:
            self._pieces.append(added)
            self.length += len(added)

    def _mend(self) -> None:
        """Take what was kept as far as it joins on."""
        missing = []
        for offset, content in self._later:
            if offset <= self.length:
                self._add(offset, content)
            else:
                missing.append((offset, content))
        self._later = missing
        self._later_chars = sum(len(content) for _, content in missing)
        self.is_torn = bool(missing)

    def _forget_later(self) -> None:
        self._later = []
        self._later_chars = 0
