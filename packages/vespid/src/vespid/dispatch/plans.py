"""Plans of published workflows, computed once per process. A published revision never changes, so nothing expires."""

import asyncio
from collections import OrderedDict
from uuid import UUID

import msgspec

from vespid.domain.plan import Plan
from vespid.domain.workflow import parse
from vespid.store.pool import Database
from vespid.store.workflows import read_workflow
from vespid_protocol.ids import OrgId, WorkflowId

PLANS_KEPT = 2_000


class WorkflowMissing(LookupError):
    """The organization has no such workflow, or it is a draft, which changes."""


class Plans:
    """`await plans.get(org_id, workflow_id)`; concurrent first askers share one read."""

    def __init__(self, db: Database, *, kept: int = PLANS_KEPT) -> None:
        self._db = db
        self._kept = kept
        # Least recently used first. The organization is part of the key: an id alone opens nobody's workflow.
        self._plans: OrderedDict[tuple[str, str], Plan] = OrderedDict()
        self._reading: dict[tuple[str, str], asyncio.Lock] = {}

    async def get(self, org_id: OrgId, workflow_id: WorkflowId) -> Plan:
        """The plan of a workflow. Raises WorkflowMissing, or WorkflowInvalid for a row no parser of ours wrote."""
        key = (org_id, workflow_id)
        plan = self._plans.get(key)
        if plan is not None:
            self._plans.move_to_end(key)
            return plan
        async with self._reading.setdefault(key, asyncio.Lock()):
            plan = self._plans.get(key)
            if plan is None:
                plan = await self._read(org_id, workflow_id)
                self._plans[key] = plan
                while len(self._plans) > self._kept:
                    self._plans.popitem(last=False)
        self._reading.pop(key, None)
        return plan

    async def _read(self, org_id: OrgId, workflow_id: WorkflowId) -> Plan:
        async with self._db.tenant(org_id) as connection:
            row = await read_workflow(connection, UUID(workflow_id))
        if row is None or row.status != "published":
            raise WorkflowMissing(workflow_id)
        return msgspec.structs.replace(parse(row.dsl).plan, family_id=str(row.family_id))
