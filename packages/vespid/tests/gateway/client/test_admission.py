"""Who gets a client socket, told before the upgrade; and who loses it, and how soon."""

import asyncio
import time
from typing import Any

import pytest
from tests.support.control import ORIGIN, Caller
from tests.support.session_scene import SessionScene

from vespid.dispatch.callers import Callers, Principal
from vespid.gateway.client import admission
from vespid.store.pool import DatabaseUnavailable
from vespid_protocol.ids import OrgId, new_id

CUT_WITHIN_S = 1.0
# What a busy machine adds to it.
PATIENCE_S = 4.0


async def refused(scene: SessionScene, headers: dict[str, str], query: str = "") -> tuple[int, str]:
    """Status and code of an upgrade that is refused."""
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    async with scene.control.http.get(f"{scene.edge.url}/ws/client{query}", headers=headers | upgrade | key) as got:
        body: Any = await got.json()
        assert "x-request-id" in got.headers
        assert set(body) <= {"code", "message", "details"}
        return got.status, body["code"]


async def test_a_refusal_is_an_http_answer_before_the_upgrade(
    scene: SessionScene, owner: Caller, stranger: Caller
) -> None:
    org = {"X-Org-Id": str(owner.org_id)}
    bearer = {"Authorization": f"Bearer {owner.token}"}
    cookie = {"Cookie": f"vespid_session={owner.cookie}"}
    origin = {"Origin": ORIGIN}
    unauthorized = (401, "UNAUTHORIZED")
    assert await refused(scene, org) == unauthorized
    assert await refused(scene, org | {"Authorization": "Bearer nonsense"}) == unauthorized
    assert await refused(scene, org | {"Authorization": f"Basic {owner.token}"}) == unauthorized
    # An invalid bearer never falls back to the cookie.
    assert await refused(scene, org | cookie | origin | {"Authorization": "Bearer nonsense"}) == unauthorized
    assert await refused(scene, org | origin | {"Cookie": "vespid_session=vrt_x"}) == unauthorized
    assert await refused(scene, org | cookie) == (403, "FORBIDDEN")
    assert await refused(scene, org | cookie | {"Origin": "http://evil.test"}) == (403, "FORBIDDEN")
    assert await refused(scene, bearer) == (400, "ORG_CONTEXT_REQUIRED")
    assert await refused(scene, bearer | {"X-Org-Id": "x"}) == (400, "INVALID_ORG_CONTEXT")
    assert await refused(scene, bearer, "?orgId=x") == (400, "INVALID_ORG_CONTEXT")
    # Where both name one, the header does.
    assert await refused(scene, bearer | {"X-Org-Id": str(stranger.org_id)}, f"?orgId={owner.org_id}") == (
        403,
        "ORG_ACCESS_DENIED",
    )
    for foreign in (stranger.org_id, new_id()):
        assert await refused(scene, bearer | {"X-Org-Id": str(foreign)}) == (403, "ORG_ACCESS_DENIED")


async def test_a_key_opens_sockets_in_its_own_organization_only(scene: SessionScene, owner: Caller) -> None:
    key = (await owner.post("/v1/orgs/{org}/api-keys", {"name": "ci", "role": "member"})).body["value"]
    made = await owner.post("/v1/orgs", {"name": "Another", "slug": new_id()[:8]})
    assert made.status == 201, made.body
    headers = {"Authorization": f"Bearer {key}", "X-Org-Id": made.body["organization"]["id"]}
    assert await refused(scene, headers) == (403, "ORG_ACCESS_DENIED")


async def test_a_token_a_cookie_and_a_key_open_a_socket(scene: SessionScene, owner: Caller) -> None:
    session = await scene.session(owner)
    made = await owner.post("/v1/orgs/{org}/api-keys", {"name": "ci", "role": "member"})
    key = made.body["value"]
    with_cookie = {"Authorization": "", "Cookie": f"vespid_session={owner.cookie}", "Origin": ORIGIN}
    for headers in ({}, with_cookie, {"Authorization": f"Bearer {key}"}):
        client = await scene.client(owner, **headers).open()
        await client.join(session)
    client = await scene.client(owner, X_Org_Id="").open(f"?orgId={str(owner.org_id).upper()}")
    await client.join(session)
    assert client.answer_headers["x-request-id"]


@pytest.mark.promise("P5")
async def test_no_frame_reaches_into_another_organization(scene: SessionScene, owner: Caller, stranger: Caller) -> None:
    session = await scene.session(owner)
    await scene.joined(owner, session)
    foreign = await scene.client(stranger).open()
    frames: list[tuple[str, dict[str, Any]]] = [
        ("session_join", {}),
        ("session_join", {"afterSeq": 0}),
        ("session_send", {"message": "x"}),
        ("session_cancel", {}),
        ("session_reset_agent", {"mode": "clear_history"}),
        ("session_leave", {}),
    ]
    for name in (session, new_id(), "no-uuid", session.upper()):
        for number, (kind, fields) in enumerate(frames):
            await foreign.send(kind, name, **fields)
            error = await foreign.next("session_error", number + 1)
            assert error["code"] == "SESSION_NOT_FOUND", (kind, name)
        foreign.heard.clear()
    assert await scene.event_count(session) == 1
    await scene.say(owner, session)
    await foreign.settled()
    assert foreign.story() == ["error"]


@pytest.mark.promise("P6")
@pytest.mark.parametrize("how", ["removed", "logout", "logout-all", "key"])
@pytest.mark.parametrize("redis", ["there", "away"])
async def test_who_does_not_belong_any_more_is_cut_off_on_every_gateway(
    scene: SessionScene, owner: Caller, how: str, redis: str
) -> None:
    session = await scene.session(owner)
    others = await scene.joined(owner, session) if how in ("removed", "key") else None
    member = await scene.control.join(owner)
    far = await scene.gateway()
    key = ""
    if how == "key":
        made = (await owner.post("/v1/orgs/{org}/api-keys", {"name": "ci", "role": "member"})).body
        member = scene.control.with_token(made["value"], owner.org_id)
        key = made["apiKey"]["id"]
    clients = [await scene.joined(member, session), await scene.joined(member, session, far)]
    if redis == "away":
        for gateway in (scene.edge, far):
            # Nothing of what others publish is heard.
            await gateway.service.house.fanout.stop()
    began = time.monotonic()
    if how == "removed":
        answer = await owner.delete(f"/v1/orgs/{{org}}/members/{member.user_id}")
    elif how == "key":
        answer = await owner.delete(f"/v1/orgs/{{org}}/api-keys/{key}")
    else:
        answer = await member.post(f"/v1/auth/{how}")
    assert answer.status == 200
    assert [await client.closed() for client in clients] == [4403, 4403]
    assert time.monotonic() - began < CUT_WITHIN_S + PATIENCE_S
    if others is not None:
        await scene.say(owner, session)
        await others.next("session_ack", 2)


async def test_who_is_removed_while_the_socket_opens_is_cut_off(
    scene: SessionScene, owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = await scene.control.join(owner)
    found, go_on = asyncio.Event(), asyncio.Event()
    admit = admission.Admission.admit

    async def slowly(self: admission.Admission, request: Any) -> Any:
        admitted = await admit(self, request)
        found.set()
        await go_on.wait()
        return admitted

    monkeypatch.setattr(admission.Admission, "admit", slowly)
    client = scene.client(member)
    opening = asyncio.create_task(client.open())
    await found.wait()
    clients = scene.edge.service._clients
    assert clients is not None
    news = clients.admission.news
    assert (await owner.delete(f"/v1/orgs/{{org}}/members/{member.user_id}")).status == 200
    async with asyncio.timeout(10):
        while clients.admission.news == news:
            await asyncio.sleep(0.02)
    go_on.set()
    await opening
    assert await client.closed() == 4403


async def test_who_cannot_be_judged_at_once_is_judged_again(
    scene: SessionScene, owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = await scene.control.join(owner)
    client = await scene.client(member).open()
    await client.settled()
    may_stay, asked = Callers.may_stay, []

    async def postponed(self: Callers, principal: Principal, org_id: OrgId) -> bool:
        asked.append(principal)
        if len(asked) == 1:
            raise DatabaseUnavailable("not now")
        return await may_stay(self, principal, org_id)

    monkeypatch.setattr(Callers, "may_stay", postponed)
    assert (await owner.delete(f"/v1/orgs/{{org}}/members/{member.user_id}")).status == 200
    assert await client.closed() == 4403
    assert len(asked) == 2


async def test_a_login_that_ran_out_is_found_without_any_news(
    scene: SessionScene, owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "LOOK_ANYWAY_MS", 0)
    gateway = await scene.gateway(gateway_agent_stale_ms=900)
    client = await scene.client(owner, gateway).open()
    await client.settled()
    await scene.fleet.ground.sql.execute("update auth_sessions set expires_at = now() - interval '1 s'")
    assert await client.closed() == 4403


async def test_one_person_has_so_many_sockets_and_no_more(
    scene: SessionScene, owner: Caller, stranger: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "SOCKETS_PER_USER_MAX", 2)
    first = await scene.client(owner).open()
    await scene.client(owner).open()
    headers = {"Authorization": f"Bearer {owner.token}", "X-Org-Id": str(owner.org_id)}
    assert await refused(scene, headers) == (429, "RATE_LIMITED")
    await scene.client(stranger).open()
    await first.drop()
    await scene.client(owner).open()


@pytest.mark.promise("P12")
async def test_a_socket_that_opens_while_its_gateway_stops_is_sent_elsewhere(
    scene: SessionScene, owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    going = await scene.gateway()
    clients = going.service._clients
    assert clients is not None
    admit = admission.Admission.admit

    async def meanwhile(self: admission.Admission, request: Any) -> Any:
        admitted = await admit(self, request)
        await clients.drain()
        return admitted

    monkeypatch.setattr(admission.Admission, "admit", meanwhile)
    client = await scene.client(owner, going).open()
    assert await client.closed() == 1001


@pytest.mark.promise("P12")
async def test_a_stopping_gateway_sends_its_clients_elsewhere_where_they_go_on(
    scene: SessionScene, owner: Caller
) -> None:
    going = await scene.gateway()
    session = await scene.session(owner)
    client = await scene.joined(owner, session, going)
    await scene.say(owner, session)
    await client.event(2)
    headers = {"Authorization": f"Bearer {owner.token}", "X-Org-Id": str(owner.org_id)}
    clients = going.service._clients
    assert clients is not None
    await clients.drain()
    assert await client.closed() == 1001
    scene.edge, kept = going, scene.edge
    assert await refused(scene, headers) == (503, "GATEWAY_DRAINING")
    scene.edge = kept
    await scene.fleet.stop(going)
    await scene.say(owner, session)
    again = await scene.joined(owner, session, after_seq=2)
    await again.event(3)
    assert again.seqs() == [3]
