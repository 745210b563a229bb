"""How much of an agent's tools is told and kept: schemas go first, and no tool for its schema's sake."""

from __future__ import annotations

import msgspec
import pytest

from vespid_protocol import codec
from vespid_protocol.frames import Capabilities, Hello, ToolOffer, ToolProblem
from vespid_protocol.gateway_peer import GatewayPeer
from vespid_protocol.offers import (
    PROBLEMS_MAX_BYTES,
    TOOLS_MAX_BYTES,
    fit_problems,
    fit_tools,
    fitting,
)


def offers(count: int, schema: int = 0, description: int = 0) -> tuple[ToolOffer, ...]:
    raw = msgspec.Raw(msgspec.json.encode({"type": "object", "title": "x" * schema}))
    return tuple(ToolOffer(id=f"skill.s{n}", description="d" * description, input_schema=raw) for n in range(count))


def test_what_fits_is_as_it_was() -> None:
    assert fit_tools(offers(10, 1_000)) == offers(10, 1_000)


def test_too_long_schemas_are_left_out_and_descriptions_stay() -> None:
    kept = fit_tools(offers(20, 10_000, 100))
    assert [tool.id for tool in kept] == [f"skill.s{n}" for n in range(20)]
    assert {(tool.input_schema, len(tool.description)) for tool in kept} == {(msgspec.UNSET, 100)}


def test_of_too_long_descriptions_only_the_ids_stay() -> None:
    kept = fit_tools(offers(100, 0, 4_000))
    assert kept == tuple(ToolOffer(id=f"skill.s{n}") for n in range(100))


def test_of_too_many_as_many_as_fit() -> None:
    many = tuple(ToolOffer(id=f"{n:0250}") for n in range(1_000))
    assert 100 < len(fit_tools(many)) < 1_000
    assert len(msgspec.json.encode(fit_tools(many))) <= TOOLS_MAX_BYTES
    problems = tuple(ToolProblem(id=str(n), problem="p" * 1_000) for n in range(256))
    assert len(msgspec.json.encode(fit_problems(problems))) <= PROBLEMS_MAX_BYTES


@pytest.mark.promise("P10")
@pytest.mark.parametrize("schema", ["[" * 5_000 + "]" * 5_000, '{"a":' * 100 + "1" + "}" * 100, "7", "null"])
def test_a_schema_that_is_none_is_not_kept(schema: str) -> None:
    can = Capabilities(tools=(ToolOffer(id="skill.x", input_schema=msgspec.Raw(schema.encode())), *offers(1)))
    assert fitting(can).tools == (ToolOffer(id="skill.x"), *offers(1))


def test_a_hello_carries_them_and_the_peer_does_not_remember_them() -> None:
    hello = Hello(
        agent_version="1",
        name="n",
        capabilities=Capabilities(
            tools=offers(1), tool_problems=(ToolProblem(id="skill.bad", problem="why"),), max_in_flight=3
        ),
    )
    data = codec.encode(hello)
    assert b'"toolProblems":[{"id":"skill.bad","problem":"why"}]' in data
    heard = codec.decode_agent_frame(data)
    assert isinstance(heard, Hello)
    assert heard.capabilities is not None
    assert heard.capabilities.tools == offers(1)
    peer = GatewayPeer(0)
    effects = peer.receive(heard, 0)
    assert [effect.hello for effect in effects if hasattr(effect, "hello")] == [heard]
    assert peer.hello is not None
    assert peer.hello.capabilities == Capabilities(max_in_flight=3)


@pytest.mark.promise("P10")
def test_too_many_of_them_name_the_field() -> None:
    frame = {"type": "hello", "agentVersion": "1", "name": "n", "capabilities": {"tools": [{"id": "x"}] * 1_025}}
    with pytest.raises(codec.FrameInvalid) as bad:
        codec.decode_agent_frame(msgspec.json.encode(frame))
    assert bad.value.field == "capabilities.tools"
