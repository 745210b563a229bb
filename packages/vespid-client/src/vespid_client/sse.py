"""Server-sent events, from bytes to events. Pure. A line may be of any length."""

from dataclasses import dataclass
from typing import TypeVar

import msgspec

from vespid_client.errors import AnswerNotUnderstood

T = TypeVar("T")


@dataclass(frozen=True)
class ServerEvent:
    """`data` is undecoded; `id` is what `Last-Event-ID` goes on behind."""

    id: str | None
    event: str
    data: str


class EventParser:
    """Fed as it comes; a blank line ends an event."""

    def __init__(self) -> None:
        self._rest = b""
        self._id: str | None = None
        self._event = ""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """The events that this completes. A comment completes none."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return [event for line in lines if (event := self._line(line)) is not None]

    def _line(self, raw: bytes) -> ServerEvent | None:
        text = raw.decode("utf-8", "replace").rstrip("\r")
        if not text:
            return self._end()
        name, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            self._id = value
        elif name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
        return None

    def _end(self) -> ServerEvent | None:
        found = ServerEvent(self._id, self._event or "message", "\n".join(self._data)) if self._data else None
        self._event, self._data = "", []
        return found


def decoded(event: ServerEvent, kind: type[T]) -> T:
    """What an event holds. Raises AnswerNotUnderstood."""
    try:
        return msgspec.json.decode(event.data, type=kind)
    except msgspec.DecodeError as error:
        raise AnswerNotUnderstood(f"The event {event.event!r} of a stream: {error}") from error
