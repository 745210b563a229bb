"""The pages of agents: paired, found, tagged, cordoned, given new tokens, revoked."""

import re
from html import unescape
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import msgspec
import pytest
from tests.support.control import Caller
from tests.support.pages import Page, Pages

from vespid.control.app import ControlPlane
from vespid.web import pages
from vespid.web.fleet import by_tag, is_older, ways_to_pair
from vespid_protocol.ids import new_id


async def agent_of(control: Pages, owner: Caller, name: str = "host-1", **body: Any) -> str:
    """An agent that was paired, and its id."""
    token = (await owner.post("/v1/orgs/{org}/agents/pairing-tokens")).body["token"]
    paired = await control.anonymous().post("/v1/agents/pair", {"pairingToken": token, "name": name} | body)
    assert paired.status == 201, paired.body
    return str(paired.body["agentId"])


async def connect(superuser: "asyncpg.Connection", agent_id: str) -> None:
    """A live connection of it, at an edge that has just renewed its lease."""
    edge = UUID(new_id())
    await superuser.execute(
        "insert into processes (id, kind, lease_until) values ($1, 'gateway', now() + interval '15 s')", edge
    )
    await superuser.execute(
        "update executors set edge_id = $2, lost_at = null, connected_at = now(), last_seen_at = now() where id = $1",
        UUID(agent_id),
        edge,
    )


def commands_of(page: Page) -> list[str]:
    """What can be copied."""
    return [unescape(text) for text in re.findall(r"<code>(.*?)</code></pre>", page.html, re.DOTALL)]


async def test_a_pairing_shows_the_runbooks_commands_with_its_token(control: Pages, owner: Caller) -> None:
    page = await control.visit(owner).send("/agents/pair", hx_target="pairing")
    mac, linux, windows, checkout = commands_of(page)
    assert mac.splitlines()[:3] == [
        'curl -fsSL "https://github.com/vespid-ai/vespid/releases/latest/download/vespid-agent-darwin-arm64.tar.gz" '
        '-o "vespid-agent-darwin-arm64.tar.gz"',
        'tar -xzf "vespid-agent-darwin-arm64.tar.gz"',
        "chmod +x ./vespid-agent",
    ]
    assert windows.splitlines()[1] == ('Expand-Archive -Path "vespid-agent-windows-x64.zip" -DestinationPath . -Force')
    assert windows.splitlines()[2].startswith(r".\\vespid-agent.exe connect --pairing-token")
    tokens = {token for command in (mac, linux, windows, checkout) for token in re.findall('-token "([^"]+)"', command)}
    assert len(tokens) == 1
    paired = await control.anonymous().post("/v1/agents/pair", {"pairingToken": tokens.pop(), "name": "by-the-page"})
    assert paired.status == 201


async def test_a_pairing_waits_until_its_own_agent_is_connected(
    control: Pages, owner: Caller, superuser: "asyncpg.Connection"
) -> None:
    visit = control.visit(owner)
    page = await visit.send("/agents/pair", hx_target="pairing")
    (path,) = re.findall(r'hx-get="(/agents/pairing/[^"]+)"', page.html)
    await connect(superuser, await agent_of(control, owner, "somebody-elses"))
    waiting = await visit.get(path, hx_target="pairing-state")
    assert ("data-connected" in waiting.html, "somebody-elses" in waiting.html) == (False, False)
    token = re.findall('-token "([^"]+)"', commands_of(page)[0])[0]
    body = {"pairingToken": token, "name": "<b>mine</b>"}
    agent_id = (await control.anonymous().post("/v1/agents/pair", body)).body["agentId"]
    paired = await visit.get(path, hx_target="pairing-state")
    assert ("is paired and connects" in paired.text, "data-connected" in paired.html) == (True, False)
    await connect(superuser, agent_id)
    connected = await visit.get(path, hx_target="pairing-state")
    assert "Connected: &lt;b&gt;mine&lt;/b&gt;" in connected.html
    assert "hx-trigger" not in connected.html


async def test_without_downloads_the_connect_command_is_shown_and_why(control: Pages, owner: Caller) -> None:
    settings = msgspec.structs.replace(control.plane.deps.settings, agent_installer_enabled=False)
    plane = ControlPlane(settings, pages=pages())
    await plane.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{plane.port}", cookie_jar=aiohttp.DummyCookieJar()) as http:
            page = await Pages(plane, http).visit(owner).send("/agents/pair", hx_target="pairing")
    finally:
        await plane.stop()
    connect_only, checkout = commands_of(page)
    assert connect_only.startswith("vespid-agent connect --pairing-token")
    assert checkout.startswith("make install")
    assert "AGENT_INSTALLER_ENABLED" in page.text


async def test_agents_are_filtered_and_the_filter_is_kept_when_the_list_is_read_anew(
    control: Pages, owner: Caller
) -> None:
    first = await agent_of(control, owner, "first")
    await agent_of(control, owner, "second")
    visit = control.visit(owner)
    await visit.send(f"/agents/{first}/tags", {"add": "east & west"}, hx_target=f"tags-{first}")
    page = await visit.get("/agents?tag=east+%26+west", hx_target="agents")
    assert (f"/agents/{first}" in page.html, ">second<" in page.html, "<!doctype" in page.html) == (True, False, False)
    assert 'hx-get="/agents?tag=east+%26+west"' in page.html
    assert "No agent is like that" in (await visit.get("/agents?q=third&status=online")).text


async def test_tags_are_added_and_removed_and_told_apart_from_reported_ones(control: Pages, owner: Caller) -> None:
    agent_id = await agent_of(control, owner, capabilities={"tags": ["<hint>"]})
    visit = control.visit(owner)
    path, target = f"/agents/{agent_id}/tags", f"tags-{agent_id}"
    added = await visit.send(path, {"add": "gpu, east ,gpu"}, hx_target=target)
    assert re.findall(r'tag-routes">([^<]+)<', added.html) == ["gpu", "east"]
    assert re.findall(r'tag-reported">([^<]+)<', added.html) == ["&lt;hint&gt;"]
    removed = await visit.send(path, {"remove": "gpu"}, hx_target=target)
    assert re.findall(r'tag-routes">([^<]+)<', removed.html) == ["east"]
    refused = await visit.send(path, {"add": "x" * 65}, hx_target=target)
    assert (refused.status, 'aria-invalid="true"' in refused.html, "x" * 65 in refused.html) == (400, True, True)
    (agent,) = (await owner.get("/v1/orgs/{org}/agents")).body["agents"]
    assert (agent["tags"], agent["reportedTags"]) == (["east"], ["<hint>"])


async def test_an_agents_page_cordons_and_gives_a_token_that_is_shown_once(control: Pages, owner: Caller) -> None:
    agent_id = await agent_of(control, owner)
    visit = control.visit(owner)
    cordoned = await visit.send(f"/agents/{agent_id}/cordon", hx_target="agent")
    assert f"/agents/{agent_id}/uncordon" in cordoned.html
    rotated = await visit.send(f"/agents/{agent_id}/rotate", hx_target="agent")
    (line,) = commands_of(rotated)
    assert line.startswith(f'"executorToken": "{owner.org_id}.vat_')
    # The hint that the change gives may not sweep away what is shown once.
    assert "data-live" not in rotated.html
    page = await visit.get(f"/agents/{agent_id}")
    assert (line in unescape(page.html), "data-live" in page.html) == (False, True)


async def test_an_agent_is_revoked_only_when_its_name_was_typed(control: Pages, owner: Caller) -> None:
    agent_id = await agent_of(control, owner, "host <1>")
    visit = control.visit(owner)
    refused = await visit.send(f"/agents/{agent_id}/revoke", {"name": "host"}, hx_target="agent")
    assert (refused.status, "That is not its name" in refused.text) == (400, True)
    await visit.send(f"/agents/{agent_id}/revoke", {"name": "host <1>"}, hx_target="agent")
    assert (await owner.get(f"/v1/orgs/{{org}}/agents/{agent_id}")).body["agent"]["status"] == "revoked"
    page = await visit.get(f"/agents/{agent_id}")
    assert [action for action in ("cordon", "rotate", "revoke") if f"/agents/{agent_id}/{action}" in page.html] == []


async def test_a_member_is_refused_on_every_page_of_agents(control: Pages, owner: Caller) -> None:
    agent_id = await agent_of(control, owner)
    visit = control.visit(await control.join(owner), vespid_org=str(owner.org_id))
    answers = [await visit.get("/agents"), await visit.get(f"/agents/{agent_id}")]
    answers += [await visit.send(f"/agents/{agent_id}/{action}") for action in ("tags", "cordon", "rotate", "revoke")]
    answers.append(await visit.send("/agents/pair"))
    assert {(page.status, "FORBIDDEN" in page.text) for page in answers} == {(403, True)}


@pytest.mark.parametrize(
    ("version", "server", "older"),
    [
        ("0.1.0", "0.2.0", True),
        ("0.10.0", "0.9.1", False),
        ("0.2.0", "0.2.0", False),
        (None, "1.0", False),
        ("dev", "1", False),
    ],
)
def test_an_older_version_is_one_whose_numbers_come_before(version: str | None, server: str, older: bool) -> None:
    assert is_older(version, server) is older


def test_commands_that_the_api_gives_are_taken_word_for_word() -> None:
    artifact = {"platformId": "linux-x64", "commands": ["fetch", './a connect --pairing-token "<token>"']}
    way = ways_to_pair({"artifacts": [artifact]}, "org.vpt_1", "http://x")[0]
    assert way.text == 'fetch\n./a connect --pairing-token "org.vpt_1"'


def test_the_map_has_an_agent_under_each_of_its_tags_and_none_that_is_revoked() -> None:
    def agent(name: str, status: str, tags: list[str], **more: Any) -> dict[str, Any]:
        return {"name": name, "status": status, "tags": tags, "cordoned": False, "inFlight": 1, "maxInFlight": 4} | more

    groups = by_tag(
        [
            agent("a", "online", ["x", "y"]),
            agent("b", "online", ["x"], cordoned=True),
            agent("c", "offline", []),
            agent("d", "revoked", ["x"]),
        ]
    )
    found = [(group.tag, [one["name"] for one in group.agents], group.online, group.capacity) for group in groups]
    assert found == [("x", ["a", "b"], 1, 4), ("y", ["a"], 1, 4), ("", ["c"], 0, 0)]
