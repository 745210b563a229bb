"""No route lets one organization reach another: every route of the application is walked with foreign ids.

The list is the application's own, so a route that is added is tried without anybody thinking of it.
"""

from collections.abc import Iterator
from uuid import UUID

import pytest
from litestar.routes import HTTPRoute
from tests.support.control import Caller, Control

from vespid.control.app import create_app
from vespid.control.context import ORG_GUARDS, TenantContext
from vespid_protocol.ids import OrgId

pytestmark = pytest.mark.promise("P5")

# A body that each writing route accepts, so that it is the foreign id and not the body that is refused.
BODIES: dict[str, object] = {
    "/members/{user_id}/role": {"roleKey": "admin"},
    "/agents/{agent_id}/tags": {"tags": ["west"]},
    "/executors/{agent_id}/tags": {"tags": ["west"]},
    "/secrets/{secret_id}": {"value": "new"},
    "/workflows/{workflow_id}": {"name": "New name"},
    "/workflows/{workflow_id}/runs": {"input": {}},
    "/workflows/{workflow_id}/runs/{run_id}/retry": {"fromNodeId": "n1"},
    "/agent-bindings/{binding_id}": {"priority": 1},
    "/sessions/{session_id}": {"title": "Mine"},
    "/sessions/{session_id}/messages": {"message": "hi"},
    "/approvals/{approval_id}/approve": {"hash": "00" * 32},
    "/approvals/{approval_id}/deny": {"hash": "00" * 32},
}
# A query that each list demands.
QUERIES = {"/memory/search": "?q=theirs&sessionKey=theirs", "/memory/docs": "?sessionKey=theirs"}
PLACES = (
    "user_id",
    "invitation_id",
    "key_id",
    "secret_id",
    "agent_id",
    "workflow_id",
    "run_id",
    "node_id",
    "session_id",
    "binding_id",
    "doc_id",
    "approval_id",
    "token_id",
)
DSL = {
    "version": "v2",
    "trigger": {"type": "trigger.manual"},
    "nodes": [{"id": "n1", "type": "agent.execute", "config": {}}],
}


def org_routes(control: Control) -> Iterator[tuple[str, str]]:
    """Every (method, path) under an organization."""
    for route in create_app(control.plane.deps).routes:
        if isinstance(route, HTTPRoute) and route.path_format.startswith("/v1/orgs/{org_id}"):
            for method in route.route_handler_map:
                if method != "OPTIONS":
                    yield str(method), route.path_format


def test_every_organization_route_has_an_organization_guard(control: Control) -> None:
    bare = [
        (method, route.path_format)
        for route in create_app(control.plane.deps).routes
        if isinstance(route, HTTPRoute) and route.path_format.startswith("/v1/orgs/{")
        for method, (handler, _) in route.route_handler_map.items()
        if method != "OPTIONS" and not any(guard in ORG_GUARDS for guard in handler.resolve_guards())
    ]
    assert bare == []


async def everything_of(control: Control, caller: Caller) -> dict[str, str]:
    """One row of each kind, made in the caller's organization, by the name that paths have for its id."""
    invitation = await caller.post("/v1/orgs/{org}/invitations", {"email": "x@people.test", "roleKey": "member"})
    key = await caller.post("/v1/orgs/{org}/api-keys", {"name": "theirs", "role": "member"})
    secret = await caller.post("/v1/orgs/{org}/secrets", {"connectorId": "github", "name": "theirs", "value": "v"})
    workflow = await caller.post("/v1/orgs/{org}/workflows", {"name": "Theirs", "dsl": DSL})
    token = await caller.post("/v1/orgs/{org}/agents/pairing-tokens")
    paired = await caller.post("/v1/agents/pair", {"pairingToken": token.body["token"], "name": "theirs"})
    workflow_id = workflow.body["workflow"]["id"]
    published = await caller.post(f"/v1/orgs/{{org}}/workflows/{workflow_id}/publish")
    run = await caller.post(f"/v1/orgs/{{org}}/workflows/{workflow_id}/runs", {})
    session = await caller.post("/v1/orgs/{org}/sessions", {"title": "Theirs"})
    binding = await caller.post("/v1/orgs/{org}/agent-bindings", {"agentId": "theirs", "dimension": "default"})
    for answer in (invitation, key, secret, workflow, token, paired, published, run, session, binding):
        assert answer.status in (200, 201), answer.body
    return {
        "user_id": caller.user_id,
        "invitation_id": invitation.body["invitation"]["id"],
        "key_id": key.body["apiKey"]["id"],
        "secret_id": secret.body["secret"]["id"],
        "agent_id": paired.body["agentId"],
        "token_id": token.body["id"],
        "workflow_id": workflow_id,
        "run_id": run.body["run"]["id"],
        "session_id": session.body["session"]["id"],
        "binding_id": binding.body["binding"]["id"],
        "node_id": "n1",
        "doc_id": await a_document_of(control, caller),
        "approval_id": await an_approval_of(control, caller, run.body["run"]["id"], workflow_id),
    }


async def a_document_of(control: Control, caller: Caller) -> str:
    """Remembered by a session of the caller's organization, as if its host had told it."""
    async with control.plane.deps.database.tenant(OrgId(str(caller.org_id))) as connection:
        doc_id = await connection.fetchval(
            """insert into memory_docs (organization_id, session_key, path, file_key, version, sha256, content)
               values ($1, 'theirs', 'MEMORY.md', 'memory.md', 1, '', 'theirs') returning id""",
            UUID(str(caller.org_id)),
        )
    return str(doc_id)


async def an_approval_of(control: Control, caller: Caller, run_id: str, workflow_id: str) -> str:
    """Asked by a run of the caller's organization."""
    async with control.plane.deps.database.tenant(OrgId(str(caller.org_id))) as connection:
        approval_id = await connection.fetchval(
            """insert into approvals (id, organization_id, request_id, run_id, workflow_id, node_id, node_type, kind,
                   by_role, what, hash, expires_at)
               values (gen_random_uuid(), $1, $2::uuid::text || ':n1:1', $2, $3, 'n1', 'agent.execute', 'node',
                   'member', '{}', repeat('0', 64), now() + interval '1 day') returning id""",
            UUID(str(caller.org_id)),
            UUID(run_id),
            UUID(workflow_id),
        )
    return str(approval_id)


def filled(path: str, org_id: str, ids: dict[str, str]) -> str:
    for name, value in ({"org_id": org_id} | ids).items():
        path = path.replace(f"{{{name}}}", value)
    assert "{" not in path, f"this test knows no id for {path}"
    return path


async def test_foreign_rows_are_404_on_every_route(control: Control, owner: Caller, stranger: Caller) -> None:
    theirs = await everything_of(control, stranger)
    wrong: list[tuple[str, str, int]] = []
    for method, path in org_routes(control):
        tail = path.removeprefix("/v1/orgs/{org_id}")
        if "{" not in tail:
            continue
        answer = await owner.call(method, filled(path, str(owner.org_id), theirs), BODIES.get(tail))
        if answer.status != 404:
            wrong.append((method, path, answer.status))
    assert wrong == []


async def test_a_foreign_organization_is_403_on_every_route(control: Control, owner: Caller, stranger: Caller) -> None:
    theirs = await everything_of(control, stranger)
    wrong: list[tuple[str, str, int]] = []
    for method, path in org_routes(control):
        where = filled(path, str(stranger.org_id), theirs)
        for headers, expected in (
            ({"X-Org-Id": str(stranger.org_id)}, (403, "ORG_ACCESS_DENIED")),
            ({"X-Org-Id": str(owner.org_id)}, (400, "INVALID_ORG_CONTEXT")),
            ({"X-Org-Id": ""}, (400, "ORG_CONTEXT_REQUIRED")),
            ({"X-Org-Id": str(stranger.org_id), "Authorization": ""}, (401, "UNAUTHORIZED")),
        ):
            answer = await owner.call(method, where, headers=headers)
            if (answer.status, answer.code) != expected:
                wrong.append((method, path, answer.status))
    assert wrong == []


async def test_lists_show_nothing_of_another_organization(control: Control, owner: Caller, stranger: Caller) -> None:
    theirs = await everything_of(control, stranger)
    for method, path in org_routes(control):
        # What is streamed is hints, for as long as somebody listens; see test_org_stream.py.
        if method == "GET" and "{" not in path.removeprefix("/v1/orgs/{org_id}") and not path.endswith("/stream"):
            query = QUERIES.get(path.removeprefix("/v1/orgs/{org_id}"), "")
            answer = await owner.get(filled(path, str(owner.org_id), {}) + query)
            assert answer.status == 200
            shown = str(answer.body)
            assert [name for name, value in theirs.items() if value in shown and name != "node_id"] == [], path


async def test_an_api_key_of_another_organization_opens_nothing(
    control: Control, owner: Caller, stranger: Caller
) -> None:
    key = await stranger.post("/v1/orgs/{org}/api-keys", {"name": "theirs", "role": "owner"})
    machine = control.with_token(key.body["value"], owner.org_id)
    for method, path in org_routes(control):
        ids = dict.fromkeys(PLACES, "x")
        answer = await machine.call(method, filled(path, str(owner.org_id), ids))
        assert (answer.status, answer.code) == (403, "ORG_ACCESS_DENIED"), path


def test_a_tenant_context_cannot_be_made_without_the_check(control: Control) -> None:
    with pytest.raises(TypeError):
        TenantContext(object(), control.plane.deps.database, "x", None, "owner", None)  # type: ignore[arg-type]
