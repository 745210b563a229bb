"""What waits for people of an organization, and their word, over HTTP."""

from typing import Any

from tests.support.organization import Organization, until


async def waiting(organization: Organization, run_id: str) -> dict[str, Any]:
    """The approval that the run waits for, in full."""

    async def asked() -> list[dict[str, Any]]:
        path = f"/v1/orgs/{{org}}/approvals?status=pending&runId={run_id}"
        return list((await organization.call("GET", path, status=200)).body["approvals"])

    (found,) = await until(asked, f"run {run_id} asks")
    return await approval(organization, found["id"])


async def approval(organization: Organization, approval_id: str) -> dict[str, Any]:
    answer = await organization.call("GET", f"/v1/orgs/{{org}}/approvals/{approval_id}", status=200)
    return dict(answer.body["approval"])


async def decide(organization: Organization, asked: dict[str, Any], verdict: str, **more: str) -> dict[str, Any]:
    path = f"/v1/orgs/{{org}}/approvals/{asked['id']}/{verdict}"
    answer = await organization.call("POST", path, {"hash": asked["hash"], **more}, status=200)
    return dict(answer.body["approval"])
