"""A node's payload as a turn, and its answer as the node's output."""

from typing import Any

import msgspec
import pytest

from vespid_runtime.engines.echo import EchoEngine
from vespid_runtime.engines.engine import EngineError, TurnAnswer, TurnRequest
from vespid_runtime.engines.node import node_output, read_payload, turn_of

RUN = "0199a000-0000-7000-8000-000000000001"


class Silent:
    def delta(self, text: str) -> None:
        pass

    def event(self, kind: str, level: str, message: str | None, payload: object) -> None:
        pass

    async def keep(self, state: bytes) -> None:
        pass


def payload(**config: Any) -> bytes:
    config = {"engine": {"id": "vespid.echo.v1"}, "prompt": {"instructions": "do it"}} | config
    return msgspec.json.encode(
        {"nodeId": "n1", "node": {"id": "n1", "type": "agent.run", "config": config}, "runId": RUN}
    )


def turn(**config: Any) -> TurnRequest:
    return turn_of(
        read_payload(payload(**config)), request_id=f"{RUN}:n1:2", organization_id="o", user_id="u", timeout_ms=60_000
    )


def test_the_message_is_the_instructions_and_what_they_are_about() -> None:
    assert (turn().message, turn().session_id) == ("do it", None)
    request = turn(prompt={"instructions": "be kind", "inputTemplate": "ticket 7", "system": "you are a clerk"})
    assert (request.message, request.config.prompt.system) == ("be kind\n\nticket 7", "you are a clerk")


def test_a_retry_has_the_key_of_the_first_try() -> None:
    assert turn().idempotency_key == f"{RUN}:n1"


@pytest.mark.parametrize(("asked", "limit"), [(None, 60_000), (5_000, 5_000), (90_000, 60_000)])
def test_a_turn_has_the_time_of_its_node_at_most(asked: int | None, limit: int) -> None:
    request = turn() if asked is None else turn(limits={"timeoutMs": asked, "maxToolCalls": 0})
    assert request.config.limits.timeout_ms == limit


def test_the_holders_own_state_comes_before_the_payloads() -> None:
    document = read_payload(payload()[:-1] + b',"resume":{"turns":1}}')
    common: dict[str, Any] = {"request_id": "r:n1:1", "organization_id": "o", "user_id": "u", "timeout_ms": 1}
    assert turn_of(document, **common).resume == b'{"turns":1}'
    assert turn_of(document, resume=b"{}", **common).resume == b"{}"


def test_rules_of_approval_come_with_the_node() -> None:
    request = turn(tools={"allow": [], "approval": {"shell.*": {"by": "owner", "timeoutMs": 5_000}}})
    rule = request.approvals.rule("shell.run")
    assert rule is not None
    assert (rule.by, request.approvals.rule("memory.get")) == ("owner", None)


def test_the_output_says_what_was_asked_for() -> None:
    usage = {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}
    answer = TurnAnswer('{"a":1}', {"usage": usage, "stopReason": "stop"}, value={"a": 1})
    assert node_output("e", turn(), TurnAnswer("hi")) == {"engineId": "e", "text": "hi"}
    expected = {"engineId": "e", "json": {"a": 1}, "usage": usage, "stopReason": "stop"}
    assert node_output("e", turn(output={"mode": "json"}), answer) == expected


async def test_echo_answers_json_where_that_is_asked_for() -> None:
    request = turn(prompt={"instructions": "[1]"}, output={"mode": "json"})
    assert (await EchoEngine().turn(request, Silent())).value == [1]
    with pytest.raises(EngineError, match="not JSON"):
        await EchoEngine().turn(turn(output={"mode": "json"}), Silent())
