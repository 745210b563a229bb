"""Cron triggers that are due: each firing becomes one run, however many workers look."""

from datetime import UTC, datetime

import msgspec
import structlog

from vespid.dispatch.house import House, epoch_ms
from vespid.dispatch.rows import text_or_none
from vespid.domain.cron import CronInvalid, fire
from vespid.store.runs import NewRun
from vespid.store.schedules import DueSchedule, due_schedules, fire_schedule
from vespid_protocol.ids import OrgId, RunId, new_id

log = structlog.get_logger("vespid.worker.schedules")

BATCH = 200


class Schedules:
    """Fires what is due."""

    def __init__(self, house: House, *, max_attempts: int) -> None:
        self._house = house
        self._max_attempts = max_attempts

    async def fire_due(self) -> int:
        """How many schedules were due."""
        due = await due_schedules(self._house.db, BATCH)
        for schedule in due:
            await self._fire(schedule)
        return len(due)

    async def _fire(self, schedule: DueSchedule) -> None:
        due_ms = int(schedule.next_fire_at.timestamp() * 1000)
        try:
            firing = fire(schedule.cron, schedule.timezone, due_ms, epoch_ms())
        except CronInvalid:
            # Validated when it was published; an unknown time zone here is this host's. It must not fire for ever.
            log.exception("schedule_unreadable", family_id=str(schedule.family_id))
            return
        org_id, run_id = OrgId(str(schedule.organization_id)), RunId(new_id())
        scheduled_at = datetime.fromtimestamp(firing.scheduled_at / 1000, UTC).isoformat(timespec="milliseconds")
        outcome = await fire_schedule(
            self._house.db,
            schedule,
            None if firing.next_at is None else datetime.fromtimestamp(firing.next_at / 1000, UTC),
            NewRun(
                org=org_id,
                id=run_id,
                workflow_id=str(schedule.workflow_id),
                trigger_type="cron",
                max_attempts=self._max_attempts,
                user_id=text_or_none(schedule.user_id),
                input=msgspec.Raw(msgspec.json.encode({"scheduledAt": scheduled_at.replace("+00:00", "Z")})),
            ),
        )
        if outcome == "created":
            self._house.stepper.wake(org_id, run_id)
        elif outcome != "taken":
            log.warning("schedule_not_fired", family_id=str(schedule.family_id), outcome=outcome)
