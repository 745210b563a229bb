"""The events of work: sent as they come, and kept a while, for the link that took them may turn out to have been dead.

Nobody acknowledges an event. So the newest of each request stay here, in order, and go out again behind the `hello`
of the next socket, ahead of the result; the gateway knows by `seq` what it has. What is kept is bounded, by request
and in all. What fell out before it could be sent is marked: one event `gap`, with the last of the missing numbers as
its own, so that a gateway that has them all drops the mark as a repeat.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from vespid_agent.clock import epoch_ms
from vespid_protocol.frames import Event

KEPT_MAX = 256
KEPT_MAX_BYTES = 256 * 1024
# Over all requests: less than an empty outbox takes, so that a replay always fits.
TOTAL_MAX_BYTES = 768 * 1024
# Of a frame, besides message and payload; more than it ever takes.
_FRAME_BYTES = 512

GAP = "gap"

# Takes an event to be sent on the present socket; whether there was room.
Put = Callable[[Event], bool]


@dataclass(slots=True)
class _Kept:
    event: Event
    size: int
    # Monotonic ms at which the present socket took it.
    sent_at: int = 0


@dataclass(slots=True)
class _Span:
    """Consecutive seqs, both ends included."""

    first: int
    last: int


@dataclass(slots=True)
class _Stream:
    """Of one request. Oldest to newest: `passed`, `lost`, what was sent of `kept`, the `unsent` last of `kept`."""

    kept: deque[_Kept] = field(default_factory=deque)
    size: int = 0
    unsent: int = 0
    # The present socket took them, as themselves or as a mark, and they are no longer kept.
    passed: _Span | None = None
    # No socket took them, and they are no longer kept: to be marked.
    lost: _Span | None = None

    def add(self, event: Event) -> int:
        """Its size."""
        payload = event.payload
        size = _FRAME_BYTES + 4 * len(event.message or "")
        if isinstance(payload, msgspec.Raw):
            size += len(payload)
        self.kept.append(_Kept(event, size))
        self.size += size
        self.unsent += 1
        return size

    def drop_oldest(self) -> int:
        """Its size."""
        was_sent = len(self.kept) > self.unsent
        dropped = self._pop()
        seq = dropped.event.seq
        if was_sent:
            self.passed = _Span(self.passed.first if self.passed else seq, seq)
        else:
            self.unsent -= 1
            self.lost = _Span(self.lost.first if self.lost else seq, seq)
        return dropped.size

    def send(self, put: Put, now: int) -> None:
        """What this socket has not taken yet, for as long as there is room."""
        if self.lost is not None:
            if not put(_mark(self.lost)):
                return
            self._marked()
        while self.unsent:
            kept = self.kept[-self.unsent]
            if not put(kept.event):
                return
            kept.sent_at = now
            self.unsent -= 1

    def end(self, put: Put, now: int) -> None:
        """The result comes next: what there is no room for is marked. `put` has room now."""
        if self.unsent:
            first = self.lost.first if self.lost else self.kept[-self.unsent].event.seq
            put(_mark(_Span(first, self.kept[-1].event.seq)))
            for kept in self.kept:
                kept.sent_at = now
            self.unsent = 0
            if self.lost is not None:
                self._marked()
        elif self.lost is not None:
            put(_mark(self.lost))
            self._marked()

    def rewind(self) -> None:
        """Nothing was sent on this socket."""
        self.unsent = len(self.kept)
        if self.passed is not None:
            self.lost = _Span(self.passed.first, (self.lost or self.passed).last)
            self.passed = None

    def confirm(self, before: int) -> int:
        """What was sent before that moment has arrived. How many bytes that frees."""
        freed = 0
        while len(self.kept) > self.unsent and self.kept[0].sent_at < before:
            freed += self._pop().size
            self.passed = None
        return freed

    def _pop(self) -> _Kept:
        popped = self.kept.popleft()
        self.size -= popped.size
        return popped

    def _marked(self) -> None:
        assert self.lost is not None
        self.passed = _Span(self.passed.first if self.passed else self.lost.first, self.lost.last)
        self.lost = None


class Events:
    """Those of every request that may still have to be sent."""

    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}
        self._size = 0

    def __iter__(self) -> Iterator[str]:
        """The requests."""
        return iter(list(self._streams))

    @property
    def size(self) -> int:
        """Bytes kept."""
        return self._size

    def add(self, request_id: str, event: Event, put: Put | None, now: int) -> None:
        """The request's next event, sent with what waits before it. `put` None: there is no socket."""
        stream = self._streams.setdefault(request_id, _Stream())
        self._size += stream.add(event)
        if put is not None:
            stream.send(put, now)
        while len(stream.kept) > KEPT_MAX or stream.size > KEPT_MAX_BYTES:
            self._size -= stream.drop_oldest()
        while self._size > TOTAL_MAX_BYTES:
            self._size -= max(self._streams.values(), key=lambda each: each.size).drop_oldest()

    def replay(self, request_id: str, put: Put | None, now: int) -> None:
        """There is a new socket: everything that is kept of the request goes out on it, or waits (`put` None)."""
        stream = self._streams[request_id]
        stream.rewind()
        if put is not None:
            stream.send(put, now)

    def end(self, request_id: str, put: Put, now: int) -> None:
        """The result is sent next. `put` must take what it is given."""
        stream = self._streams.get(request_id)
        if stream is not None:
            stream.end(put, now)

    def confirm(self, before: int) -> None:
        """What was sent before that moment (monotonic ms), on a socket that still lives, has arrived."""
        for stream in self._streams.values():
            self._size -= stream.confirm(before)

    def forget(self, request_id: str) -> None:
        """Its result is acknowledged, or will never be sent."""
        stream = self._streams.pop(request_id, None)
        if stream is not None:
            self._size -= stream.size


def _mark(span: _Span) -> Event:
    return Event(
        seq=span.last,
        ts=epoch_ms(),
        kind=GAP,
        level="warn",
        message=f"events {span.first} to {span.last} are missing: the link was away or slow for too long",
        payload=msgspec.Raw(msgspec.json.encode({"fromSeq": span.first, "toSeq": span.last})),
    )
