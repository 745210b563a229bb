"""Answers become commits, commits become `execute_ack`.

Who receives an answer commits it, with what the turn changed in memory, in one statement; the host keeps it until it is
acknowledged. So an error of ours is answered by trying again, and a stale connection by silence.
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from prometheus_client import Counter

from vespid.bus.channels import TURN_QUEUE, session_channel, session_item
from vespid.bus.session_news import Moved, encode
from vespid.dispatch.house import House
from vespid.gateway.edge.connection import Connection
from vespid.gateway.edge.hosted_turn import HostedTurn
from vespid.gateway.edge.memory_documents import changed_documents
from vespid.gateway.edge.results import RETRY_S
from vespid.gateway.edge.turn_leases import copy_after
from vespid.store.failure import STORE_AWAY, STORE_REFUSED
from vespid.store.turns import ChangedDocument, FinishTurn, SessionEventItem, TurnFinished, TurnStore
from vespid.tasks import Tasks
from vespid_protocol.codes import Code
from vespid_protocol.frames import TurnError, TurnFinal, TurnPayload
from vespid_protocol.ids import RequestId, SessionId
from vespid_runtime.redaction import Redactor

log = structlog.get_logger("vespid.gateway.edge.turn_ends")

ENDS = Counter("vespid_turn_ends_total", "Ends of turns that hosts announced, by verdict", ["outcome"])
MESSAGE_MAX_CHARS = 4_000


class _Answer(msgspec.Struct):
    """Of `agent_final` what is read again, masked as it is by then."""

    output: msgspec.Raw


_encode = msgspec.json.Encoder().encode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_payload = msgspec.json.Decoder(TurnPayload).decode

End = TurnFinal | TurnError


class TurnEnds:
    """What this edge does with ends of turns."""

    def __init__(
        self, house: House, turns: TurnStore, tasks: Tasks, let_go: Callable[[Connection], Awaitable[None]]
    ) -> None:
        self._house = house
        self._turns = turns
        self._tasks = tasks
        self._let_go = let_go

    def came(self, connection: Connection, turn: HostedTurn, frame: End) -> None:
        """The host says how it ended."""
        if not turn.ending:
            turn.ending = True
            self._tasks.start(self._settle(connection, turn, frame))

    async def fail(self, connection: Connection, turn: HostedTurn, code: str, message: str) -> None:
        """End a lease that cannot be sent, as if its host had said so."""
        turn.ending = True
        frame = TurnError(request_id=turn.request_id, session_id=turn.session_id, code=code, message=message)
        await self._settle(connection, turn, frame, is_said=False)

    async def _settle(self, connection: Connection, turn: HostedTurn, frame: End, *, is_said: bool = True) -> None:
        turn.close()
        if turn.writing is not None:
            await asyncio.wait((turn.writing,))
        finish = self._metered(_finish(connection, turn, frame))
        finished = await self._commit(connection, turn, finish)
        if finished is None:
            # The socket ended first; the host says it again.
            turn.ending = False
            return
        if finished.is_metered and finish.usage is not None:
            self._house.meter.recorded(finish.usage)
        ENDS.labels(finished.outcome).inc()
        if finished.outcome == "stale":
            turn.ending = False
            await self._let_go(connection)
            return
        self.over(connection, turn)
        if finished.is_ours:
            connection.copies[turn.session_id] = copy_after(turn, finished.memory_version)
        else:
            connection.copies.pop(turn.session_id, None)
        if is_said:
            connection.ack(RequestId(frame.request_id))
        await self.after(connection, turn, finished.event_seq, has_next=finished.has_next)

    def over(self, connection: Connection, turn: HostedTurn) -> None:
        """It is not on this connection any more."""
        turn.close()
        if connection.turns.get(turn.request_id) is turn:
            del connection.turns[turn.request_id]

    async def after(self, connection: Connection, turn: HostedTurn, event_seq: int | None, *, has_next: bool) -> None:
        """Tell those who have joined, wake the next message, and give the room to the next."""
        self.moved(turn.session_id, event_seq)
        if has_next:
            self._house.mail.wake(TURN_QUEUE, session_item(turn.org_id, turn.session_id))
        await self._house.scheduler.released(
            turn.request_id, turn.org_id, executor_id=connection.executor_id, pool=turn.pool
        )

    def moved(self, session_id: SessionId, event_seq: int | None) -> None:
        """Events up to this one are committed."""
        if event_seq is not None:
            self._house.fanout.publish(session_channel(session_id), encode(Moved(event_seq)))

    def _metered(self, finish: FinishTurn) -> FinishTurn:
        if finish.answer is None:
            return finish
        output = _decode_answer(finish.answer).output
        return msgspec.structs.replace(finish, usage=self._house.meter.of_answer(bytes(output)))

    async def _commit(self, connection: Connection, turn: HostedTurn, finish: FinishTurn) -> TurnFinished | None:
        attempt = 0
        while True:
            try:
                return await self._turns.finish(finish)
            except STORE_AWAY as error:
                # Safe to repeat: a commit that did happen answers `duplicate`.
                log.warning("turn_end_postponed", request_id=turn.request_id, error=repr(error))
                if connection.is_over:
                    return None
                await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
                attempt += 1
            except STORE_REFUSED as error:
                if finish.status == "failed" and not finish.tail:
                    raise
                if finish.memory:
                    # More than a session may remember, or two names for one file: the answer stands without it.
                    log.warning("memory_refused", request_id=turn.request_id, error=repr(error))
                    told = {"action": "memory_refused", "userEventSeq": turn.seq, "reason": str(error)[:200]}
                    refused = SessionEventItem("system", "warn", told)
                    finish = msgspec.structs.replace(finish, memory=(), tail=(*finish.tail, refused))
                    continue
                # Nothing of what it says can be kept; that it ended is, or the host would say it for ever.
                log.exception("turn_end_refused", request_id=turn.request_id)
                finish = msgspec.structs.replace(
                    finish,
                    status="failed",
                    tail=(),
                    answer=None,
                    memory=(),
                    code=Code.NODE_EXECUTION_FAILED,
                    message=f"The answer could not be stored ({type(error).__name__}).",
                )


def _finish(connection: Connection, turn: HostedTurn, frame: End) -> FinishTurn:
    tail, turn.events = tuple(turn.events), []
    common = FinishTurn(
        org=turn.org_id,
        session=turn.session_id,
        seq=turn.seq,
        epoch=turn.epoch,
        executor=connection.executor_id,
        connection_epoch=connection.connection_epoch,
        status="failed",
        tail=tail,
    )
    if isinstance(frame, TurnError):
        message = _masked(turn.redactor, frame.message)[:MESSAGE_MAX_CHARS]
        return msgspec.structs.replace(common, code=_masked(turn.redactor, frame.code), message=message)
    output, memory = _parts(frame)
    answer: dict[str, object] = {
        "message": _masked(turn.redactor, frame.content),
        "output": output if turn.redactor is None else turn.redactor.redact_json(output),
        "userEventSeq": turn.seq,
    }
    return msgspec.structs.replace(common, status="answered", answer=msgspec.Raw(_encode(answer)), memory=memory)


def _masked(redactor: Redactor | None, text: str) -> str:
    return text if redactor is None else redactor.redact(text)


def _parts(frame: TurnFinal) -> tuple[object, tuple[ChangedDocument, ...]]:
    """What people are shown of the payload, and what the turn changed in memory."""
    if not isinstance(frame.payload, msgspec.Raw):
        return None, ()
    output = msgspec.json.decode(frame.payload)
    try:
        documents = _decode_payload(frame.payload).memory
    except msgspec.ValidationError:
        # A peer's own payload, in a shape of its own.
        return output, ()
    if isinstance(output, dict):
        output.pop("memory", None)
    return output or None, changed_documents(documents)
