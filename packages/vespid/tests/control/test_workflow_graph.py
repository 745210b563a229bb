"""Workflows that are looked at before they are saved."""

from typing import Any

import asyncpg
from tests.support.control import Caller, Control
from tests.support.run_steps import W

VALIDATE = f"{W}/validate"


def task(**more: Any) -> dict[str, Any]:
    return {"type": "agent.execute", "config": {"task": {"type": "shell", "script": "echo hi"}}} | more


CONDITION = {"type": "condition", "config": {"path": "$.input.go", "op": "eq", "value": True}}
MANUAL = {"type": "trigger.manual"}
# b comes late although an edge leads straight to it from the root.
DIAMOND = {
    "version": "v3",
    "trigger": MANUAL,
    "graph": {
        "nodes": {"b": task(), "root": task(), "ask": CONDITION, "a": task()},
        "edges": [
            {"id": "e1", "from": "root", "to": "ask"},
            {"id": "e2", "from": "ask", "to": "a", "kind": "cond_true"},
            {"id": "e3", "from": "ask", "to": "b", "kind": "cond_false"},
            {"id": "e4", "from": "root", "to": "b"},
        ],
    },
}


async def test_a_valid_graph_is_shown_as_a_run_goes_by_it(owner: Caller, superuser: "asyncpg.Connection") -> None:
    answer = await owner.post(VALIDATE, {"dsl": DIAMOND})
    assert (answer.status, answer.body["ok"]) == (200, True)
    nodes = [(node["id"], node["type"], node["level"]) for node in answer.body["graph"]["nodes"]]
    assert sorted(nodes) == [
        ("a", "agent.execute", 2),
        ("ask", "condition", 1),
        ("b", "agent.execute", 2),
        ("root", "agent.execute", 0),
    ]
    assert sorted(answer.body["graph"]["edges"], key=lambda edge: (edge["from"], edge["to"])) == [
        {"from": "ask", "to": "a", "label": "true"},
        {"from": "ask", "to": "b", "label": "false"},
        {"from": "root", "to": "ask"},
        {"from": "root", "to": "b"},
    ]
    assert await superuser.fetchval("select count(*) from workflows") == 0


async def test_a_list_is_a_graph_whose_nodes_follow_each_other(owner: Caller) -> None:
    nodes = [task(id="n1"), CONDITION | {"id": "c1"}, task(id="n2")]
    answer = await owner.post(VALIDATE, {"dsl": {"version": "v2", "trigger": MANUAL, "nodes": nodes}})
    assert [(node["id"], node["level"]) for node in answer.body["graph"]["nodes"]] == [("n1", 0), ("c1", 1), ("n2", 2)]
    assert answer.body["graph"]["edges"] == [
        {"from": "n1", "to": "c1"},
        {"from": "c1", "to": "n2", "label": "true"},
    ]


async def test_what_is_wrong_is_told_as_when_it_is_created(control: Control, owner: Caller) -> None:
    member = await control.join(owner)
    unknown = {"type": "connector.action", "config": {"connectorId": "nobody", "actionId": "x"}}
    wrong: list[dict[str, Any]] = [
        {},
        {"version": "v3", "trigger": MANUAL, "graph": {"nodes": {"a": task()}, "edges": [{"from": "a", "to": "z"}]}},
        {"version": "v3", "trigger": MANUAL, "graph": {"nodes": {"a": unknown}, "edges": []}},
        {"version": "v2", "trigger": {"type": "trigger.cron", "config": {"cron": "x"}}, "nodes": [task(id="n1")]},
    ]
    for dsl in wrong:
        looked_at = await member.post(VALIDATE, {"dsl": dsl})
        created = await owner.post(W, {"name": "w", "dsl": dsl})
        assert (looked_at.status, looked_at.code) == (400, "BAD_REQUEST")
        assert looked_at.body == created.body
    assert (await member.post(VALIDATE, {})).body["details"]["fieldErrors"].keys() == {"dsl"}
