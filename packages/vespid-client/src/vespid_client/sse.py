"""Server-sent events, from lines to events. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerEvent:
    """`data` is undecoded; `id` is what `Last-Event-ID` goes on behind."""

    id: str | None
    event: str
    data: str


class EventParser:
    """Told one line after the other; a blank one ends an event."""

    def __init__(self) -> None:
        self._id: str | None = None
        self._event = ""
        self._data: list[str] = []

    def line(self, raw: bytes) -> ServerEvent | None:
        """The event that this line completes. A comment completes none, but shows that the server lives."""
        text = raw.decode("utf-8", "replace").rstrip("\r\n")
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
