"""A turn as the capacity book is asked about it."""

import msgspec

from vespid.dispatch.scheduler import Wanted
from vespid.domain.selector import Requirement
from vespid.store.turns import TurnToPlace
from vespid_protocol.ids import OrgId, RequestId

_decode_requirement = msgspec.json.Decoder(Requirement).decode


def wanted(org_id: OrgId, request_id: RequestId, turn: TurnToPlace) -> Wanted:
    """In the organization's own pool and without a pin, until somebody says otherwise."""
    return Wanted(
        request_id=request_id,
        org_id=org_id,
        pool="byon",
        requirement=_decode_requirement(turn.requirement),
        priority=turn.priority,
        since_ms=int(turn.created_at.timestamp() * 1000),
    )
