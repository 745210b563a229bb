"""Workflows over HTTP: drafts change, revisions are published and never do again."""

from typing import Any

import asyncpg
import pytest
from tests.support.control import Answer, Caller, Control

W = "/v1/orgs/{org}/workflows"
SHELL = {"id": "n1", "type": "agent.execute", "config": {"task": {"type": "shell", "script": "echo hi"}}}
MANUAL = {"version": "v2", "trigger": {"type": "trigger.manual"}, "nodes": [SHELL]}


def triggered(kind: str, **config: str) -> dict[str, Any]:
    return MANUAL | {"trigger": {"type": kind} | ({"config": config} if config else {})}


def graph(nodes: dict[str, Any], *edges: tuple[str, str, str]) -> dict[str, Any]:
    listed = [{"id": f"e{at}", "from": a, "to": b, "kind": kind} for at, (a, b, kind) in enumerate(edges)]
    return {"version": "v3", "trigger": {"type": "trigger.manual"}, "graph": {"nodes": nodes, "edges": listed}}


def node(node_id: str) -> dict[str, Any]:
    return SHELL | {"id": node_id}


async def create(caller: Caller, dsl: dict[str, Any] = MANUAL, name: str = "nightly") -> dict[str, Any]:
    answer = await caller.post(W, {"name": name, "dsl": dsl})
    assert answer.status == 201, answer.body
    workflow: dict[str, Any] = answer.body["workflow"]
    return workflow


async def publish(caller: Caller, workflow: dict[str, Any]) -> Answer:
    answer = await caller.post(f"{W}/{workflow['id']}/publish")
    assert answer.status == 200, answer.body
    return answer


async def test_a_workflow_begins_as_a_draft(owner: Caller) -> None:
    workflow = await create(owner)
    assert set(workflow) == {
        "id",
        "organizationId",
        "familyId",
        "revision",
        "sourceWorkflowId",
        "name",
        "status",
        "version",
        "dsl",
        "editorState",
        "createdByUserId",
        "publishedAt",
        "createdAt",
        "updatedAt",
    }
    assert (workflow["status"], workflow["revision"], workflow["familyId"]) == ("draft", 1, workflow["id"])
    assert (workflow["dsl"], workflow["editorState"], workflow["publishedAt"]) == (MANUAL, None, None)
    assert (await owner.get(f"{W}/{workflow['id']}")).body == {"workflow": workflow}


async def test_a_draft_changes_part_by_part(owner: Caller) -> None:
    workflow = await create(owner)
    path = f"{W}/{workflow['id']}"
    positions = {"n1": {"x": 1, "y": 2}}
    changed = (await owner.put(path, {"editorState": positions})).body["workflow"]
    assert (changed["editorState"], changed["name"], changed["dsl"]) == (positions, "nightly", MANUAL)
    assert changed["version"] == workflow["version"] + 1
    renamed = (await owner.put(path, {"name": "daily"})).body["workflow"]
    assert (renamed["name"], renamed["editorState"]) == ("daily", positions)
    emptied = (await owner.put(path, {"editorState": None})).body["workflow"]
    assert emptied["editorState"] is None


async def test_an_unknown_key_of_a_change_is_refused(owner: Caller) -> None:
    workflow = await create(owner)
    answer = await owner.put(f"{W}/{workflow['id']}", {"nmae": "typo"})
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    assert "nmae" in answer.body["details"]["fieldErrors"]


async def test_what_is_published_does_not_change(owner: Caller) -> None:
    workflow = await create(owner)
    published = (await publish(owner, workflow)).body["workflow"]
    assert published["status"] == "published"
    assert published["publishedAt"] is not None
    for answer in (
        await owner.put(f"{W}/{workflow['id']}", {"name": "x"}),
        await owner.post(f"{W}/{workflow['id']}/publish"),
    ):
        assert (answer.status, answer.code) == (409, "CONFLICT")


async def test_the_database_itself_keeps_a_published_revision(owner: Caller, superuser: "asyncpg.Connection") -> None:
    workflow = await create(owner)
    await publish(owner, workflow)
    for change in ("name = 'x'", "dsl = '{}'", "status = 'draft', published_at = null"):
        with pytest.raises(asyncpg.PostgresError, match="does not change"):
            await superuser.execute(f"update workflows set {change} where id = $1", workflow["id"])


async def test_a_draft_that_somebody_has_changed_since_is_not_overwritten(owner: Caller) -> None:
    workflow = await create(owner)
    path = f"{W}/{workflow['id']}"
    read = workflow["version"]
    mine = (await owner.put(path, {"name": "mine", "version": read})).body["workflow"]
    theirs = await owner.put(path, {"name": "theirs", "version": read})
    assert (theirs.status, theirs.body["code"], theirs.body["details"]) == (
        409,
        "CONFLICT",
        {"version": mine["version"]},
    )
    # Who did not get the answer asks once more.
    assert (await owner.put(path, {"name": "mine", "version": read})).body["workflow"] == mine
    assert (await owner.get(path)).body["workflow"] == mine
    assert (await owner.put(path, {"name": "theirs", "version": mine["version"]})).status == 200


async def test_a_new_draft_goes_on_from_a_published_revision(owner: Caller) -> None:
    workflow = await create(owner)
    await owner.put(f"{W}/{workflow['id']}", {"editorState": {"zoom": 2}})
    await publish(owner, workflow)
    answer = await owner.post(f"{W}/{workflow['id']}/drafts")
    assert answer.status == 201
    draft = answer.body["workflow"]
    assert (draft["status"], draft["revision"], draft["version"]) == ("draft", 2, 1)
    assert (draft["familyId"], draft["sourceWorkflowId"]) == (workflow["id"], workflow["id"])
    assert (draft["dsl"], draft["editorState"]) == (MANUAL, {"zoom": 2})
    third = (await owner.post(f"{W}/{draft['id']}/drafts")).body["workflow"]
    revisions = (await owner.get(f"{W}/{workflow['id']}/revisions")).body
    assert [w["revision"] for w in revisions["workflows"]] == [3, 2, 1]
    assert revisions["nextCursor"] is None
    page = (await owner.get(f"{W}/{third['id']}/revisions?limit=2")).body
    rest = (await owner.get(f"{W}/{third['id']}/revisions?limit=2&cursor={page['nextCursor']}")).body
    assert [w["revision"] for w in page["workflows"] + rest["workflows"]] == [3, 2, 1]


@pytest.mark.parametrize(
    ("dsl", "code"),
    [
        (graph({"a": node("a")}, ("a", "b", "always")), "GRAPH_NODE_MISSING"),
        (
            graph({"a": node("a"), "b": node("b")}, ("a", "b", "always"), ("a", "b", "always")),
            "GRAPH_EDGE_INVALID",
        ),
        (
            graph({"a": node("a"), "b": node("b")}, ("a", "b", "always"), ("b", "a", "always")),
            "GRAPH_CYCLE_DETECTED",
        ),
        (graph({"a": node("a"), "b": node("b")}, ("a", "b", "cond_true")), "CONDITION_EDGE_CONSTRAINTS"),
    ],
)
async def test_a_graph_error_is_named_in_the_issues(owner: Caller, dsl: dict[str, Any], code: str) -> None:
    answer = await owner.post(W, {"name": "g", "dsl": dsl})
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    assert code in {issue["code"] for issue in answer.body["details"]["issues"]}, answer.body
    workflow = await create(owner)
    assert (await owner.put(f"{W}/{workflow['id']}", {"dsl": dsl})).status == 400


@pytest.mark.parametrize(
    "dsl",
    [
        {},
        {"version": "v9"},
        MANUAL | {"nodes": []},
        MANUAL | {"nodes": [SHELL, SHELL]},
        MANUAL | {"trigger": {"type": "trigger.cron", "config": {"cron": "every day"}}},
        MANUAL
        | {"nodes": [{"id": "c", "type": "connector.action", "config": {"connectorId": "nope", "actionId": "x"}}]},
        MANUAL | {"nodes": [SHELL | {"config": {"execution": {"mode": "cloud"}}}]},
    ],
)
async def test_a_workflow_that_could_not_run_is_not_taken(owner: Caller, dsl: dict[str, Any]) -> None:
    answer = await owner.post(W, {"name": "w", "dsl": dsl})
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    assert answer.body["details"]


async def test_a_member_looks_and_does_not_touch(control: Control, owner: Caller) -> None:
    workflow = await create(owner)
    member = await control.join(owner, "member")
    path = f"{W}/{workflow['id']}"
    assert (await member.get(path)).status == 200
    assert (await member.get(W)).body["workflows"] == [workflow]
    answers = [
        await member.post(W, {"name": "w", "dsl": MANUAL}),
        await member.put(path, {"name": "x"}),
        await member.post(f"{path}/publish"),
        await member.post(f"{path}/drafts"),
        await member.post(f"{path}/rotate-webhook"),
    ]
    assert {(answer.status, answer.code) for answer in answers} == {(403, "FORBIDDEN")}


@pytest.mark.promise("P5")
async def test_a_foreign_workflow_is_not_there(owner: Caller, stranger: Caller) -> None:
    workflow = await create(owner, triggered("trigger.webhook"))
    await publish(owner, workflow)
    path = f"{W}/{workflow['id']}"
    answers = [
        await stranger.get(path),
        await stranger.get(f"{path}/revisions"),
        await stranger.put(path, {"name": "x"}),
        await stranger.post(f"{path}/publish"),
        await stranger.post(f"{path}/drafts"),
        await stranger.post(f"{path}/rotate-webhook"),
        await stranger.post(f"{path}/runs"),
        await stranger.get(f"{path}/runs"),
        await stranger.get(f"{W}/not-an-id"),
    ]
    assert {(answer.status, answer.code) for answer in answers} == {(404, "NOT_FOUND")}
    assert (await stranger.get(W)).body["workflows"] == []


async def test_pages_are_stable_while_workflows_are_added(owner: Caller) -> None:
    made = [(await create(owner, name=f"w{at}"))["id"] for at in range(4)]
    first = (await owner.get(f"{W}?limit=2")).body
    await create(owner, name="later")
    second = (await owner.get(f"{W}?limit=2&cursor={first['nextCursor']}")).body
    assert [w["id"] for w in first["workflows"] + second["workflows"]] == made[::-1]
    assert second["nextCursor"] is None
    assert (await owner.get(f"{W}?cursor=nonsense")).status == 400
    assert (await owner.get(f"{W}?status=published")).body["workflows"] == []


async def test_a_cron_trigger_plans_its_next_firing(owner: Caller, superuser: "asyncpg.Connection") -> None:
    workflow = await create(owner, triggered("trigger.cron", cron="0 3 * * *", timezone="Europe/Berlin"))
    assert await superuser.fetchval("select count(*) from schedules") == 0
    await publish(owner, workflow)
    planned = await superuser.fetchrow("select *, next_fire_at > now() as later from schedules")
    assert (str(planned["workflow_id"]), planned["cron"], planned["timezone"], planned["later"]) == (
        workflow["id"],
        "0 3 * * *",
        "Europe/Berlin",
        True,
    )
    assert str(planned["user_id"]) == owner.user_id
    second = (await owner.post(f"{W}/{workflow['id']}/drafts")).body["workflow"]
    third = (await owner.post(f"{W}/{workflow['id']}/drafts")).body["workflow"]
    await owner.put(f"{W}/{third['id']}", {"dsl": MANUAL})
    await publish(owner, third)
    assert await superuser.fetchval("select count(*) from schedules") == 0
    # An older revision published late does not bring the schedule back.
    await publish(owner, second)
    assert await superuser.fetchval("select count(*) from schedules") == 0


async def test_every_change_of_a_workflow_is_told_in_the_audit_log(owner: Caller) -> None:
    workflow = await create(owner)
    await owner.put(f"{W}/{workflow['id']}", {"name": "x"})
    await publish(owner, workflow)
    draft = (await owner.post(f"{W}/{workflow['id']}/drafts")).body["workflow"]
    entries = (await owner.get("/v1/orgs/{org}/audit-log")).body["entries"]
    told = [(entry["action"], entry["objectId"]) for entry in entries if entry["objectType"] == "workflow"]
    assert told == [
        ("workflow.draft_created", draft["id"]),
        ("workflow.published", workflow["id"]),
        ("workflow.changed", workflow["id"]),
        ("workflow.created", workflow["id"]),
    ]


async def test_a_repeated_creation_is_one_workflow(owner: Caller) -> None:
    key = {"Idempotency-Key": "w1"}
    body = {"name": "w", "dsl": MANUAL}
    first, again = [await owner.post(W, body, headers=key) for _ in range(2)]
    assert first.body == again.body
    assert len((await owner.get(W)).body["workflows"]) == 1


async def test_a_list_shows_the_newest_of_each_and_those_with_a_word_in_their_name(owner: Caller) -> None:
    first = await create(owner, name="Nightly build")
    await publish(owner, first)
    draft = (await owner.post(f"{W}/{first['id']}/drafts")).body["workflow"]
    other = await create(owner, name="100% checks")

    async def listed(query: str) -> list[str]:
        return [workflow["id"] for workflow in (await owner.get(f"{W}?{query}")).body["workflows"]]

    assert await listed("newest=true") == [other["id"], draft["id"]]
    assert await listed("newest=true&status=published") == [first["id"]]
    assert await listed("name=NIGHT") == [draft["id"], first["id"]]
    assert await listed("name=%25") == [other["id"]]
