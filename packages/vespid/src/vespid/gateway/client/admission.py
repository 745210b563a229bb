"""Who may open a client socket, decided before the upgrade; and who may keep it, whenever that may have changed.

A removal, a logout, the revoke of a key: each is a row of the control feed, and every socket that it may concern is
looked at anew. What nobody announces, a login or key that runs out, is found by a look every minute.
"""

import asyncio
from collections import defaultdict

import structlog
from aiohttp import web

from vespid.dispatch.callers import SESSION_COOKIE, Callers, Principal, Shown
from vespid.errors import ApiError, unavailable
from vespid.gateway.client.member import Member
from vespid.store.connections import FeedRow
from vespid.store.failure import STORE_AWAY
from vespid.tasks import Tasks
from vespid_protocol.codes import CloseCode
from vespid_protocol.ids import OrgId, UserId, is_uuid

log = structlog.get_logger("vespid.gateway.client.admission")

SOCKETS_PER_USER_MAX = 100
AGAIN_S = 0.2
# Without news, how often each is looked at.
LOOK_ANYWAY_MS = 60_000


class Admission:
    """The sockets of this process by who holds them. The feed is handed in row by row."""

    def __init__(self, callers: Callers, tasks: Tasks) -> None:
        self._callers = callers
        self._tasks = tasks
        self._members: defaultdict[UserId, set[Member]] = defaultdict(set)
        # Rows about people heard of so far: a socket that was let in before one of them, and is known here only after
        # it, has to be judged as it is opened.
        self.news = 0

    async def admit(self, request: web.Request) -> tuple[Principal, OrgId]:
        """Who opens the socket, and in which organization. Raises ApiError."""
        named = request.headers.get("X-Org-Id") or request.query.get("orgId")
        org_id = OrgId(named.lower()) if named and is_uuid(named) else None
        shown = Shown(
            authorization=request.headers.get("Authorization"),
            cookie=request.cookies.get(SESSION_COOKIE),
            origin=request.headers.get("Origin"),
            # The pages of other sites can open sockets, and what is said on one is not only read.
            needs_origin=True,
        )
        try:
            standing = await self._callers.identify(shown, org_id)
        except STORE_AWAY as error:
            log.warning("admission_postponed", error=repr(error))
            raise unavailable("The gateway cannot look you up now.", "GATEWAY_UNAVAILABLE") from error
        if not named:
            raise ApiError(400, "ORG_CONTEXT_REQUIRED", "Name the organization: X-Org-Id, or ?orgId=.")
        if org_id is None:
            raise ApiError(400, "INVALID_ORG_CONTEXT", "The organization's id is not a UUID.")
        if standing.role is None:
            raise ApiError(403, "ORG_ACCESS_DENIED", "You are not a member of this organization.")
        if len(self._members.get(standing.principal.user_id, ())) >= SOCKETS_PER_USER_MAX:
            raise ApiError(
                429,
                "RATE_LIMITED",
                f"One person has at most {SOCKETS_PER_USER_MAX} sockets here.",
                headers={"Retry-After": "10"},
            )
        return standing.principal, org_id

    def opened(self, member: Member, news_before: int) -> None:
        """It was let in after so much news."""
        self._members[member.principal.user_id].add(member)
        if news_before != self.news:
            self._judge(member)

    def closed(self, member: Member) -> None:
        """It is gone."""
        members = self._members.get(member.principal.user_id, set())
        members.discard(member)
        if not members:
            self._members.pop(member.principal.user_id, None)

    def read(self, row: FeedRow) -> None:
        """One row of the feed."""
        if row.kind not in ("member_removed", "session_revoked", "api_key_revoked"):
            return
        self.news += 1
        for members in tuple(self._members.values()):
            for member in tuple(members):
                if _concerns(row, member):
                    self._judge(member)

    def look(self, member: Member) -> None:
        """Judge it if that is long ago."""
        if member.now_ms - member.judged_ms >= LOOK_ANYWAY_MS:
            member.judged_ms = member.now_ms
            self._judge(member)

    def _judge(self, member: Member) -> None:
        self._tasks.start(self._find_out(member))

    async def _find_out(self, member: Member) -> None:
        while not member.is_over:
            try:
                may_stay = await self._callers.may_stay(member.principal, member.org_id)
            except STORE_AWAY as error:
                # Nobody else would ever close it.
                log.warning("member_not_judged", user_id=member.principal.user_id, error=repr(error))
                await asyncio.sleep(AGAIN_S)
                continue
            if not may_stay:
                member.end(CloseCode.REVOKED, "you do not belong here any more")
            return


def _concerns(row: FeedRow, member: Member) -> bool:
    principal = member.principal
    if row.kind == "session_revoked":
        return principal.session_id == row.subject_id
    if row.kind == "api_key_revoked":
        return principal.api_key_id == row.subject_id
    return principal.user_id == row.subject_id and str(row.organization_id) == member.org_id
