"""What an execution says: payloads of protocol.md §1.4, secrets, placement, limits."""

from __future__ import annotations

import pytest

from vespid.domain.policy import LlmChoice, LlmDefaults, LlmSettings, OrgSettings, RunPolicy, ToolSettings

RUN_ID = "01900000-0000-7000-8000-000000000001"


def started(kit, node_type, config, *, beside=None, **more):
    run = kit.run(kit.listed({"id": "n", "type": node_type, "config": config, **(beside or {})}), **more)
    run.start()
    return run.execution("n") if run.executions else run


def test_agent_execute(kit):
    config = {"task": {"type": "shell", "script": "echo {{ input.x }}", "env": {"N": "{{ input.x }}", "B": True}}}
    execution = started(kit, "agent.execute", config, input={"x": 5}, beside={"onLost": "wait", "timeoutMs": 7})
    assert execution.payload == {
        "nodeId": "n",
        "node": {
            "id": "n",
            "type": "agent.execute",
            "config": {"task": {"type": "shell", "script": "echo 5", "env": {"N": "5", "B": "true"}}},
        },
        "runId": RUN_ID,
        "workflowId": "workflow",
        "attemptCount": 1,
    }
    assert (execution.kind, execution.placement, execution.pool) == ("agent.execute", "executor", "byon")
    assert (execution.timeout_ms, execution.on_lost) == (7, "wait")


def test_timeout_is_the_nodes_or_the_default(kit):
    assert started(kit, "agent.execute", {}, policy=RunPolicy(node_timeout_ms=123)).timeout_ms == 123


def test_connector_action(kit):
    config = {
        "connectorId": "github",
        "actionId": "issue.create",
        "input": {"title": "{{ input.t }}", "body": "{{secrets.s2}}"},
        "auth": {"secretId": "s1"},
    }
    policy = RunPolicy(github_api_base_url="https://ghe/api")
    execution = started(kit, "connector.action", config, input={"t": "T"}, policy=policy)
    assert execution.payload == {
        "connectorId": "github",
        "actionId": "issue.create",
        "input": {"title": "T", "body": "{{secrets.s2}}"},
        "env": {"githubApiBaseUrl": "https://ghe/api"},
    }
    assert execution.placement == "cloud"
    assert execution.secret_refs == ("s1", "s2")
    assert execution.auth_secret == "s1"


def test_connector_action_without_input_gets_an_empty_one(kit):
    execution = started(kit, "connector.action", {"connectorId": "slack", "actionId": "message.post"})
    assert execution.payload == {"connectorId": "slack", "actionId": "message.post", "input": {}}


def test_input_of_an_action_may_be_one_template_and_must_give_an_object(kit):
    config = {"connectorId": "c", "actionId": "a", "input": "{{ input.all }}"}
    assert started(kit, "connector.action", config, input={"all": {"x": 1}}).payload["input"] == {"x": 1}


def test_http_request_is_the_http_connector_in_the_cloud(kit):
    config = {
        "method": "post",
        "url": "https://x/{{ input.id }}",
        "headers": {"X-N": 1},
        "body": "{{ input.body }}",
        "auth": {"secretId": "s"},
    }
    execution = started(kit, "http.request", config, input={"id": 3, "body": [1]})
    assert execution.payload == {
        "connectorId": "http",
        "actionId": "request",
        "input": {"method": "POST", "url": "https://x/3", "headers": {"X-N": "1"}, "body": [1]},
    }
    assert (execution.kind, execution.placement, execution.auth_secret) == ("http.request", "cloud", "s")


def test_agent_run_is_told_what_it_may_use(kit):
    config = {"prompt": {"instructions": "do {{ input.x }}"}, "tools": {"allow": ["shell.run", "memory.get"]}}
    execution = started(kit, "agent.run", config | {"engine": {"id": "gateway.claude.v2"}}, input={"x": "it"})
    assert execution.placement == "executor"
    assert execution.requirement.engine == "claude.agent-sdk.v1"
    payload = execution.payload
    assert payload["effectiveToolsAllow"] == ["memory.get"]
    assert payload["organizationSettings"] == {"tools": {"shellRunEnabled": False, "shellSecretsEnabled": False}}
    assert payload["runInput"] == {"x": "it"}
    assert payload["node"]["config"]["prompt"] == {"instructions": "do it"}
    assert "steps" not in payload


def test_agent_run_is_given_the_outputs_it_names(kit):
    ask = {"id": "b", "type": "agent.run", "config": {"prompt": {"instructions": "{{ steps.a.output.q }}"}}}
    run = kit.run(kit.listed(kit.shell("a"), ask))
    run.start()
    run.succeed("a", {"q": "why", "r": 1})
    assert run.execution("b").payload["steps"] == {"a": {"output": {"q": "why", "r": 1}}}
    assert run.execution("b").placement == "gateway"


@pytest.mark.promise("P7")
def test_input_given_to_an_agent_run_cannot_ask_for_secrets(kit):
    config = {"prompt": {"instructions": "use {{secrets.own}}"}, "engine": {"id": "codex.sdk.v1"}}
    execution = started(kit, "agent.run", config, input={"body": ["{{secrets.own}}"]})
    assert execution.payload["runInput"] == {"body": ["{ {secrets.own}}"]}
    assert execution.secret_refs == ("own",)


def test_agent_run_without_engine_takes_the_organizations_model(kit):
    primary = LlmChoice("openai", "m1", "s9")
    policy = RunPolicy(settings=OrgSettings(llm=LlmSettings(LlmDefaults(primary))))
    execution = started(kit, "agent.run", {"prompt": {"instructions": "x"}}, policy=policy)
    assert execution.payload["node"]["config"]["engine"] == {
        "id": "vespid.loop.v1",
        "provider": "openai",
        "model": "m1",
        "auth": {"secretId": "s9"},
    }
    assert (execution.auth_secret, execution.secret_refs) == ("s9", ("s9",))


def test_selector_may_come_from_a_template(kit):
    config = {"execution": {"mode": "executor", "selector": {"tag": "{{ input.region }}", "pool": "managed"}}}
    execution = started(kit, "agent.execute", config, input={"region": "west"})
    assert execution.requirement.tags == ("west",)
    assert execution.signature == execution.requirement.signature
    assert (execution.pool, execution.selector.tag) == ("managed", "west")


@pytest.mark.parametrize(
    ("node_type", "config", "code"),
    [
        ("agent.execute", {"task": {"type": "shell", "script": "{{ input.n }}"}}, "INVALID_EXECUTE_PAYLOAD"),
        ("connector.action", {"connectorId": "c", "actionId": "a", "input": "{{ input.l }}"}, "INVALID_ACTION_INPUT"),
        ("http.request", {"method": "GET", "url": "{{ input.n }}"}, "INVALID_ACTION_INPUT"),
        ("http.request", {"method": "GET", "url": "http://{{ input.nope }}"}, "TEMPLATE_VALUE_MISSING"),
        ("http.request", {"method": "GET", "url": "http://x", "body": ["{{ input.big }}"] * 5}, "INVALID_ACTION_INPUT"),
    ],
)
def test_values_that_do_not_fit_fail_the_node(kit, node_type, config, code):
    run = started(kit, node_type, config, input={"n": 5, "l": [1], "big": "x" * 1_000_000})
    assert run.state.status == "failed"
    assert run.state.error == code


def test_secrets_for_shells_are_allowed_by_the_organization(kit):
    config = {"task": {"type": "shell", "script": "x", "env": {"T": "{{secrets.s}}"}}}
    assert started(kit, "agent.execute", config).state.error == "SECRET_NOT_ALLOWED_FOR_SHELL"
    policy = RunPolicy(settings=OrgSettings(tools=ToolSettings(shell_secrets_enabled=True)))
    execution = started(kit, "agent.execute", config, policy=policy)
    assert execution.secret_refs == ("s",)
    assert execution.auth_secret is None
    assert execution.payload["organizationSettings"]["tools"]["shellSecretsEnabled"] is True


def test_a_node_that_may_remember_is_told_of_which_workflow_it_is_and_no_other_is(kit):
    config = {"prompt": {"instructions": "x"}, "tools": {"allow": ["memory.*"]}}
    assert started(kit, "agent.run", config, family_id="family").payload["familyId"] == "family"
    config["tools"] = {"allow": ["skill.x"]}
    assert "familyId" not in started(kit, "agent.run", config, family_id="family").payload
