"""Until when the agent may rely on its leases.

Trust ends `lease - 5 s` after the sending of the last ping (or hello) that was answered, which is before the gateway
can have given the work to somebody else. Times are ms of a clock that counts suspended time.
"""

from __future__ import annotations

from collections import deque

TRUST_MARGIN_MS = 5_000
# So many unanswered pings are remembered.
_PINGS_MAX = 64


class Trust:
    """For the whole life of the agent's process, across its sockets."""

    def __init__(self) -> None:
        # None: none was ever given (base gateways have none).
        self.until: int | None = None
        # The end of trust that was acted on; what is leased later comes with a later one.
        self._ended: int | None = None
        # ts → when it was sent; of pings not yet answered, oldest first.
        self._pings: deque[tuple[int, int]] = deque(maxlen=_PINGS_MAX)

    def holds(self, now: int) -> bool:
        return self.until is not None and now < self.until

    @property
    def next_end(self) -> int | None:
        """When there will be something to act on; None: there will not."""
        return self.until if self.until != self._ended else None

    def ends(self, now: int) -> bool:
        """Whether it has ended, told once."""
        if self.until is None or now < self.until or self.until == self._ended:
            return False
        self._ended = self.until
        return True

    def opened(self) -> None:
        """Pings of an older socket are answered by nobody."""
        self._pings.clear()

    def pinged(self, ts: int, now: int) -> None:
        self._pings.append((ts, now))

    def answered(self, ts: int) -> int | None:
        """When the ping that this answers was sent; None where nothing was asked."""
        pings, sent_at = self._pings, None
        while pings and pings[0][0] <= ts:
            asked, sent = pings.popleft()
            if asked == ts:
                sent_at = sent
        return sent_at

    def renew(self, sent: int, lease_ms: int) -> None:
        """Something sent at `sent` was answered by a gateway with leases of that length."""
        until = sent + lease_ms - TRUST_MARGIN_MS
        self.until = until if self.until is None else max(self.until, until)
