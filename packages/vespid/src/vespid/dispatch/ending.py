"""Asking for the end of one request, and telling whoever has to do with it."""

from vespid.dispatch.house import House
from vespid.store.executions import Cancellation
from vespid_protocol.ids import OrgId, RequestId


async def cancel_request(house: House, request_id: RequestId, reason: str) -> Cancellation:
    """What came of it: see `Cancellation`. Its holder is told; the deadline acts where that is lost."""
    asked = await house.executions.cancel(request_id)
    if asked.outcome == "cancelled":
        org_id = OrgId(str(asked.organization_id))
        await house.scheduler.released(request_id, org_id)
        if asked.run_id is not None:
            house.stepper.wake(org_id, str(asked.run_id))
    elif asked.outcome == "cancelling" and asked.executor_id is not None:
        house.scheduler.cancel_order(request_id, str(asked.executor_id), asked.lease_epoch or 0, reason)
    elif asked.outcome == "cancelling" and asked.holder_process is not None:
        house.scheduler.cancel_own(request_id, str(asked.holder_process), asked.lease_epoch or 0, reason)
    return asked
