"""Parsing: what is a workflow, what is not, and how it is told."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vespid.domain.plan import Schedule
from vespid.domain.workflow import NODES_MAX, WorkflowInvalid, parse

EXAMPLE = (
    b'{"version":"v2","trigger":{"type":"trigger.cron","config":{"cron":"0 3 * * *","timezone":"Europe/Berlin"}},'
    b'"nodes":[{"id":"n1","type":"agent.execute","timeoutMs":30000,"retry":{"maxAttempts":2,"backoffMs":1000},'
    b'"onLost":"resend","config":{"execution":{"mode":"executor","selector":{"tag":"west"}},'
    b'"task":{"type":"shell","script":"echo {{ input.name }}"}}}]}'
)


def issues(document, **more):
    with pytest.raises(WorkflowInvalid) as caught:
        parse(document, **more)
    return [(issue.code, issue.path) for issue in caught.value.issues]


def messages(document, **more):
    with pytest.raises(WorkflowInvalid) as caught:
        parse(document, **more)
    return [issue.message for issue in caught.value.issues]


def one(node_type, **config):
    return {
        "version": "v2",
        "trigger": {"type": "trigger.manual"},
        "nodes": [{"id": "n", "type": node_type, "config": config}],
    }


def node_of(node_type, **config):
    return parse(one(node_type, **config)).plan.by_id["n"]


RUN = {"prompt": {"instructions": "x"}, "tools": {"allow": []}}


def test_example_of_the_contract_parses():
    workflow = parse(EXAMPLE)
    assert (workflow.version, workflow.trigger.cron, workflow.trigger.timezone) == ("v2", "0 3 * * *", "Europe/Berlin")
    node = workflow.plan.by_id["n1"]
    assert (node.timeout_ms, node.on_lost, node.retry.max_attempts) == (30_000, "resend", 2)
    assert node.requirement.tags == ("west",)
    assert node.schedule == Schedule("wait", 600_000)


def test_list_becomes_a_chain(kit):
    plan = parse(kit.listed(kit.shell("a"), kit.condition("c"), kit.shell("b"))).plan
    assert [(edge.source, edge.target, edge.kind) for node in plan.nodes for edge in node.outgoing] == [
        ("a", "c", "always"),
        ("c", "b", "cond_true"),
    ]


# --- documents -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [None, [], "x", 3, {}, {"version": "v1"}, {"version": None}, b"{", b"[" * 100_000])
def test_what_is_no_workflow_is_said_to_be_none(document):
    assert issues(document)[0][0] == "BAD_REQUEST"


@pytest.mark.parametrize("nodes", [None, [], {}, [{}] * (NODES_MAX + 1)])
def test_list_must_have_nodes_and_not_too_many(nodes):
    assert issues({"version": "v2", "trigger": {"type": "trigger.manual"}, "nodes": nodes}) == [
        ("BAD_REQUEST", "nodes")
    ]


def test_deep_large_and_long_documents_are_refused():
    deep = {}
    for _ in range(40):
        deep = {"x": deep}
    for config in ({"input": deep}, {"input": {"x": [0] * 60_000}}, {"input": {"x": "y" * 300_000}}):
        assert len(issues(one("connector.action", connectorId="c", actionId="a", **config))) == 1


def test_all_issues_are_told_at_once(kit):
    document = kit.listed(
        {"id": "a b", "type": "condition"}, {"id": "x", "type": "nope"}, kit.shell("y"), kit.shell("y")
    )
    assert issues(document) == [
        ("BAD_REQUEST", "nodes.0.id"),
        ("BAD_REQUEST", "nodes.1.type"),
        ("BAD_REQUEST", "nodes.3.id"),
    ]


def test_details_are_those_of_a_bad_request():
    with pytest.raises(WorkflowInvalid) as caught:
        parse(one("condition", path="$.input.a", op="equals", value=1))
    assert caught.value.details() == {
        "fieldErrors": {
            "dsl.nodes.0.config.op": [
                "Invalid enum value 'equals'; use `eq`, `neq`, `contains`, `exists`, `gt`, `gte`, `lt` or `lte`"
            ]
        }
    }


def test_unknown_keys_are_ignored_and_travel_along():
    document = one("agent.execute", somethingNew=1)
    document["editor"] = {"x": 1}
    document["nodes"][0]["label"] = "hello"
    assert parse(document).plan.by_id["n"].config.source == {"somethingNew": 1}


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text()
        | st.sampled_from(["v2", "v3", "trigger.manual", "condition"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["version", "trigger", "nodes", "graph", "edges", "type", "id", "config"]), inner
            )
        ),
        max_leaves=12,
    )
)
@pytest.mark.promise("P10")
def test_nonsense_never_raises_anything_but_workflow_invalid(document):
    try:
        parse(document)
    except WorkflowInvalid as error:
        invalid = error
    else:
        return
    assert invalid.issues
    msgspec.json.encode(invalid.details())


# --- triggers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trigger", "path"),
    [
        (None, "trigger"),
        ({"type": "trigger.email"}, "trigger.type"),
        ({"type": "trigger.cron"}, "trigger.config.cron"),
        ({"type": "trigger.cron", "config": {"cron": "61 * * * *"}}, "trigger.config.cron"),
        ({"type": "trigger.cron", "config": {"cron": "* * * * * *"}}, "trigger.config.cron"),
        ({"type": "trigger.cron", "config": {"cron": "0 0 31 2 *"}}, "trigger.config.cron"),
        ({"type": "trigger.cron", "config": {"cron": "0 3 * * *", "timezone": "Mars/Base"}}, "trigger.config.timezone"),
        ({"type": "trigger.cron", "config": {"cron": "0 3 * * *", "timezone": "../../etc"}}, "trigger.config.timezone"),
    ],
)
def test_triggers_that_cannot_fire_are_refused(kit, trigger, path):
    assert issues(kit.listed(kit.shell("a")) | {"trigger": trigger}) == [("BAD_REQUEST", path)]


def test_webhook_trigger_needs_nothing(kit):
    assert (
        parse(kit.listed(kit.shell("a")) | {"trigger": {"type": "trigger.webhook"}}).trigger.type == "trigger.webhook"
    )


# --- graphs ----------------------------------------------------------------------------------------------------------


def test_edge_to_a_missing_node(kit):
    assert issues(kit.graph([kit.shell("a")], "a>b")) == [("GRAPH_NODE_MISSING", "graph.edges.0.to")]


def test_graph_issues_stand_in_details(kit):
    with pytest.raises(WorkflowInvalid) as caught:
        parse(kit.graph([kit.shell("a")], "a>b"))
    assert caught.value.details()["issues"] == [
        {
            "code": "GRAPH_NODE_MISSING",
            "path": "graph.edges.0.to",
            "message": "there is no node `b`; add it or remove the edge",
        }
    ]


@pytest.mark.parametrize(
    "edges",
    [
        [{"from": "a", "to": "b"}],
        [{"id": "e", "from": "a"}],
        [{"id": "e", "from": "a", "to": "b", "kind": "sometimes"}],
        [{"id": "e", "from": "a", "to": "b"}, {"id": "f", "from": "a", "to": "b"}],
        [{"id": "e", "from": "a", "to": "b"}, {"id": "e", "from": "b", "to": "a"}],
        ["a>b"],
    ],
)
def test_edges_that_are_none(kit, edges):
    document = kit.graph([kit.shell("a"), kit.shell("b")])
    document["graph"]["edges"] = edges
    assert "GRAPH_EDGE_INVALID" in [code for code, _ in issues(document)]


@pytest.mark.parametrize("edge", ["a+b", "a-b", "c>b"])
def test_kinds_of_edges_fit_their_source(kit, edge):
    nodes = [kit.shell("a"), kit.shell("b"), kit.condition("c")]
    assert issues(kit.graph(nodes, edge)) == [("CONDITION_EDGE_CONSTRAINTS", "graph.edges.0.kind")]


def test_cycle_names_the_nodes_on_it_and_no_others(kit):
    nodes = [kit.shell(name) for name in "abcde"]
    document = kit.graph(nodes, "a>b", "b>c", "c>d", "d>b", "d>e")
    assert issues(document) == [("GRAPH_CYCLE_DETECTED", "graph.nodes")]
    assert messages(document)[0].startswith("these nodes wait for each other: b, c, d;")


def test_edge_to_itself_is_a_cycle(kit):
    assert issues(kit.graph([kit.shell("a")], "a>a")) == [("GRAPH_CYCLE_DETECTED", "graph.nodes")]


@pytest.mark.parametrize("named", ["b", "nowhere", "a"])
def test_template_may_only_name_nodes_that_come_before(kit, named):
    document = kit.graph([kit.shell("a", script=f"{{{{ steps.{named}.output }}}}"), kit.shell("b")])
    assert issues(document)[0][0] == "BAD_REQUEST"


def test_nodes_are_in_topological_order(kit):
    plan = parse(kit.graph([kit.shell("z"), kit.shell("y"), kit.shell("x")], "x>y", "y>z")).plan
    assert [node.id for node in plan.nodes] == ["x", "y", "z"]
    assert plan.roots == ("x",)


# --- nodes -----------------------------------------------------------------------------------------------------------


def test_connector_action_runs_in_the_cloud_unless_told_otherwise():
    assert node_of("connector.action", connectorId="github", actionId="issue.create").placement == "cloud"
    node = node_of("connector.action", connectorId="github", actionId="issue.create", execution={"mode": "node"})
    assert (node.placement, node.requirement.connector) == ("executor", "github")
    assert node.config.source["execution"] == {"mode": "executor"}


def test_unknown_connector_is_told():
    def check(connector, action):
        return None if connector == "github" else f"there is no connector `{connector}`; there is github"

    parse(one("connector.action", connectorId="github", actionId="issue.create"), check_connector=check)
    bad = one("connector.action", connectorId="gitlab", actionId="issue.create")
    assert issues(bad, check_connector=check) == [("BAD_REQUEST", "nodes.0.config.connectorId")]
    tool = one("agent.run", prompt={"instructions": "x"}, tools={"allow": ["connector.gitlab.issue.create"]})
    assert issues(tool, check_connector=check) == [("BAD_REQUEST", "nodes.0.config.tools.allow.0")]


@pytest.mark.parametrize("mode", ["cloud", "gateway"])
def test_agent_execute_runs_on_executors_only(mode):
    document = one("agent.execute", execution={"mode": mode})
    assert issues(document) == [("BAD_REQUEST", "nodes.0.config.execution.mode")]


@pytest.mark.parametrize(
    ("engine", "placement", "name"),
    [
        (None, "gateway", "vespid.loop.v1"),
        ("vespid.loop.v1", "gateway", "vespid.loop.v1"),
        ("gateway.loop.v2", "gateway", "vespid.loop.v1"),
        ("gateway.claude.v2", "executor", "claude.agent-sdk.v1"),
        ("gateway.codex.v2", "executor", "codex.sdk.v1"),
        ("vespid.echo.v1", "executor", "vespid.echo.v1"),
    ],
)
def test_agent_run_goes_where_its_engine_runs(engine, placement, name):
    node = node_of("agent.run", **RUN, **({"engine": {"id": engine}} if engine else {}))
    assert (node.placement, node.requirement.engine) == (placement, name)
    if engine:
        assert node.config.source["engine"]["id"] == name


def test_llm_is_another_spelling_of_engine():
    secret = {"secretId": "s1"}
    node = node_of("agent.run", **RUN, llm={"provider": "openai", "model": "m", "auth": secret})
    assert node.config.source["engine"] == {"id": "vespid.loop.v1", "provider": "openai", "model": "m", "auth": secret}
    assert node.auth_secret == "s1"


def test_network_mode_is_another_spelling_of_network():
    node = node_of("agent.execute", sandbox={"networkMode": "none", "backend": "bubblewrap"})
    assert node.config.source["sandbox"] == {"network": "none", "backend": "bubblewrap"}
    shared = node_of("agent.execute", sandbox={"workdir": "run"})
    assert shared.config.source["sandbox"] == {"workdir": "run"}
    assert node.requirement.backend == "bubblewrap"


@pytest.mark.parametrize(
    ("node_type", "config", "path"),
    [
        ("agent.execute", {"task": {"type": "python", "script": "x"}}, "task.type"),
        ("agent.execute", {"task": {"type": "shell"}}, "task"),
        ("agent.execute", {"task": {"type": "shell", "script": "x", "env": {"A B": "1"}}}, "task.env"),
        ("agent.execute", {"sandbox": {"backend": "vm"}}, "sandbox.backend"),
        ("agent.execute", {"sandbox": {"workdir": "organization"}}, "sandbox.workdir"),
        ("agent.execute", {"sandbox": {"network": "none", "networkMode": "enabled"}}, "sandbox.networkMode"),
        ("agent.execute", {"execution": {"selector": {"pool": "both"}}}, "execution.selector.pool"),
        ("agent.execute", {"execution": {"schedule": {"maxWaitMs": -1}}}, "execution.schedule.maxWaitMs"),
        ("agent.execute", {"task": {"type": "shell", "script": "{{ inputs.x }}"}}, "task.script"),
        ("agent.execute", {"task": {"type": "shell", "script": "{{ input.x | upper }}"}}, "task.script"),
        ("connector.action", {"connectorId": "git.hub", "actionId": "x"}, "connectorId"),
        (
            "connector.action",
            {"connectorId": "c", "actionId": "a", "auth": {"secretId": "{{ input.s }}"}},
            "auth.secretId",
        ),
        ("connector.action", {"connectorId": "c", "actionId": "a", "execution": {"mode": "gateway"}}, "execution.mode"),
        (
            "connector.action",
            {"connectorId": "c", "actionId": "a", "execution": {"selector": {"tag": "t"}}},
            "execution.selector",
        ),
        ("agent.run", {"tools": {"allow": []}}, ""),
        ("agent.run", RUN | {"engine": {"id": "gpt"}}, "engine.id"),
        ("agent.run", RUN | {"tools": {"allow": ["rm"]}}, "tools.allow.0"),
        ("agent.run", RUN | {"execution": {"mode": "cloud"}}, "execution.mode"),
        ("agent.run", RUN | {"engine": {"id": "codex.sdk.v1"}, "execution": {"mode": "gateway"}}, "execution.mode"),
        ("http.request", {"url": "http://x"}, ""),
        ("http.request", {"method": "FETCH", "url": "http://x"}, "method"),
        ("http.request", {"method": "GET", "url": "ftp://x"}, "url"),
        ("condition", {"path": "$.input.a", "op": "eq"}, "value"),
        ("condition", {"path": "$.steps.a", "op": "exists"}, "path"),
        ("condition", {"path": "$.input..a", "op": "exists"}, "path"),
        ("parallel.join", {"mode": "any"}, "mode"),
    ],
)
def test_bad_configs_name_their_place(node_type, config, path):
    found = issues(one(node_type, **config))
    assert [code for code, _ in found] == ["BAD_REQUEST"]
    assert found[0][1].startswith(f"nodes.0.config.{path}".rstrip("."))


def test_choice_of_modes_is_told():
    assert messages(one("agent.execute", execution={"mode": "cloud"})) == [
        "`cloud` is not possible here; use `executor`"
    ]


# --- agent.run --------------------------------------------------------------------------------------------------------


def agent(allow=(), **config):
    tools = {"allow": list(allow), **config.pop("tools", {})}
    return {"prompt": {"instructions": "x"}, "tools": tools, **config}


def test_a_loop_in_the_gateway_says_where_its_tools_run():
    execution = {"mode": "gateway", "selector": {"tag": "west"}, "schedule": {"maxWaitMs": 5}}
    node = node_of("agent.run", **agent(["shell.run"], execution=execution))
    assert (node.placement, node.selector.required_tags(), node.schedule.max_wait_ms) == ("gateway", ("west",), 5)


def test_a_loop_in_the_gateway_goes_on_elsewhere_unless_told_otherwise():
    assert node_of("agent.run", **agent()).on_lost == "resend"
    assert node_of("agent.run", **agent(execution={"mode": "executor"})).on_lost == "fail"
    told = {"id": "n", "type": "agent.run", "onLost": "fail", "config": agent()}
    document = {"version": "v2", "trigger": {"type": "trigger.manual"}, "nodes": [told]}
    assert parse(document).plan.nodes[0].on_lost == "fail"


@pytest.mark.parametrize("mode", ["gateway", "executor"])
def test_a_connector_that_needs_a_secret_is_given_one_by_the_workflow(mode):
    tool = "connector.github.issue.create"

    def needs_secret(connector):
        return connector == "github"

    bare = one("agent.run", **agent([tool], execution={"mode": mode}))
    assert issues(bare, needs_secret=needs_secret) == [("BAD_REQUEST", "nodes.0.config.tools.allow.0")]
    given = agent([tool], tools={"auth": {"github": {"secretId": "s1"}}}, execution={"mode": mode})
    parse(one("agent.run", **given), needs_secret=needs_secret)
    node = node_of("agent.run", **agent([tool], tools={"auth": {"github": {"secretId": "s1"}}}))
    assert node.named_secrets == ("s1",)


@pytest.mark.parametrize("mode", ["gateway", "executor"])
@pytest.mark.parametrize("tool", ["memory.get", "memory.*", "connector.*", "connector.http.*", "mcp.s.*", "skill.*"])
def test_a_node_may_allow_tools_one_by_one_and_by_their_beginning(mode, tool):
    assert node_of("agent.run", **agent([tool], execution={"mode": mode})).tools_allow == (tool,)


@pytest.mark.parametrize("tool", ["*", "shell.*", "mem*", "memory.", "memory.*.x", "connector.*.x", "connector..*"])
def test_what_is_no_beginning_of_a_tools_name_is_refused(tool):
    assert issues(one("agent.run", **agent([tool]))) == [("BAD_REQUEST", "nodes.0.config.tools.allow.0")]


def test_all_actions_of_a_connector_are_looked_at_like_one():
    asked = []

    def check(connector, action):
        asked.append((connector, action))
        return None if connector == "github" else "none"

    document = one("agent.run", **agent(["connector.gihub.*"]))
    assert issues(document, check_connector=check) == [("BAD_REQUEST", "nodes.0.config.tools.allow.0")]
    assert asked == [("gihub", None)]
    bare = one("agent.run", **agent(["connector.github.*"]))
    assert issues(bare, needs_secret=lambda connector: True) == [("BAD_REQUEST", "nodes.0.config.tools.allow.0")]


def test_an_approval_may_be_for_one_of_the_tools_that_a_pattern_allows():
    approval = {"memory.write": {}}
    document = one("agent.run", **agent(["memory.*"], tools={"approval": approval}))
    assert list(parse(document).plan.nodes[0].tool_approvals) == ["memory.write"]
    missing = one("agent.run", **agent(["skill.*"], tools={"approval": approval}))
    assert issues(missing) == [("BAD_REQUEST", "nodes.0.config.tools.approval.memory.write")]
