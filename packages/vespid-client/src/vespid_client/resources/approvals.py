"""Approvals: what waits for a person, and the decision."""

from vespid_client.api import Api
from vespid_client.listing import Listing, listing
from vespid_client.models.approvals import Approval, ApprovalInFull
from vespid_client.models.model import Model
from vespid_client.retries import Repeat
from vespid_client.route import Route, get, post


class ApprovalPage(Model, frozen=True, kw_only=True):
    """The newest first."""

    approvals: list[Approval]
    next_cursor: str | None


class ApprovalAnswer(Model, frozen=True, kw_only=True):
    """One approval."""

    approval: ApprovalInFull


APPROVALS = "/v1/orgs/{org_id}/approvals"
LIST_APPROVALS = get(APPROVALS, ApprovalPage)
GET_APPROVAL = get(f"{APPROVALS}/{{approval_id}}", ApprovalAnswer)
# A second decision is refused, the same one too.
APPROVE = post(f"{APPROVALS}/{{approval_id}}/approve", ApprovalAnswer, Repeat.NEVER)
DENY = post(f"{APPROVALS}/{{approval_id}}/deny", ApprovalAnswer, Repeat.NEVER)


class Approvals:
    """`client.approvals`."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def list(self, *, status: str | None = None, run_id: str | None = None) -> Listing[Approval]:
        """The newest first; `status`: only those `pending`, or those `decided`."""
        query = {"status": status, "runId": run_id}
        return listing(self._api, LIST_APPROVALS, lambda page: page.approvals, query=query)

    async def get(self, approval_id: str) -> ApprovalInFull:
        """One, with all that would run."""
        return (await self._api.call(GET_APPROVAL, path={"approval_id": approval_id})).approval

    async def approve(self, approval_id: str, hash: str, *, comment: str | None = None) -> ApprovalInFull:
        """Allow what was seen: `hash` is that of the approval. Raises Conflict where something else would run."""
        return await self._decide(APPROVE, approval_id, hash, comment)

    async def deny(self, approval_id: str, hash: str, *, comment: str | None = None) -> ApprovalInFull:
        """Do not allow it; an agent is told the comment."""
        return await self._decide(DENY, approval_id, hash, comment)

    async def _decide(
        self, route: Route[ApprovalAnswer], approval_id: str, hash: str, comment: str | None
    ) -> ApprovalInFull:
        body = {"hash": hash} if comment is None else {"hash": hash, "comment": comment}
        return (await self._api.call(route, body=body, path={"approval_id": approval_id})).approval
