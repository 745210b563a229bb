"""The pages of sessions; what a browser does with them is tried in tests/e2e."""

import re

from tests.support.control import Caller
from tests.support.pages import Pages


async def test_each_new_session_is_one_of_its_own(control: Pages, owner: Caller) -> None:
    visit = control.visit(owner)
    paths = {(await visit.send("/sessions/new", {"title": "Talk"})).headers["location"] for _ in range(2)}
    assert len(paths) == 2
    assert all(re.fullmatch(r"/sessions/[0-9a-f-]{36}", path) for path in paths)


async def test_the_same_channel_leads_to_the_session_that_exists(control: Pages, owner: Caller) -> None:
    visit = control.visit(owner)
    form = {"scope": "per-channel-peer", "channel": "desk", "tools": "memory.search, memory.write"}
    first, second = [(await visit.send("/sessions/new", form)).headers["location"] for _ in range(2)]
    assert first == second
    (session,) = (await owner.get("/v1/orgs/{org}/sessions?q=desk")).body["sessions"]
    assert session["toolsAllow"] == ["memory.search", "memory.write"]


async def test_what_a_session_cannot_be_made_with_is_told(control: Pages, owner: Caller) -> None:
    refused = await control.visit(owner).send("/sessions/new", {"tools": "no.such.tool", "title": "<i>x</i>"})
    assert refused.status == 400
    assert "tools.allow" in refused.text
    assert "&lt;i&gt;x" in refused.html


async def test_the_conversation_names_its_socket_and_may_connect_to_it(control: Pages, owner: Caller) -> None:
    visit = control.visit(owner)
    made = await visit.send("/sessions/new", {"title": "<script>alert(1)</script>"})
    page = await visit.get(made.headers["location"])
    (socket,) = re.findall(r'data-socket="(ws://[^"]+)"', page.html)
    assert socket.endswith("/ws/client")
    assert socket.removesuffix("/ws/client") in page.headers["content-security-policy"]
    assert "<script>alert" not in page.html


async def test_a_session_of_another_organization_is_not_found(control: Pages, owner: Caller, stranger: Caller) -> None:
    made = await control.visit(owner).send("/sessions/new", {"title": "ours"})
    page = await control.visit(stranger).get(made.headers["location"])
    assert (page.status, "SESSION_NOT_FOUND" in page.text) == (404, True)


async def test_sessions_are_found_by_their_title(control: Pages, owner: Caller) -> None:
    visit = control.visit(owner)
    for title in ("Week", "Month"):
        await visit.send("/sessions/new", {"title": title})
    found = await visit.get("/sessions?q=wee", hx_target="sessions")
    assert ("Week" in found.html, "Month" in found.html) == (True, False)
