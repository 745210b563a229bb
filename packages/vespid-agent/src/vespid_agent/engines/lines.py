"""What a program prints as JSON, line by line. Nothing that it prints is an error: what is no such line is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

# A longer line is passed over; it holds more than a turn may say.
LINE_MAX_CHARS = 8_000_000
# Of what was passed over, for people.
_SHOWN_MAX_CHARS = 500

LineT = TypeVar("LineT")


class JsonLines(Generic[LineT]):
    """`take` is given each line that is a JSON object of the type."""

    def __init__(self, kind: type[LineT], take: Callable[[LineT], None]) -> None:
        self._decode = msgspec.json.Decoder(kind).decode
        self._take = take
        self._parts: list[str] = []
        self._size = 0
        # Lines that were too long.
        self.too_long = 0
        # The last of what was no line of the type.
        self.garbage = ""

    def feed(self, text: str) -> None:
        *whole, rest = text.split("\n")
        for line in whole:
            self._add(line)
            self._end_line()
        self._add(rest)

    def finish(self) -> None:
        """It will print no more."""
        self._end_line()

    @property
    def unread(self) -> str:
        """What was passed over, for people."""
        if self.too_long:
            return f"{self.too_long} lines longer than {LINE_MAX_CHARS} characters"
        return self.garbage

    def _add(self, piece: str) -> None:
        self._size += len(piece)
        if self._size > LINE_MAX_CHARS:
            self._parts.clear()
        elif piece:
            self._parts.append(piece)

    def _end_line(self) -> None:
        line, size = "".join(self._parts).strip(), self._size
        self._parts.clear()
        self._size = 0
        if size > LINE_MAX_CHARS:
            self.too_long += 1
        elif line:
            try:
                decoded = self._decode(line)
            except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
                self.garbage = line[:_SHOWN_MAX_CHARS]
                return
            self._take(decoded)
