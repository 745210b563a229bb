"""What the rest of the house may ask of the bus. `RedisCapacity`, `RedisMail` and `RedisFanout` are the forms of it."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

from vespid.bus.choice import Ask, Choice, ExecutorPresence, LeasedRow, Next
from vespid.bus.messages import AnyMessage
from vespid.domain.selector import Pool
from vespid_protocol.ids import ExecutorId, OrgId, ProcessId, RequestId


class Capacity(Protocol):
    """Who has room. Every call may raise `BusUnavailable`; every call is idempotent by request id.

    A `Next` in an answer has its reservation made: offer it to its edge, or `release` it. One that is dropped comes
    back by itself after UNCONFIRMED_MS.
    """

    async def choose(self, ask: Ask) -> Choice:
        """Reserve a slot, or queue up."""

    async def confirm(
        self, request_id: RequestId, org_id: OrgId, executor_id: ExecutorId, pool: Pool
    ) -> Sequence[Next]:
        """The grant is committed: the reservation stays until released, and is made anew if it was gone."""

    async def release(
        self,
        request_id: RequestId,
        org_id: OrgId,
        *,
        pool: Pool | None = None,
        executor_id: ExecutorId | None = None,
        only_unconfirmed: bool = False,
    ) -> Sequence[Next]:
        """Give back the slot and leave the queue; without a pool, in both.

        With `executor_id` only if that one holds it. `only_unconfirmed`: for a grant that was refused, so that the
        reservation of a grant made by somebody else in the meantime stays.
        """

    async def upsert(self, executor: ExecutorPresence) -> Sequence[Next]:
        """It is connected so. An older connection epoch than the known one changes nothing."""

    async def remove(self, executor_id: ExecutorId, org_id: OrgId | None, connection_epoch: int) -> Sequence[Next]:
        """Its connection is gone. Compares the epoch: the late close of an old socket changes nothing."""

    async def sweep(self, org_id: OrgId | None) -> Sequence[Next]:
        """Give back what expired and serve who waits, in bounded steps; call it every second or so."""

    async def inflight(self, org_id: OrgId) -> int:
        """Requests of the organization that count against its quota."""

    async def generation(self, org_id: OrgId | None) -> str | None:
        """Name of the partition's present life; None when it is cold. An edge that sees another one reports again."""

    async def prepare(self, org_id: OrgId | None) -> str:
        """Name of the life that begins next, the same for all who ask, until the partition is emptied again.

        Asked for before the edges report: so it is known whether their reports are still there when it begins.
        """

    async def rebuild(
        self, org_id: OrgId | None, rows: Sequence[LeasedRow], as_of_ms: int, *, life: str = ""
    ) -> Sequence[Next]:
        """Make reservations equal to the leased rows read from Postgres at `as_of_ms`.

        A cold partition is warm then if `life` is the one that was prepared there; emptied since, it stays cold.
        """


class Mail(Protocol):
    """Inboxes of processes, and queues from which one process takes each item."""

    async def send(self, to: ProcessId, message: AnyMessage) -> bool:
        """Put a message into a process's inbox; straight into it when it is in this process.

        False: it was not taken at once; the process is busy, or gone.
        """

    def hand_over(self, take: Callable[[AnyMessage], None]) -> None:
        """Messages from this interpreter go to `take` within the sender's call; `receive` still has all others."""

    def receive(self) -> AsyncIterator[Sequence[AnyMessage]]:
        """Messages to this process, in batches, in the order of each sender."""

    def wake(self, queue: str, item: str) -> None:
        """Let one process know that `item` is due. Never waits, may be lost; a burst goes as one push."""

    def wakes(self, queue: str) -> AsyncGenerator[Sequence[str], None]:
        """Items for this process to look at, in batches, repeats within a batch dropped."""


class Fanout(Protocol):
    """Channels: who listens now hears it. What was missed is told as a gap, so that the truth is read again."""

    @property
    def connected(self) -> bool:
        """Whether publications of other processes are being heard."""

    def publish(self, channel: str, data: bytes) -> None:
        """Tell all who listen. Never waits, may be lost; a burst goes as one write."""

    async def listeners(self, channel: str) -> int:
        """How many processes are connected and listen. Raises `BusUnavailable`."""

    async def subscribe(self, channel: str, hear: Callable[[bytes | None], None]) -> Callable[[], Awaitable[None]]:
        """Call `hear` with each message, and with None after a gap. Returns once subscribed, with the way out."""
