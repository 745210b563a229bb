"""Tools of a loop in the gateway's mode that run on executors: each call is a request of its own.

The one thing to know: its id is made of the call's key, so a loop that is taken up again finds the call that it had
begun, running or ended, and joins it. It belongs to no run, for its end is input to the loop and not to the run.
"""

import asyncio
import re

import msgspec
import structlog

from vespid.bus.channels import call_channel
from vespid.bus.messages import OfferAnswered
from vespid.dispatch.ending import cancel_request
from vespid.dispatch.house import House
from vespid.dispatch.rows import payload_digest
from vespid.dispatch.scheduler import Wanted
from vespid.dispatch.waiters import Waiters
from vespid.domain.plan import Schedule
from vespid.domain.selector import Requirement, Selector
from vespid.store.executions import ExecutionRow, NewRow
from vespid.store.failure import STORE_FAILED
from vespid_protocol.ids import ExecutorId, OrgId, RequestId

log = structlog.get_logger("vespid.dispatch.tool_calls")

KIND = "agent.execute"
# A call whose loop was cancelled was cancelled too; a loop that goes on nevertheless begins it anew.
TRIES_MAX = 20

_ID = re.compile(r"[^:]+:[^:]+:tool:\d+(:[0-9a-f]{16})?:\d+")
_encode = msgspec.json.Encoder().encode


def is_tool_call(request_id: str) -> bool:
    """Whether a loop may be waiting for its end."""
    return _ID.fullmatch(request_id) is not None


class CallWanted(msgspec.Struct, frozen=True, kw_only=True):
    """One call, as the loop asks for it."""

    org_id: OrgId
    user_id: str | None
    # `<runId>:<nodeId>:tool:<n>`, the same whoever asks.
    key: str
    node_id: str
    payload: dict[str, object]
    selector: Selector
    schedule: Schedule
    timeout_ms: int


class CallConflict(Exception):
    """Another call stands under the same key."""


class ToolCalls:
    """A Service."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._waiters = Waiters(house.executions)

    async def start(self) -> None:
        await self._waiters.start()

    async def stop(self) -> None:
        await self._waiters.stop()

    async def ended(self, wanted: CallWanted) -> ExecutionRow:
        """The call's end, begun here or joined. Being cancelled does not end the call: see `cancel`.

        Raises CallConflict.
        """
        for number in range(1, TRIES_MAX):
            row = await self._end_of(_row(wanted, number))
            if row.state != "cancelled":
                return row
        return row

    async def cancel(self, wanted: CallWanted) -> None:
        """Nobody wants it any more."""
        for number in range(1, TRIES_MAX):
            try:
                asked = await cancel_request(self._house, _id(wanted, number), "the agent's loop was stopped")
            except STORE_FAILED as error:
                log.warning("call_not_cancelled", request_id=_id(wanted, number), error=repr(error))
                return
            if asked.outcome != "finished":
                return

    async def _end_of(self, row: NewRow) -> ExecutionRow:
        house, request_id = self._house, row.request_id
        leave = await house.fanout.subscribe(call_channel(request_id), lambda _: self._told(request_id))
        try:
            standing = await house.executions.create(row)
            if standing.outcome == "conflict":
                raise CallConflict(f"another call stands under {request_id}")
            if standing.state == "pending":
                house.scheduler.launch([Wanted.of_row(row)])
            while True:
                with self._waiters.wait(request_id) as notice:
                    found = await house.executions.read(request_id)
                    if found is None:
                        raise CallConflict(f"{request_id} was forgotten")
                    if found.finished_at is not None:
                        return found
                    await notice
        finally:
            await asyncio.shield(leave())

    def _told(self, request_id: RequestId) -> None:
        self._waiters.answered(OfferAnswered(request_id, "exists"))


def _id(wanted: CallWanted, number: int) -> RequestId:
    return RequestId(f"{wanted.key}:{number}")


def _row(wanted: CallWanted, number: int) -> NewRow:
    requirement = Requirement(KIND, tags=wanted.selector.required_tags())
    pin = wanted.selector.executor_id
    return NewRow(
        org=wanted.org_id,
        request_id=_id(wanted, number),
        node_id=wanted.node_id,
        node_type=KIND,
        attempt=number,
        kind=KIND,
        placement="executor",
        user_id=wanted.user_id,
        payload=msgspec.Raw(_encode(wanted.payload)),
        payload_sha256=payload_digest(KIND, wanted.payload),
        pool=wanted.selector.pool or "byon",
        required_tags=requirement.tags,
        requirement=msgspec.Raw(_encode(requirement)),
        selector=msgspec.Raw(_encode(wanted.selector)),
        signature=requirement.signature,
        pin_executor_id=None if pin is None else ExecutorId(pin),
        on_unavailable=wanted.schedule.on_unavailable,
        max_wait_ms=min(wanted.schedule.max_wait_ms, wanted.timeout_ms),
        timeout_ms=wanted.timeout_ms,
    )
