"""A turn of a loop that this process holds: what it says becomes events of the run, what it keeps becomes `progress`.

The one thing to know: what is told and how far the loop has come are one statement, guarded by the lease. When the
lease is somebody else's the loop is stopped at once (`TurnAbandoned`), and nothing of it is written any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Literal

import msgspec
import structlog

from vespid.bus.channels import run_channel
from vespid.dispatch.house import House, epoch_ms
from vespid.domain.payload import cut_event
from vespid.store.executions import CloudWork, EventItem, Keep
from vespid.store.failure import STORE_AWAY
from vespid_protocol.frames import Level
from vespid_protocol.ids import RequestId
from vespid_protocol.text import clean_json
from vespid_runtime.redaction import Redactor

log = structlog.get_logger("vespid.worker.kept_turn")

TEXT_DELTA = "text_delta"
# What gathers for so long becomes one statement.
GATHER_S = 0.25
RETRY_S = (0.1, 0.2, 0.5, 1.0, 2.0)
MESSAGE_MAX_CHARS = 500
# How long a turn that is to go on elsewhere may take to come to a place where nothing is under way.
HAND_OVER_S = 10.0

_encode = msgspec.json.Encoder().encode
_decode_event = msgspec.json.Decoder(dict[str, object]).decode

Reason = Literal["handed over", "lost"]


class TurnAbandoned(Exception):
    """This process is to do no more about it: the turn goes on elsewhere."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class _Call(msgspec.Struct, frozen=True):
    result: object = None


class _Steps(msgspec.Struct, frozen=True):
    """As much of a loop's state as says whether it has come further."""

    turns: int = 0
    open: tuple[_Call, ...] = ()

    @property
    def mark(self) -> tuple[int, int]:
        return self.turns, sum(1 for call in self.open if call.result is not None)


class KeptTurn:
    """An engine's `TurnOutput`. `run` holds its life."""

    def __init__(
        self,
        house: House,
        work: CloudWork,
        redactor: Redactor,
        *,
        payload_max_chars: int,
        text_max_chars: int,
        resume: str | None,
    ) -> None:
        """`text_max_chars`: of what is told of the answer while it is made."""
        self._house = house
        self._work = work
        self._redactor = redactor
        self._payload_max_chars = payload_max_chars
        self._text_left = text_max_chars
        self._mark = _mark_of(resume)
        self._stream = redactor.stream()
        self._text: list[str] = []
        self._events: list[EventItem] = []
        self._seq = 0
        self._something = asyncio.Event()
        self._writing = asyncio.Lock()
        self._owner: asyncio.Task[object] | None = None
        self._leaving: asyncio.TimerHandle | None = None
        # Set before anything that belongs to the turn is cancelled: what runs elsewhere then runs on.
        self.abandoned: Reason | None = None

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Write what is told while the block runs. Raises TurnAbandoned where the turn is not ours any more."""
        self._owner = asyncio.current_task()
        writer = asyncio.create_task(self._write_on(), name=f"events of {self._work.request_id}")
        try:
            try:
                yield
            except Exception:
                await self._written()
                raise
            await self._written()
        except asyncio.CancelledError:
            if self.abandoned is None:
                raise
            raise TurnAbandoned(self.abandoned) from None
        finally:
            if self._leaving is not None:
                self._leaving.cancel()
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    def hand_over(self) -> None:
        """It is to go on elsewhere: from the next place at which it is kept, or as it is after a while."""
        if self._leaving is None:
            self._leaving = asyncio.get_running_loop().call_later(HAND_OVER_S, self._abandon, "handed over")

    def take_tail(self) -> tuple[EventItem, ...]:
        """What is not written yet."""
        self._say(self._stream.finish())
        self._end_text()
        events, self._events = self._events, []
        return tuple(events)

    # --- TurnOutput --------------------------------------------------------------------------------------------------

    def delta(self, text: str) -> None:
        self._say(self._stream.feed(text))

    def event(self, kind: str, level: Level, message: str | None, payload: object) -> None:
        self._end_text()
        self._add(kind, level, message, self._redactor.redact_json(payload))

    async def keep(self, state: bytes) -> None:
        """Raises TurnAbandoned."""
        mark = _mark_of(state)
        progress = self._redactor.redact_raw(state).decode()
        await self._write(progress, further=mark > self._mark)
        self._mark = max(mark, self._mark)
        if self._leaving is not None:
            self.abandoned = self.abandoned or "handed over"
            raise TurnAbandoned(self.abandoned)

    # --- inner -------------------------------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        text = text[: self._text_left]
        self._text_left -= len(text)
        if text:
            self._text.append(text)
            self._something.set()

    def _end_text(self) -> None:
        if self._text:
            text = "".join(self._text)
            self._text.clear()
            self._add(TEXT_DELTA, "info", None, {"text": text})

    def _add(self, kind: str, level: Level, message: str | None, payload: object) -> None:
        event: dict[str, object] = {"seq": self._seq, "ts": epoch_ms(), "kind": kind, "level": level}
        if message is not None:
            event["message"] = message[:MESSAGE_MAX_CHARS]
        told: dict[str, object] = _decode_event(clean_json(_encode(event | {"payload": payload}))[0])
        self._seq += 1
        work, kept = self._work, cut_event(told, self._payload_max_chars)
        self._events.append(EventItem("remote_event", level, work.node_id, work.node_type, kind, kept))
        self._something.set()

    async def _write_on(self) -> None:
        while True:
            await self._something.wait()
            await asyncio.sleep(GATHER_S)
            self._something.clear()
            try:
                await self._write(None)
            except TurnAbandoned as over:
                self._abandon(over.reason)
                return

    async def _written(self) -> None:
        """What is being written is: what is left is for the result to bring."""
        if self.abandoned is None:
            async with self._writing:
                self._something.clear()

    async def _write(self, progress: str | None, *, further: bool = False) -> None:
        """Until it is settled. Raises TurnAbandoned where the lease is not ours any more."""
        async with self._writing:
            self._end_text()
            events, self._events = self._events, []
            if not events and progress is None:
                return
            keep = Keep(
                request=RequestId(self._work.request_id),
                process=self._house.process_id,
                epoch=self._work.lease_epoch,
                events=events,
                last_event_seq=self._seq - 1,
                progress=progress,
                further=further,
            )
            tries = 0
            while True:
                try:
                    kept = await self._house.executions.keep(keep)
                    break
                except STORE_AWAY as error:
                    # Where the outcome is unknown and it was committed, the repeat is known by its seq.
                    log.warning("progress_postponed", request_id=self._work.request_id, error=repr(error))
                    await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
                    tries += 1
        if kept.outcome == "fenced":
            self.abandoned = self.abandoned or "lost"
            raise TurnAbandoned(self.abandoned)
        if kept.run_id is not None:
            self._house.fanout.publish(run_channel(str(kept.run_id)), b"%d" % (kept.seq or 0))

    def _abandon(self, reason: Reason) -> None:
        self.abandoned = self.abandoned or reason
        if self._owner is not None:
            self._owner.cancel()


def _mark_of(state: bytes | str | None) -> tuple[int, int]:
    try:
        return _decode_steps(state or b"{}").mark
    except msgspec.DecodeError:
        return 0, 0


_decode_steps = msgspec.json.Decoder(_Steps).decode
