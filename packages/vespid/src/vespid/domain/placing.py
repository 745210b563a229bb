"""Where a session's turn may go, in the order in which that is tried.

A pinned session goes back to its host; a busy one is waited for. Without one the organization's own hosts come first
and the managed ones behind them, unless the session asks for managed hosts or for one host only.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from vespid.domain.selector import Pool
from vespid_protocol.ids import ExecutorId

# A host that was lost because it does not answer, though its socket stands, is passed over for so long.
SHUNNED_MS = 30_000
# A turn whose host has only lost its connection is not given up before, where nobody else can have it.
GRACE_MS = 10_000

_ANSWERED_NOTHING = frozenset({"silent", "unopened", "declined"})
_MAY_COME_BACK = frozenset({"closed", "silent", "omitted", "unopened", "declined"})


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn that wants a host says of where it may go."""

    # None: the organization's own first, then the managed ones.
    pool: Pool | None = None
    # That host and no other.
    only: ExecutorId | None = None
    pinned: ExecutorId | None = None
    pinned_pool: Pool | None = None
    pin_policy: Literal["sticky", "home"] = "sticky"
    # Who had this turn and was lost, why, and how long ago.
    lost: ExecutorId | None = None
    lost_reason: str | None = None
    lost_ms: int = 0

    @property
    def shunned(self) -> ExecutorId | None:
        """A host that stands and does not answer: not again at once."""
        return self.lost if self.lost_reason in _ANSWERED_NOTHING and self.lost_ms < SHUNNED_MS else None

    @property
    def may_come_back(self) -> bool:
        """Whether its lost host is given a moment more, as nobody else is there."""
        return self.lost_reason in _MAY_COME_BACK and self.lost_ms < GRACE_MS


class Attempt(msgspec.Struct, frozen=True):
    """One question to the capacity book. `is_held_for`: where that host is busy, it is waited for."""

    pool: Pool
    pin: ExecutorId | None = None
    is_held_for: bool = False


def attempts(wish: Wish) -> tuple[Attempt, ...]:
    """What is tried, one after the other, until somebody has room."""
    pools: tuple[Pool, ...] = ("managed",) if wish.pool == "managed" else ("byon", "managed")
    if wish.only is not None:
        return tuple(Attempt(pool, wish.only, is_held_for=True) for pool in pools)
    anywhere = tuple(Attempt(pool) for pool in pools)
    if wish.pinned is None or wish.pinned_pool is None or wish.pinned == wish.shunned:
        return anywhere
    back = Attempt(wish.pinned_pool, wish.pinned, is_held_for=True)
    if wish.pin_policy == "home" and wish.pinned_pool == "managed" and "byon" in pools:
        return (Attempt("byon"), back, Attempt("managed"))
    return (back, *anywhere)
