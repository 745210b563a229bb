"""Workflows by the pages: listed, begun, edited, published, compared, started."""

import re
from html import unescape
from typing import Any

import msgspec
from tests.support.control import Caller
from tests.support.pages import Page, Pages, Visit
from tests.support.run_steps import DSL, W, published

from vespid.web.examples import STARTS

HOSTILE = "<img src=x onerror=alert(1)>"
GRAPH = {
    "version": "v3",
    "trigger": {"type": "trigger.manual"},
    "graph": {
        "nodes": {
            "ask": {"type": "condition", "config": {"path": "$.input.go", "op": "eq", "value": True}},
            "yes": {"type": "agent.execute", "config": {}},
            "no": {"type": "agent.execute", "config": {}},
        },
        "edges": [
            {"id": "e1", "from": "ask", "to": "yes", "kind": "cond_true"},
            {"id": "e2", "from": "ask", "to": "no", "kind": "cond_false"},
        ],
    },
}


def json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


async def draft(owner: Caller, name: str = "nightly", dsl: dict[str, Any] = DSL) -> dict[str, Any]:
    made = await owner.post(W, {"name": name, "dsl": dsl})
    assert made.status == 201, made.body
    workflow: dict[str, Any] = made.body["workflow"]
    return workflow


def errors_of(page: Page) -> dict[str, list[str]]:
    """What the editor's script is told."""
    found = re.search(r'data-errors="([^"]*)"', page.html)
    assert found is not None
    errors: dict[str, list[str]] = msgspec.json.decode(unescape(found[1]))
    return errors


async def start_of(visit: Visit, start: str) -> str:
    """The path of a new workflow."""
    made = await visit.send("/workflows", {"name": f"from {start}", "start": start})
    assert made.status == 303, made.text
    return str(made.headers["location"])


async def test_the_empty_list_says_what_to_do_to_those_who_may(control: Pages, owner: Caller) -> None:
    assert 'href="/workflows/new"' in (await control.visit(owner).get("/workflows")).html
    member = await control.join(owner)
    page = await control.visit(member, vespid_org=str(owner.org_id)).get("/workflows")
    assert "/workflows/new" not in page.html
    assert "Admins and owners of the organization make them" in page.text


async def test_what_a_workflow_can_begin_with_can_be_published(control: Pages, owner: Caller) -> None:
    visit = control.visit(owner)
    for start in STARTS:
        path = await start_of(visit, start)
        page = await visit.get(path)
        assert 'id="editor"' in page.html
        assert (await visit.send(f"{path}/publish")).headers["location"] == path


async def test_a_member_begins_and_changes_nothing(control: Pages, owner: Caller) -> None:
    workflow = await draft(owner)
    visit = control.visit(await control.join(owner), vespid_org=str(owner.org_id))
    page = await visit.get(f"/workflows/{workflow['id']}")
    assert 'id="editor"' not in page.html
    assert "This is a draft" in page.text
    for path in ("/workflows", f"/workflows/{workflow['id']}", f"/workflows/{workflow['id']}/publish"):
        assert (await visit.send(path, {"name": "mine", "dsl": json(DSL)})).status == 403


async def test_the_list_filters_and_pages_and_escapes(control: Pages, owner: Caller) -> None:
    for at in range(51):
        await draft(owner, f"job {at}")
    await draft(owner, HOSTILE)
    visit = control.visit(owner)
    page = await visit.get("/workflows")
    assert HOSTILE not in page.html
    assert HOSTILE in page.text
    onward = re.search(r'rel="next" href="([^"]*)"', page.html)
    assert onward is not None
    assert "job 0" in (await visit.get(unescape(onward[1]))).text
    found = await visit.get("/workflows?name=JOB+7")
    assert ("job 7" in found.text, "job 8" in found.text) == (True, False)
    assert "None matches" in (await visit.get("/workflows?status=published")).text


async def test_a_definition_is_checked_as_it_is_written_and_its_graph_drawn(control: Pages, owner: Caller) -> None:
    visit = control.visit(owner)
    good = await visit.send("/workflows/check", {"dsl": json(GRAPH)}, hx_target="check")
    assert (good.status, errors_of(good)) == (200, {})
    assert good.html.count("data-graph-node=") == 3
    assert "if true yes" in good.text
    bad = await visit.send(
        "/workflows/check", {"dsl": json(DSL | {"nodes": [{"id": "a b", "type": "x"}]})}, hx_target="check"
    )
    assert list(errors_of(bad)) == ["dsl.nodes.0.id"]
    assert 'id="graph"' not in bad.html
    broken = await visit.send("/workflows/check", {"dsl": "{"}, hx_target="check")
    assert list(errors_of(broken)) == ["dsl"]


async def test_hostile_ids_and_messages_are_shown_as_text(control: Pages, owner: Caller) -> None:
    dsl = DSL | {"nodes": [{"id": HOSTILE, "type": HOSTILE, "config": {}}]}
    page = await control.visit(owner).send("/workflows/check", {"dsl": json(dsl)}, hx_target="check")
    assert HOSTILE not in page.html
    kept = await draft(owner, dsl=DSL | {"note": HOSTILE})
    assert HOSTILE not in (await control.visit(owner).get(f"/workflows/{kept['id']}")).html


async def test_a_draft_is_saved_and_what_is_not_valid_is_told_and_not_kept(control: Pages, owner: Caller) -> None:
    workflow = await draft(owner)
    path = f"/workflows/{workflow['id']}"
    visit = control.visit(owner)
    changed = DSL | {"mine": {"kept": [1]}}
    saved = await visit.send(path, {"name": "renamed", "dsl": json(changed)}, hx_target="check")
    assert (saved.status, "Saved." in saved.headers["hx-trigger"]) == (200, True)
    refused = await visit.send(path, {"name": "again", "dsl": json(DSL | {"nodes": []})}, hx_target="check")
    assert (refused.status, list(errors_of(refused))) == (400, ["dsl.nodes"])
    now = (await owner.get(f"{W}/{workflow['id']}")).body["workflow"]
    assert (now["name"], now["dsl"]) == ("renamed", changed)


async def test_two_who_edit_one_draft_do_not_overwrite_each_other(control: Pages, owner: Caller) -> None:
    path = f"/workflows/{(await draft(owner))['id']}"
    visit = control.visit(owner)

    def version_of(page: Page) -> str:
        return re.findall(r'name="version" value="(\d+)"', page.html)[0]

    loaded = version_of(await visit.get(path))
    mine = await visit.send(path, {"name": "mine", "dsl": json(DSL), "version": loaded}, hx_target="check")
    theirs = await visit.send(path, {"name": "theirs", "dsl": json(DSL), "version": loaded}, hx_target="check")
    assert (theirs.status, "Copy what you have written here" in theirs.text) == (409, True)
    assert (await visit.send(f"{path}/publish", {"name": "theirs", "dsl": json(DSL), "version": loaded})).status == 409
    # Who saved goes on saving.
    again = {"name": "mine, too", "dsl": json(DSL), "version": version_of(mine)}
    assert (await visit.send(path, again, hx_target="check")).status == 200


async def test_publishing_keeps_what_is_written_and_shows_a_webhook_once(control: Pages, owner: Caller) -> None:
    workflow = await draft(owner)
    path = f"/workflows/{workflow['id']}"
    visit = control.visit(owner)
    hooked = DSL | {"trigger": {"type": "trigger.webhook"}}
    shown = await visit.send(f"{path}/publish", {"name": "hooked", "dsl": json(hooked)})
    url = re.search(r"http://\S+/v1/hooks/[\w-]+", shown.text)
    assert url is not None
    assert (await owner.post("/v1/hooks/" + url[0].rsplit("/", 1)[1], {})).status == 202
    assert "/v1/hooks/" not in (await visit.get(path)).html
    rotated = await visit.send(f"{path}/webhook")
    assert "/v1/hooks/" in rotated.text
    assert url[0] not in rotated.text
    assert (await owner.post("/v1/hooks/" + url[0].rsplit("/", 1)[1], {})).status == 404


async def test_two_revisions_are_compared(control: Pages, owner: Caller) -> None:
    path = await published(owner, DSL)
    first = path.rsplit("/", 1)[1]
    visit = control.visit(owner)
    drafted = await visit.send(f"/workflows/{first}/drafts")
    second = drafted.headers["location"].rsplit("/", 1)[1]
    assert "The definitions are the same." in (await visit.get(f"/workflows/{first}/revisions")).text
    other = DSL | {"nodes": [{"id": "n1", "type": "agent.execute", "config": {}}]}
    await visit.send(f"/workflows/{second}", {"name": "w", "dsl": json(other)})
    page = await visit.get(f"/workflows/{first}/revisions?old={first}&new={second}")
    assert "From revision 1 to 2" in page.text
    assert re.search(r"<del>[^<]*echo hi[^<]*</del>", page.html) is not None
    assert "<ins>" in (await visit.get(f"/workflows/{first}/revisions?old={second}&new={first}")).html


async def test_a_member_starts_a_run_with_input_and_is_told_of_bad_json(control: Pages, owner: Caller) -> None:
    path = await published(owner)
    page_path = f"/workflows/{path.rsplit('/', 1)[1]}"
    visit = control.visit(await control.join(owner), vespid_org=str(owner.org_id))
    bad = await visit.send(f"{page_path}/runs", {"input": "{a"})
    assert (bad.status, 'aria-invalid="true"' in bad.html, "{a" in bad.html) == (400, True, True)
    started = await visit.send(f"{page_path}/runs", {"input": '{"go": true}'})
    assert started.headers["location"].startswith("/runs/")
    run = (await owner.get(f"{path}/runs")).body["runs"][0]
    assert (run["input"], started.headers["location"]) == ({"go": True}, f"/runs/{run['id']}")


async def test_another_organizations_workflow_is_not_there(control: Pages, owner: Caller, stranger: Caller) -> None:
    workflow = await draft(owner)
    for path in (f"/workflows/{workflow['id']}", f"/workflows/{workflow['id']}/revisions"):
        assert (await control.visit(stranger).get(path)).status == 404


async def test_a_comparison_reads_no_other_organizations_revision(
    control: Pages, owner: Caller, stranger: Caller
) -> None:
    mine, theirs = await draft(stranger), await draft(owner)
    path = f"/workflows/{mine['id']}/revisions?old={theirs['id']}&new={mine['id']}"
    assert (await control.visit(stranger).get(path)).status == 404
