"""What agents tell of tokens beside their answers: priced, recorded with the commit, and never in an answer's way."""

from typing import Any

import asyncpg
import pytest
from prometheus_client import REGISTRY
from tests.support.executor import ScriptedExecutor
from tests.support.gateways import Fleet, Gateway, dispatch_body
from tests.support.talk import Talk

from vespid_protocol.ids import OrgId

from .test_turns import answered, final, host, opened, talk

__all__ = ["talk"]

PRICES = '{"openai/gpt-*": {"inputPerMillion": 2, "outputPerMillion": 10}}'
TOKENS = {"inputTokens": 1000, "outputTokens": 100, "totalTokens": 1100}


@pytest.fixture
async def gateway(fleet: Fleet) -> Gateway:
    return await fleet.gateway(model_prices=PRICES)


@pytest.fixture
async def scripted(fleet: Fleet, gateway: Gateway, org: OrgId) -> ScriptedExecutor:
    return await host(fleet, gateway, org)


async def rows(fleet: Fleet) -> list["asyncpg.Record"]:
    return list(await fleet.ground.sql.fetch("select * from model_usage order by recorded_at"))


async def answer(gateway: Gateway, scripted: ScriptedExecutor, org: OrgId, output: Any, **others: Any) -> str:
    """An agent's answer to a dispatched request, acknowledged; the request's id."""
    body = dispatch_body(org, kind="agent.run", nodeType="agent.run")
    assert (await gateway.dispatch_async(body)).status == 201
    execute = await scripted.next("execute")
    await scripted.result(execute, output, **others)
    await scripted.next("execute_ack")
    return str(execute["requestId"])


async def test_an_answer_is_recorded_at_the_price_of_its_model(
    fleet: Fleet, gateway: Gateway, scripted: ScriptedExecutor, org: OrgId
) -> None:
    before = REGISTRY.get_sample_value("vespid_usage_tokens_total", {"direction": "input"}) or 0
    told = {"engineId": "vespid.loop.v1", "text": "hi", "provider": "openai", "model": "gpt-5", "usage": TOKENS}
    await answer(gateway, scripted, org, told)
    # What the engine says of its cost counts where nobody has said a price, and only there.
    await answer(gateway, scripted, org, told | {"costUsd": 99})
    await answer(gateway, scripted, org, told | {"model": "o9", "costUsd": 0.5})
    await answer(gateway, scripted, org, told | {"model": "o9"}, status="failed", error="NODE_EXECUTION_FAILED")
    kept = await rows(fleet)
    assert [(row["model"], row["cost_micros"]) for row in kept] == [
        ("gpt-5", 3000),
        ("gpt-5", 3000),
        ("o9", 500_000),
        ("o9", None),
    ]
    assert {(str(row["organization_id"]), row["engine_id"], row["total_tokens"]) for row in kept} == {
        (org, "vespid.loop.v1", 1100)
    }
    assert REGISTRY.get_sample_value("vespid_usage_tokens_total", {"direction": "input"}) == before + 4000


@pytest.mark.parametrize(
    ("usage", "reason"),
    [
        ({"inputTokens": -5}, "negative"),
        ({"inputTokens": 10**30}, "too_big"),
        ({"inputTokens": "5"}, "not_numbers"),
        ("\x00", "not_numbers"),
    ],
)
async def test_what_cannot_be_is_counted_and_the_answer_stands(
    fleet: Fleet, gateway: Gateway, scripted: ScriptedExecutor, org: OrgId, usage: Any, reason: str
) -> None:
    def refused() -> float:
        return REGISTRY.get_sample_value("vespid_usage_refused_total", {"reason": reason}) or 0

    before = refused()
    request = await answer(gateway, scripted, org, {"text": "hi", "usage": usage, "model": "\x00\x1b"})
    assert (await gateway.finished(request))["status"] == "succeeded"
    assert await rows(fleet) == []
    assert refused() == before + 1


@pytest.mark.promise("P2")
async def test_a_turn_is_recorded_with_its_session_once(
    fleet: Fleet, gateway: Gateway, scripted: ScriptedExecutor, org: OrgId, talk: Talk
) -> None:
    await talk.send("hello")
    turn = await opened(scripted)
    told = {"provider": "openai", "model": "gpt-5", "usage": TOKENS}
    for _ in range(2):
        # Sent again, as after a lost acknowledgement.
        await final(scripted, turn, payload=told)
    assert (await answered(talk, 2))["output"] == told
    (row,) = await rows(fleet)
    assert (str(row["session_id"]), row["turn_seq"], row["run_id"], row["node_id"]) == (talk.id, 2, None, None)
    assert (str(row["organization_id"]), row["cost_micros"], row["input_tokens"]) == (org, 3000, 1000)
