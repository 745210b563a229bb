"""One partition of the capacity book as its scripts see it: `{o:<organization>}` or `{m:<shard>}`.

Thin: packs arguments, reads answers. What a call means is said in `ports.Capacity`; how it works in `scripts/`.
"""

from collections.abc import Callable, Sequence

import msgspec

from vespid.bus import scripts
from vespid.bus.choice import ExecutorPresence, Next
from vespid.bus.connection import Connection, Reply
from vespid.bus.errors import BusReplyError
from vespid.bus.gather import Gather
from vespid_protocol.ids import ExecutorId, OrgId, ProcessId, RequestId

# In an organization's partition: takes quota for a managed request, without limit and without an edge.
QUOTA_ONLY = ExecutorId("*")
QUOTA_SIGNATURE = "*managed"
_PAGE = 500


class Handed(msgspec.Struct, frozen=True):
    """A waiter that was given a slot. `ask` is set for managed requests that were given quota."""

    next: Next
    ask: bytes


class Verdict(msgspec.Struct, frozen=True):
    """What `choose` answered: its word, and what goes with it."""

    word: str
    detail: str = ""
    connection_epoch: int = 0
    edge_id: ProcessId = ProcessId("")
    reserved_at_ms: int = 0


class Record(msgspec.Struct, frozen=True):
    """A request as the partition knows it; `state` is w(aiting), u(nconfirmed) or c(onfirmed)."""

    state: str
    executor_id: ExecutorId
    org_id: OrgId
    queue: str
    at: str


class Scripts:
    """What all partitions of one capacity book call through."""

    def __init__(self, connection: Connection, clock: Callable[[], int] | None = None) -> None:
        self.connection = connection
        # Epoch ms; without one the server's clock decides, which all processes share.
        self._clock = clock
        self.choose = Gather(connection, _CHOOSE, self.now)
        self.release = Gather(connection, _RELEASE, self.now)

    def now(self) -> int:
        """Epoch ms for a script; 0: its own clock."""
        return 0 if self._clock is None else self._clock()


class Partition:
    """The scripts, called on one partition."""

    def __init__(self, scripts: "Scripts", name: str) -> None:
        self.name = name
        self._scripts = scripts
        self._connection = scripts.connection
        self._now = scripts.now
        self._meta = f"{name}:meta"

    async def choose(
        self,
        request_id: RequestId,
        org_id: OrgId,
        *,
        signature: str,
        quota: int,
        pin: ExecutorId | None,
        wait: bool,
        priority: int,
        since_ms: int,
        exclude: frozenset[ExecutorId],
        ask: bytes,
    ) -> tuple[Verdict, list[Handed]]:
        verdict, handed = await self._scripts.choose.call(
            self._meta,
            request_id,
            org_id,
            signature,
            quota,
            pin or "",
            int(wait),
            min(max(priority, 0), 1000),
            since_ms,
            ",".join(sorted(exclude)),
            ask,
        )
        if not isinstance(verdict, list):
            raise BusReplyError(f"unexpected verdict: {verdict!r}")
        words = [_text(word) for word in verdict]
        if len(words) < 5:
            return Verdict(word=words[0], detail=words[1] if len(words) > 1 else ""), _handed(handed)
        return (
            Verdict(
                word=words[0],
                detail=words[1],
                connection_epoch=int(words[2]),
                edge_id=ProcessId(words[3]),
                reserved_at_ms=int(words[4]),
            ),
            _handed(handed),
        )

    async def confirm(self, request_id: RequestId, org_id: OrgId, executor_id: ExecutorId) -> list[Handed]:
        return _handed(await self._connection.run(_CONFIRM, self._meta, self._now(), request_id, org_id, executor_id))

    async def release(
        self, request_id: RequestId, executor_id: ExecutorId | None, *, only_unconfirmed: bool
    ) -> tuple[str, list[Handed]]:
        """'DONE', 'GONE' (not known) or 'KEPT' (another executor's, or confirmed)."""
        word, handed = await self._scripts.release.call(
            self._meta, request_id, executor_id or "", int(only_unconfirmed)
        )
        return _text(word), _handed(handed)

    async def upsert(
        self, executor: ExecutorPresence, capabilities: bytes, signatures: Sequence[str], version: bytes
    ) -> tuple[str, list[Handed]]:
        """'OK', 'STALE' (a newer connection is known) or 'RETRY' (match again: a signature came up)."""
        reply = await self._connection.run(
            _UPSERT,
            self._meta,
            self._now(),
            executor.executor_id,
            executor.connection_epoch,
            executor.edge_id,
            executor.capacity,
            int(executor.routable),
            capabilities,
            " ".join(signatures),
            version,
        )
        word, handed = _pair(reply)
        return _text(word[0]), _handed(handed)

    async def remove(
        self, executor_id: ExecutorId, connection_epoch: int
    ) -> tuple[list[tuple[RequestId, OrgId]], list[Handed]]:
        """Also answers whose offers on that connection were taken back."""
        reply = await self._connection.run(_REMOVE, self._meta, self._now(), executor_id, connection_epoch)
        word, handed = _pair(reply)
        taken_back = [_text(part) for part in word[1:]]
        pairs = zip(taken_back[::2], taken_back[1::2], strict=True)
        return [(RequestId(request), OrgId(org)) for request, org in pairs], _handed(handed)

    async def sweep(self) -> list[Handed]:
        return _handed(await self._connection.run(_SWEEP, self._meta, self._now()))

    async def reconcile(
        self,
        life: str,
        leaks: Sequence[tuple[RequestId, str]],
        rows: Sequence[tuple[RequestId, OrgId, ExecutorId]],
    ) -> list[Handed]:
        arguments: list[str] = [part for leak in leaks for part in leak]
        arguments += [part for row in rows for part in row]
        reply = await self._connection.run(_RECONCILE, self._meta, self._now(), life, len(leaks), *arguments)
        if not isinstance(reply, list) or len(reply) != 2:
            raise BusReplyError(f"unexpected reply from reconcile: {reply!r}")
        return _handed(reply[1])

    async def prepare(self, life: str) -> str | None:
        """The life that begins next, or has begun: `life` where there was none. None: it was emptied just now."""
        await self._connection.call("HSETNX", self._meta, "next", life)
        reply = await self._connection.call("HGET", self._meta, "next")
        return None if reply is None else _text(reply)

    async def generation(self) -> str | None:
        reply = await self._connection.call("HGET", self._meta, "gen")
        return None if reply is None else _text(reply)

    async def inflight(self) -> int:
        reply = await self._connection.call("SCARD", f"{self.name}:fl")
        assert isinstance(reply, int)
        return reply

    async def records(self) -> dict[RequestId, Record]:
        """Every request the partition knows, read page by page: what changes meanwhile may be in or not."""
        found: dict[RequestId, Record] = {}
        cursor = "0"
        while True:
            reply = await self._connection.call("HSCAN", f"{self.name}:req", cursor, "COUNT", _PAGE)
            cursor, pairs = _page(reply)
            for request, packed in zip(pairs[::2], pairs[1::2], strict=True):
                state, executor, org, queue, _, _, _, at, _ = packed.split("|", 8)
                found[RequestId(request)] = Record(state, ExecutorId(executor), OrgId(org), queue, at)
            if cursor == "0":
                return found

    async def announce(self, signature: str, requirement: bytes) -> None:
        await self._connection.run(_ANNOUNCE, self._meta, self._now(), signature, requirement)

    async def attach(self, signature: str, matches: Sequence[tuple[str, str]], *, last: bool) -> None:
        pairs = [part for match in matches for part in match]
        await self._connection.run(_ATTACH, self._meta, self._now(), signature, int(last), *pairs)

    async def signatures(self) -> tuple[bytes, dict[str, bytes]]:
        """The version of the set of signatures, and the requirement of each."""
        # The version first: a signature that comes up between the two reads makes the upsert match again.
        version, reply = (
            await self._connection.call("HGET", self._meta, "sigv"),
            await self._connection.call("HGETALL", f"{self.name}:sigs"),
        )
        assert isinstance(reply, list)
        values = [value for value in reply if isinstance(value, bytes)]
        known = {key.decode(): value[1:] for key, value in zip(values[::2], values[1::2], strict=True)}
        return version if isinstance(version, bytes) else b"", known

    async def executors(self, cursor: str) -> tuple[str, list[tuple[str, str, bytes]]]:
        """A page of connected executors: id, version of the entry, capabilities. The cursor "0" begins and ends."""
        cursor, names = _page(await self._connection.call("SSCAN", f"{self.name}:xs", cursor, "COUNT", _PAGE))
        calls = [self._connection.call("HMGET", f"{self.name}:x:{name}", "v", "caps") for name in names]
        page: list[tuple[str, str, bytes]] = []
        for name, call in zip(names, calls, strict=True):
            reply = await call
            assert isinstance(reply, list)
            version, capabilities = reply
            if isinstance(version, bytes) and isinstance(capabilities, bytes):
                page.append((name, version.decode(), capabilities))
        return cursor, page


_CHOOSE = scripts.load("choose")
_CONFIRM = scripts.load("confirm")
_RELEASE = scripts.load("release")
_UPSERT = scripts.load("upsert")
_REMOVE = scripts.load("remove")
_SWEEP = scripts.load("sweep")
_RECONCILE = scripts.load("reconcile")
_ANNOUNCE = scripts.load("announce")
_ATTACH = scripts.load("attach")


def _text(reply: Reply) -> str:
    if isinstance(reply, bytes):
        return reply.decode()
    if isinstance(reply, int):
        return str(reply)
    raise BusReplyError(f"expected text, got {reply!r}")


def _pair(reply: Reply) -> tuple[list[Reply], Reply]:
    if isinstance(reply, list) and len(reply) == 2 and isinstance(reply[0], list):
        return reply[0], reply[1]
    raise BusReplyError(f"unexpected reply from a capacity script: {reply!r}")


def _page(reply: Reply) -> tuple[str, list[str]]:
    cursor, items = (reply[0], reply[1]) if isinstance(reply, list) and len(reply) == 2 else (None, None)
    if not isinstance(items, list):
        raise BusReplyError(f"unexpected reply to a scan: {reply!r}")
    return _text(cursor), [_text(item) for item in items]


def _handed(reply: Reply) -> list[Handed]:
    if not isinstance(reply, list):
        raise BusReplyError(f"unexpected reply from a capacity script: {reply!r}")
    handed: list[Handed] = []
    for i in range(0, len(reply), 7):
        request, org, executor, epoch, edge, at = (_text(part) for part in reply[i : i + 6])
        ask = reply[i + 6]
        handed.append(
            Handed(
                Next(RequestId(request), OrgId(org), ExecutorId(executor), int(epoch), ProcessId(edge), int(at)),
                ask if isinstance(ask, bytes) else b"",
            )
        )
    return handed
