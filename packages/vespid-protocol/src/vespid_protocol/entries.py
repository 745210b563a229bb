"""The journal in memory: every request that must not be started again, and where each stands.

`journal.py` is the table and the disk holds the same, with the results. A session's turn is an entry like another; it
has no lease, and a session instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from vespid_protocol import journal
from vespid_protocol.codes import Code
from vespid_protocol.frames import InFlight, OnLost

RESEND_FIRST_MS = 30_000
RESEND_MAX_MS = 300_000

ACTIVE = (journal.State.ACCEPTED, journal.State.STARTED)


class Entry(msgspec.Struct, kw_only=True):
    """What the peer keeps of one request."""

    request_id: str
    state: journal.State
    # None: a base gateway sent it, or it is a turn.
    lease_epoch: int | None = None
    on_lost: OnLost | None = None
    # Whose turn it is; None for an execution, and for what an earlier process left.
    session_id: str | None = None
    # Set while it is being stopped, to why. `asked_again`: trust had ended, and then it was leased to us anew.
    stopping: Literal["cancelled", "trust_ended", "asked_again"] | None = None
    # When it last changed, on the peer's clock; entries from an earlier process have their age subtracted.
    changed_at: int = 0
    # Of a finished one, on a live v2 link: when it is sent once more, and how long is waited after that.
    resend_at: int | None = None
    resend_ms: int = RESEND_FIRST_MS
    # Results of it that went out on this socket under the present epoch, and those under epochs before it: the latter
    # are acknowledged as well, though they were discarded.
    sent: int = 0
    outdated: int = 0
    # What is said of a tombstone when it is asked for again.
    last_word: str = Code.AGENT_DISCONNECTED

    @property
    def is_active(self) -> bool:
        """Accepted or running."""
        return self.state in ACTIVE


class Entries(dict[str, Entry]):
    """By requestId. Entries come and go with `move`; a tombstone may also be deleted."""

    def __init__(self, kept: Iterable[Entry] = ()) -> None:
        """`kept`: of an earlier process; what its end did to each is applied here."""
        super().__init__()
        # How many are accepted or running.
        self.active = 0
        for entry in kept:
            self._restore(entry)

    def move(self, entry: Entry, event: journal.Event, now: int) -> None:
        """Raises IllegalTransition."""
        self.arrive(entry, journal.find(entry.state, event), now)

    def arrive(self, entry: Entry, row: journal.JournalRow, now: int) -> None:
        """Where the row leads, with the count of what is active kept right."""
        if row.target is None or row.target is entry.state:
            return
        self.active += (row.target in ACTIVE) - (entry.state in ACTIVE)
        entry.state = row.target
        entry.changed_at = now
        entry.resend_at = None
        if row.target is journal.State.NONE:
            self.pop(entry.request_id, None)
            return
        if row.target is journal.State.FINISHED:
            entry.resend_at, entry.resend_ms = now + RESEND_FIRST_MS, RESEND_FIRST_MS
        self[entry.request_id] = entry

    def in_flight(self) -> tuple[InFlight, ...]:
        """As the hello lists it. Without work that is being stopped for want of trust: the gateway is right to think
        it lost."""
        return tuple(
            InFlight(request_id=entry.request_id, lease_epoch=entry.lease_epoch)
            for entry in self.values()
            if entry.is_active and entry.stopping != "trust_ended"
        )

    def unacknowledged(self) -> list[Entry]:
        return [entry for entry in self.values() if entry.state is journal.State.FINISHED]

    def due_again(self, now: int) -> list[Entry]:
        """Those whose result is to be sent once more; each waits longer the next time."""
        due = [entry for entry in self.unacknowledged() if entry.resend_at is not None and now >= entry.resend_at]
        for entry in due:
            entry.resend_ms = min(entry.resend_ms * 2, RESEND_MAX_MS)
            entry.resend_at = now + entry.resend_ms
        return due

    def expire(self, now: int) -> list[str]:
        """Forgets what is a day old; which those were."""
        due = [
            entry for entry in self.values() if not entry.is_active and now - entry.changed_at >= journal.RETENTION_MS
        ]
        for entry in due:
            self.move(entry, journal.Event.EXPIRE, now)
        return [entry.request_id for entry in due]

    def _restore(self, entry: Entry) -> None:
        row = journal.find(entry.state, journal.Event.RESTART, moves_when_lost=entry.on_lost == "resend")
        if row.target is journal.State.NONE:
            return
        entry.state = row.target or entry.state
        entry.stopping = None
        self[entry.request_id] = entry
