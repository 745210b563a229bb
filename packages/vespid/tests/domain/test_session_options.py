"""The body that makes a session: defaults, other spellings, and what is wrong by field."""

from __future__ import annotations

import msgspec
import pytest

from vespid.domain.fields import FieldsInvalid
from vespid.domain.policy import LlmChoice
from vespid.domain.selector import Selector
from vespid.domain.session_options import EngineChoice, NewSessionBody, read_options

NOTHING = LlmChoice()
DEFAULT = LlmChoice("openai", "gpt-5", "s-default")
HOST = "0198a1c2-0000-7000-8000-00000000000a"


def read(body, default_llm=NOTHING, check_connector=None):
    shape = msgspec.convert(body, NewSessionBody)
    return read_options(shape, role="member", default_llm=default_llm, check_connector=check_connector)


def test_everything_may_be_left_out():
    options = read({})
    assert options.engine == EngineChoice("vespid.echo.v1")
    assert (options.scope, options.on_busy, options.on_host_lost, options.pin_policy) == (
        "main",
        "queue",
        "rerun",
        "sticky",
    )
    assert (options.turn_timeout_ms, options.tools_allow, options.executor_selector) == (300_000, (), None)
    assert options.facts.org_roles == ("member",)


def test_null_is_as_good_as_left_out():
    names = [field.encode_name for field in msgspec.structs.fields(NewSessionBody)]
    assert read(dict.fromkeys(names)) == read({})


@pytest.mark.parametrize(
    ("body", "engine"),
    [
        ({}, EngineChoice("vespid.loop.v1", "gpt-5", "openai", "s-default")),
        ({"engineId": "vespid.echo.v1"}, EngineChoice("vespid.echo.v1")),
        ({"engine": {"id": "vespid.loop.v1"}}, EngineChoice("vespid.loop.v1", "gpt-5", "openai", "s-default")),
        (
            {"engine": {"id": "vespid.loop.v1", "model": "gpt-5-mini"}},
            EngineChoice("vespid.loop.v1", "gpt-5-mini", "openai", "s-default"),
        ),
        (
            {"engine": {"id": "gateway.loop.v2", "auth": {"secretId": "s"}}},
            EngineChoice("vespid.loop.v1", "gpt-5", "openai", "s"),
        ),
        ({"llm": {"provider": "anthropic", "model": "m"}}, EngineChoice("vespid.loop.v1", "m", "anthropic")),
        (
            {"engineId": "vespid.loop.v1", "llm": {"provider": "p", "model": "m", "auth": {"secretId": "s"}}},
            EngineChoice("vespid.loop.v1", "m", "p", "s"),
        ),
        (
            {"engine": {"id": "claude.agent-sdk.v1", "model": "m", "auth": {"secretId": "s"}}},
            EngineChoice("claude.agent-sdk.v1", "m", None, "s"),
        ),
    ],
)
def test_every_spelling_names_one_engine(body, engine):
    assert read(body, DEFAULT).engine == engine


def test_the_default_secret_goes_to_no_other_provider():
    body = {"engine": {"id": "vespid.loop.v1", "provider": "anthropic"}}
    assert read(body, DEFAULT).engine == EngineChoice("vespid.loop.v1", None, "anthropic", None)


def test_only_a_secret_that_the_caller_named_is_theirs_to_prove():
    assert read({}, DEFAULT).named_secret_id is None
    named = {"llm": {"provider": "p", "model": "m", "auth": {"secretId": "s"}}}
    assert read(named, DEFAULT).named_secret_id == "s"


def test_where_people_talk_is_read_from_the_body_and_its_context():
    facts = read(
        {
            "peer": "Ann",
            "channel": "slack",
            "actor": "bob",
            "context": {"accountId": "acme", "team": "sales", "parentPeer": "room", "more": [1]},
        }
    ).facts
    assert (facts.peer, facts.channel, facts.actor) == ("Ann", "slack", "bob")
    assert (facts.account, facts.team, facts.parent_peer) == ("acme", "sales", "room")
    assert facts.context is not None
    assert facts.context["more"] == [1]
    assert read({"peer": "  "}).facts.peer is None


def test_tools_may_be_allowed_by_their_beginning():
    allow = ["memory.*", "connector.*", "connector.github.*", "skill.*", "mcp.*", "mcp.server.*"]
    assert read({"tools": {"allow": allow}}, check_connector=lambda connector, action: None).tools_allow == tuple(allow)


def test_a_selector_is_a_workflows():
    given = {"pool": "managed", "labels": ["gpu"], "group": "g", "tag": "t", "executorId": HOST.upper()}
    assert read({"executorSelector": given}).executor_selector == Selector("managed", ("gpu",), "g", "t", HOST)
    assert read({"executorSelector": {}}).executor_selector is None


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"engineId": "nope"}, {"engineId"}),
        ({"engine": {"id": "nope"}}, {"engine.id"}),
        ({"engine": {"id": "vespid.loop.v1"}, "engineId": "vespid.echo.v1"}, {"engineId"}),
        (
            {"engine": {"id": "vespid.loop.v1", "model": "a"}, "llm": {"provider": "p", "model": "b"}},
            {"llm.model"},
        ),
        ({"tools": {"allow": ["memory.search", "rm"]}}, {"tools.allow[1]"}),
        ({"tools": {"allow": ["connector.nope.x"]}}, {"tools.allow[0]"}),
        ({"tools": {"allow": ["connector.nope.*", "memory.*", "shell.*"]}}, {"tools.allow[0]", "tools.allow[2]"}),
        ({"context": {"account": 3, "teamId": ""}}, {"context.account", "context.teamId"}),
        ({"executorSelector": {"executorId": "x"}}, {"executorSelector.executorId"}),
        ({"context": {"big": "x" * 20_000}}, {"context"}),
    ],
)
def test_what_contradicts_itself_is_told_by_field(body, fields):
    with pytest.raises(FieldsInvalid) as refused:
        read(body, check_connector=lambda connector, action: f"There is no {connector}.{action}.")
    assert set(refused.value.fields) == fields


@pytest.mark.parametrize(
    "body",
    [
        {"title": "x" * 201},
        {"scope": "all"},
        {"peer": ""},
        {"channel": 3},
        {"executionMode": "anywhere"},
        {"prompt": {"system": "s"}},
        {"tools": {"allow": ["memory.get"] * 257}},
        {"limits": {"timeoutMs": 999}},
        {"limits": {"timeoutMs": 3_600_001}},
        {"limits": {"maxTurns": 0}},
        {"executorSelector": {"pool": "cloud"}},
        {"onMessageWhileBusy": "wait"},
        {"onHostLost": "ask"},
        {"pinPolicy": "none"},
    ],
)
def test_limits_are_in_the_shape(body):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(body, NewSessionBody)
