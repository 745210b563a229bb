"""What a task gets of the agent's own environment."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec
import pytest

from vespid_agent.settings import AgentSettings
from vespid_agent.testing.fake_gateway import FakeGateway
from vespid_agent.testing.payloads import decoded, shell
from vespid_agent.testing.running import InProcessAgent
from vespid_agent.work.passthrough import Passthrough, allowed, looks_secret
from vespid_protocol import frames as f
from vespid_protocol.ids import create_token, new_id

ENVIRONMENT = {
    "OPENAI_API_KEY": "sk-live-0123456789",
    "HTTP_REGION": "eu-west",
    "VESPID_AGENT_EXECUTOR_TOKEN": "x",
    "DATABASE_URL": "postgres://",
    "REDIS_URL": "redis://",
}


@pytest.mark.parametrize(
    ("allowed", "asked", "passed", "refused"),
    [
        (("*",), ("OPENAI_API_KEY", "HTTP_REGION"), {"OPENAI_API_KEY", "HTTP_REGION"}, ()),
        (("*",), ("VESPID_AGENT_EXECUTOR_TOKEN", "DATABASE_URL", "REDIS_URL"), set(), (1, 2, 3)),
        (("*",), ("NOT_SET",), set(), ()),
        (("OPENAI_*",), ("OPENAI_API_KEY", "HTTP_REGION", "NOT_SET"), {"OPENAI_API_KEY"}, (1, 2)),
        (("VESPID_*", "DATABASE_URL"), ("VESPID_AGENT_EXECUTOR_TOKEN", "DATABASE_URL"), {"DATABASE_URL"}, (1,)),
        (("DATABASE*",), ("DATABASE_URL",), set(), (1,)),
        (("-",), ("HTTP_REGION", "HTTP_REGION"), set(), (1,)),
        ((), ("HTTP_REGION",), set(), (1,)),
    ],
)
def test_node_gets_what_it_asks_for_and_the_agent_allows(allowed, asked, passed, refused) -> None:
    chosen = Passthrough(allowed, ENVIRONMENT).choose(asked)
    assert chosen.variables == {name: ENVIRONMENT[name] for name in passed}
    assert len(chosen.refused) == len(refused)
    assert not set(chosen.refused) & passed


@pytest.mark.parametrize("prefix", ["vat", "vmt", "vak"])
def test_token_of_ours_is_not_passed_under_any_name(prefix: str) -> None:
    environment = {"HARMLESS": f"Bearer {create_token(new_id(), prefix)}"}
    assert Passthrough(("*", "HARMLESS"), environment).choose(["HARMLESS"]).refused == ("HARMLESS",)


def test_secrets_are_told_by_their_names() -> None:
    assert all(looks_secret(name) for name in ("OPENAI_API_KEY", "gh_token", "DB_PASSWORD", "CLIENT_SECRET"))
    assert not looks_secret("HTTP_REGION")


async def started(gateway: FakeGateway, home: Path, **more: object) -> InProcessAgent:
    agent = InProcessAgent(gateway, home, environment=ENVIRONMENT, **more)  # type: ignore[arg-type]
    await agent.start()
    return agent


@pytest.mark.promise("P10")
async def test_secret_variable_is_masked_wherever_the_task_shows_it(gateway: FakeGateway, tmp_path: Path) -> None:
    agent = await started(gateway, tmp_path)
    try:
        value = ENVIRONMENT["OPENAI_API_KEY"]
        script = 'printf %s "$OPENAI_API_KEY" | wc -c; echo "$OPENAI_API_KEY $HTTP_REGION"; echo "$OPENAI_API_KEY" >&2'
        script += '; printf %s "$OPENAI_API_KEY" | base64; exit 3'
        asked = shell(script, envPassthroughAllowlist=["OPENAI_API_KEY", "HTTP_REGION", "NOT_SET"])
        request = await gateway.dispatch("agent.execute", asked)
        result = await gateway.result(request)
        assert decoded(result.output)["stdout"] == f"{len(value)}\n*** eu-west\n***\n"
        said = [msgspec.json.encode(frame) for frame in (await gateway.link()).of(f.ExecuteEvent, request)]
        said.append(msgspec.json.encode(result))
        for form in (value.encode(), base64.b64encode(value.encode())):
            assert not [text for text in said if form in text]
    finally:
        await agent.stop()


async def test_what_is_not_passed_is_said_once_by_name(gateway: FakeGateway, tmp_path: Path) -> None:
    agent = await started(gateway, tmp_path, settings=AgentSettings(drain_ms=0, env_passthrough=("HTTP_*",)))
    try:
        script = 'echo "${OPENAI_API_KEY-none} ${DATABASE_URL-none} $HTTP_REGION"'
        asked = shell(script, envPassthroughAllowlist=["OPENAI_API_KEY", "DATABASE_URL", "HTTP_REGION"])
        request = await gateway.dispatch("agent.execute", asked)
        result = await gateway.result(request)
        assert decoded(result.output)["stdout"] == "none none eu-west\n"
        events = [frame.event for frame in (await gateway.link()).of(f.ExecuteEvent, request)]
        told = [event for event in events if event.kind == "log"]
        assert [decoded(event.payload) for event in told] == [{"names": ["OPENAI_API_KEY", "DATABASE_URL"]}]
        assert "sk-live" not in str(told)
    finally:
        await agent.stop()


def test_managed_agent_passes_nothing_that_its_operator_did_not_name() -> None:
    assert allowed((), "managed") == ()
    assert allowed(("A",), "managed") == ("A",)
    assert allowed((), "byon") == ("*",)
