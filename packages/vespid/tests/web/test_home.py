"""The overview: the fleet at a glance, charts with their numbers, the first steps until they are done."""

import re
from typing import Any

from tests.support.control import Caller
from tests.support.pages import Pages
from tests.support.run_steps import published, start

from vespid.web.chart import HEIGHT, WIDTH, bars, lines


def steps(html: str) -> list[bool]:
    """Which of the first steps are done."""
    return ["step-done" in found for found in re.findall(r'<li class="(step[^"]*)"', html)]


async def test_a_new_organization_is_told_the_three_steps_and_each_is_ticked(control: Pages, owner: Caller) -> None:
    visit = control.visit(owner)
    assert steps((await visit.get("/")).html) == [False, False, False]
    path = await published(owner)
    assert steps((await visit.get("/")).html) == [False, True, False]
    await start(owner, path)
    page = await visit.get("/")
    assert steps(page.html) == []
    assert "Over time" in page.text


async def test_the_map_links_to_agents_and_to_the_list_by_tag(control: Pages, owner: Caller) -> None:
    token = (await owner.post("/v1/orgs/{org}/agents/pairing-tokens")).body["token"]
    paired = await control.anonymous().post("/v1/agents/pair", {"pairingToken": token, "name": '"><b>host'})
    agent_id = paired.body["agentId"]
    await owner.put(f"/v1/orgs/{{org}}/agents/{agent_id}/tags", {"tags": ["a&b"]})
    page = await control.visit(owner).get("/", hx_target="overview")
    assert 'href="/agents?tag=a%26b"' in page.html
    assert f'class="mark mark-offline" href="/agents/{agent_id}"' in page.html
    assert "<b>host" not in page.html


async def test_a_member_sees_how_it_is_going_and_no_way_to_agents(control: Pages, owner: Caller) -> None:
    await start(owner, await published(owner))
    member = control.visit(await control.join(owner), vespid_org=str(owner.org_id))
    page = await member.get("/?window=7d")
    assert (page.status, "Runs by their end" in page.text, 'href="/agents' in page.html) == (200, True, False)
    assert 'href="/?window=7d" aria-current="page"' in page.html
    assert 'href="/?window=24h" aria-current="page"' in (await member.get("/?window=nonsense")).html


def test_columns_add_up_from_the_ground_and_fill_no_more_than_the_field() -> None:
    chart = bars([{"ok": 3, "bad": 1}, {"ok": 0, "bad": 0}], {"ok": "succeeded", "bad": "failed"})
    low, high = chart.bars
    assert (chart.top, low.kind, high.kind) == (5, "succeeded", "failed")
    assert (low.y + low.height, high.y + high.height) == (HEIGHT, low.y)
    assert high.y >= 0
    assert low.x + low.width < WIDTH / 2


def test_a_line_is_broken_where_nothing_is_known_and_a_lone_value_is_a_point() -> None:
    values: list[dict[str, Any]] = [{"p": 10}, {"p": 20}, {"p": None}, {"p": 5}, {"p": None}]
    chart = lines(values, {"p": "middle"})
    (line,) = chart.lines
    assert (chart.top, line.path) == (20, f"M60.0 {HEIGHT / 2} L180.0 0.0 M420.0 {HEIGHT * 0.75}")
    assert line.points == ((420.0, HEIGHT * 0.75),)


def test_charts_of_nothing_are_empty() -> None:
    assert (bars([], {"ok": "succeeded"}).bars, lines([{"p": None}], {"p": "high"}).lines[0].path) == ((), "")
