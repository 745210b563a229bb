"""A turn that is with a host on this edge: what has to be known of it when the host speaks."""

import asyncio

import msgspec

from vespid.domain.selector import Pool
from vespid.store.turns import SessionEventItem
from vespid_protocol.frames import SessionTurn
from vespid_protocol.ids import OrgId, RequestId, SessionId
from vespid_runtime.redaction import RedactedStream, Redactor


class HostedTurn(msgspec.Struct, kw_only=True):
    """One lease of a turn."""

    request_id: RequestId
    org_id: OrgId
    session_id: SessionId
    # The message that is answered, and which try of it this is.
    seq: int
    epoch: int
    pool: Pool
    # Of the session when it was leased: the host's copy is of this one.
    generation: int = 0
    memory_version: int = 0
    # Whether the host was told all of the session with it.
    is_opened_anew: bool = False
    # Goes out when the host has opened the session; None: it is out.
    frame: SessionTurn | None = None
    opening: asyncio.TimerHandle | None = None
    # Masks what must not leave the host; None: this edge gave it no secret.
    redactor: Redactor | None = None
    stream: RedactedStream | None = None
    # The text so far, as its pieces came, and its length in characters.
    text: list[str] = msgspec.field(default_factory=list)
    length: int = 0
    # Tool events that are not persisted yet, and the write that is under way.
    events: list[SessionEventItem] = msgspec.field(default_factory=list)
    last_event_seq: int = -1
    writing: asyncio.Future[None] | None = None
    # Its end is being committed.
    ending: bool = False

    def begin_anew(self) -> None:
        """The text begins from nothing: the host will say all of it again."""
        self.text.clear()
        self.length = 0
        self.stream = None if self.redactor is None else self.redactor.stream()

    def so_far(self) -> str:
        """The text as one; kept so, that it is joined once."""
        if len(self.text) > 1:
            self.text = ["".join(self.text)]
        return self.text[0] if self.text else ""

    def close(self) -> None:
        """It is over here."""
        if self.opening is not None:
            self.opening.cancel()
            self.opening = None
