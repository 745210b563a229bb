"""One client in one session: where it is, and what it is told next. Pure; the order of frames is decided here.

A client's place is the `seq` of the last event it was given. It is given the event after that one and no other, so
nothing is missed and nothing comes twice, wherever the event was read. The running turn's text is given only to who has
every event that the view has read, and so never before its message or behind its end.

What was said before the join is replay: events alone. What comes after is told as it happens: a message is
acknowledged before its event, an answer or failure repeated as a frame behind it.
"""

from collections.abc import Sequence

from vespid.gateway.client.told import Told, place_of_state
from vespid.gateway.client.turn_text import Key, TurnText


class Follower:
    """What a client was told of a session."""

    __slots__ = ("_acked", "_state", "_text_sent", "_text_version", "live_from", "seq")

    def __init__(self, seq: int, live_from: int) -> None:
        # The last event it was given, or says it has.
        self.seq = seq
        # Events behind this one happen while it listens.
        self.live_from = live_from
        # Messages acknowledged ahead of their events.
        self._acked: set[int] = set()
        # The `session_state` it was given last.
        self._state = b""
        # How much of which text it was given.
        self._text_version: tuple[Key | None, int] = (None, 0)
        self._text_sent = 0

    def ack_own(self, seq: int, seq_before: int) -> bool:
        """Whether its own message, committed as `seq`, is still to be acknowledged; it stood at `seq_before` then.

        The event may have come by before the sender knew of the commit: then the acknowledgement went with it.
        """
        if seq > self.seq:
            self._acked.add(seq)
            return True
        return seq <= seq_before

    def state(self, frame: bytes) -> list[bytes]:
        """The frame, unless it is what the client knows."""
        if frame == self._state:
            return []
        self._state = frame
        return [frame]

    def events(self, told: Sequence[Told], state: bytes) -> list[bytes]:
        """The frames of those events that it does not have; with them goes where the session lives now."""
        fresh = [one for one in told if one.seq > self.seq]
        place = place_of_state(fresh)
        frames: list[bytes] = []
        for index, one in enumerate(fresh):
            if index == place:
                frames += self.state(state)
            frames += self._event(one)
        frames += self.state(state)
        return frames

    def text(self, text: TurnText, *, as_one: bool) -> list[tuple[int, str]]:
        """What it lacks of the text, as one piece or as it came; with each the character where it ends."""
        if (text.key, text.version) != self._text_version:
            self._text_version = (text.key, text.version)
            self._text_sent = 0
        pieces = text.pieces(self._text_sent)
        if as_one and len(pieces) > 1:
            pieces = ["".join(pieces)]
        given = []
        for piece in pieces:
            self._text_sent += len(piece)
            given.append((self._text_sent, piece))
        return given

    def _event(self, told: Told) -> list[bytes]:
        self.seq = told.seq
        if told.voids_text:
            self._text_version = (None, 0)
        is_acked = told.seq in self._acked
        self._acked.discard(told.seq)
        if told.seq <= self.live_from:
            return [told.event]
        frames = [told.event]
        if told.ack is not None and not is_acked:
            frames.insert(0, told.ack)
        if told.after is not None:
            frames.append(told.after)
        return frames
