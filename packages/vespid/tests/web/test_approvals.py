"""The pages of approvals: what would run is shown whole, and decided by the hash of what was shown."""

import re
from collections.abc import AsyncIterator
from html import unescape
from typing import Any

import pytest_asyncio
from tests.support.control import Caller
from tests.support.pages import Pages
from tests.support.run_steps import published, start

from vespid.dispatch.house import House
from vespid.settings import RunSettings
from vespid.web.exact import exact_json, exact_texts
from vespid_protocol.ids import OrgId, RunId

SCRIPT = "set -e\ndeploy <b>{{ input.what }}</b> # \u202egpj.sh"


class Asking:
    """Runs that ask, brought there by the worker's own steps."""

    def __init__(self, owner: Caller, house: House) -> None:
        self._owner = owner
        self._house = house

    async def ask(self, by: str = "admin") -> dict[str, Any]:
        """What is asked, in full."""
        task = {"type": "shell", "script": SCRIPT}
        node = {"id": "n1", "type": "agent.execute", "approval": {"by": by}, "config": {"task": task}}
        path = await published(self._owner, {"version": "v2", "trigger": {"type": "trigger.manual"}, "nodes": [node]})
        run = await start(self._owner, path, input={"what": "all"})
        await self._house.stepper.step(OrgId(run["organizationId"]), RunId(run["id"]))
        (asked,) = (await self._owner.get(f"/v1/orgs/{{org}}/approvals?runId={run['id']}")).body["approvals"]
        return await self.read(asked["id"])

    async def read(self, approval_id: str) -> dict[str, Any]:
        return dict((await self._owner.get(f"/v1/orgs/{{org}}/approvals/{approval_id}")).body["approval"])


@pytest_asyncio.fixture
async def asking(database_url: str, redis_url: str, owner: Caller) -> AsyncIterator[Asking]:
    house = House(
        RunSettings(env="test", database_url=database_url, redis_url=redis_url, database_pool_size=4), "worker"
    )
    await house.start()
    yield Asking(owner, house)
    await house.stop()


async def test_all_that_would_run_is_shown_with_its_hash_and_nothing_in_it_hides(
    control: Pages, owner: Caller, asking: Asking
) -> None:
    asked = await asking.ask()
    page = await control.visit(owner).get(f"/approvals/{asked['id']}")
    assert asked["hash"] in page.html
    (whole,) = re.findall(r'id="what">(.*?)</pre>', page.html, re.DOTALL)
    assert unescape(whole) == exact_json(asked["what"])
    assert "deploy &lt;b&gt;all&lt;/b&gt; # \\u202egpj.sh" in page.html
    assert "\u202e" not in page.html


async def test_a_decision_is_made_with_its_comment_and_shown_with_who_made_it(
    control: Pages, owner: Caller, asking: Asking
) -> None:
    approved, denied = await asking.ask(), await asking.ask()
    visit = control.visit(owner)
    for asked, verdict in ((approved, "approve"), (denied, "deny")):
        form = {"hash": asked["hash"], "comment": f"<i>{verdict}</i>"}
        page = await visit.send(f"/approvals/{asked['id']}/{verdict}", form, hx_target="approval")
        assert f"&lt;i&gt;{verdict}&lt;/i&gt;" in page.html
        assert (owner.email in page.html, 'name="hash"' in page.html) == (True, False)
    assert [(await asking.read(one["id"]))["status"] for one in (approved, denied)] == ["approved", "denied"]
    decided = await visit.get("/approvals?status=decided", hx_target="approvals")
    assert (decided.html.count(owner.email), "badge-approved" in decided.html) == (2, True)


async def test_another_hash_is_refused_and_the_page_says_that_it_has_changed(
    control: Pages, owner: Caller, asking: Asking
) -> None:
    asked = await asking.ask()
    form = {"hash": "0" * 64, "comment": "sure"}
    refused = await control.visit(owner).send(f"/approvals/{asked['id']}/approve", form, hx_target="approval")
    assert (refused.status, "has changed since you looked" in refused.text) == (409, True)
    assert (f'value="{asked["hash"]}"' in refused.html, ">sure</textarea>" in refused.html) == (True, True)
    assert (await asking.read(asked["id"]))["status"] == "pending"


async def test_what_is_looked_at_says_when_it_has_changed(control: Pages, owner: Caller, asking: Asking) -> None:
    asked = await asking.ask()
    visit = control.visit(owner)
    path = f"/approvals/{asked['id']}?seen="
    assert "has changed since" not in (await visit.get(path + asked["hash"], hx_target="approval")).text
    assert "has changed since" in (await visit.get(path + "0" * 64, hx_target="approval")).text


async def test_who_may_not_decide_sees_it_all_and_no_way_to_decide(
    control: Pages, owner: Caller, asking: Asking
) -> None:
    asked = await asking.ask(by="owner")
    admin = await control.join(owner, "admin")
    visit = control.visit(admin, vespid_org=str(owner.org_id))
    page = await visit.get(f"/approvals/{asked['id']}")
    assert (asked["hash"] in page.html, 'name="hash"' in page.html, "owners" in page.text) == (True, False, True)
    refused = await visit.send(f"/approvals/{asked['id']}/approve", {"hash": asked["hash"]}, hx_target="approval")
    assert (refused.status, "FORBIDDEN" in refused.text) == (403, True)


async def test_waiting_ones_are_listed_first_and_by_run(control: Pages, owner: Caller, asking: Asking) -> None:
    visit = control.visit(owner)
    assert "Nothing waits for a decision" in (await visit.get("/approvals")).text
    first, second = await asking.ask(), await asking.ask()
    page = await visit.get("/approvals")
    assert page.html.index(second["id"]) < page.html.index(first["id"])
    of_run = await visit.get(f"/approvals?runId={first['runId']}", hx_target="approvals")
    assert (f"/approvals/{first['id']}" in of_run.html, f"/approvals/{second['id']}" in of_run.html) == (True, False)


def test_texts_of_several_lines_are_shown_by_where_they_are_and_invisible_characters_spelt_out() -> None:
    what = {"a": [{"script": "one\ntwo\u200b"}, "flat\u00a0text"], "é": "ü"}
    assert exact_texts(what) == [("a[0].script", "one\ntwo\\u200b")]
    assert "flat\\u00a0text" in exact_json(what)
    assert '"é": "ü"' in exact_json(what)
