"""Bytes to frames and back: goldens of every frame, errors that name the field, and arbitrary bytes."""

from __future__ import annotations

import contextlib
import json
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vespid_protocol import codec
from vespid_protocol import frames as f

RUN = "0190b6a2-7a9e-7c1b-8a51-6d6ef1f0a001:n1:1"
TURN = "0190b6a2-7a9e-7c1b-8a51-6d6ef1f0a002:turn:4:1"
SESSION = "0190b6a2-7a9e-7c1b-8a51-6d6ef1f0a002"
EVENT = {"seq": 1, "ts": 1735787045678, "kind": "stdout", "level": "info", "payload": {"text": "hi", "offset": 0}}

# What peers of other makes send, as the contract writes it: each must decode, and encode to the same again.
AGENT_GOLDENS: list[dict[str, object]] = [
    {"type": "hello", "agentVersion": "1.2.3", "name": "west-1"},
    {
        "type": "hello",
        "agentVersion": "1.2.3",
        "name": "west-1",
        "capabilities": {"kinds": ["agent.execute"], "connectors": ["http"], "tags": ["east"], "maxInFlight": 4},
        "protocol": {"version": 2, "features": ["resume"]},
        "instanceId": "i-1",
        "journalId": "j-1",
        "inFlight": [{"requestId": RUN, "leaseEpoch": 3}],
        "unacked": [TURN],
        "openSessions": [{"sessionId": SESSION, "generation": 1, "historySeq": 7, "memoryVersion": 2}],
    },
    {"type": "ping", "ts": 1735787045678},
    {"type": "execute_received", "requestId": RUN},
    {"type": "execute_event", "requestId": RUN, "event": EVENT, "leaseEpoch": 1},
    {"type": "execute_result", "requestId": RUN, "status": "succeeded", "output": {"a": [1, None, "\u00e9"]}},
    {"type": "execute_result", "requestId": RUN, "status": "failed", "error": "HOST_EXIT_CODE:3", "leaseEpoch": 2},
    {"type": "draining", "reason": "SIGTERM", "deadlineMs": 30000},
    {"type": "session_opened", "requestId": TURN, "sessionId": SESSION},
    {"type": "turn_delta", "requestId": TURN, "sessionId": SESSION, "content": "Hel"},
    {"type": "turn_event", "requestId": TURN, "sessionId": SESSION, "event": EVENT},
    {
        "type": "turn_final",
        "requestId": TURN,
        "sessionId": SESSION,
        "content": "Hello",
        "payload": {"memory": [{"path": "a.md", "sha256": "00", "content": None}]},
    },
    {"type": "turn_error", "requestId": TURN, "sessionId": SESSION, "code": "LLM_TIMEOUT", "message": "slow"},
    {"type": "memory_sync_result", "requestId": TURN, "sessionId": SESSION, "status": "ok", "details": {}},
    {"type": "memory_query_result", "requestId": TURN, "sessionId": SESSION, "status": "failed", "error": "x"},
]
ABOUT = {"requestId": TURN, "organizationId": "o", "sessionId": SESSION}
GATEWAY_GOLDENS: list[dict[str, object]] = [
    {
        "type": "welcome",
        "protocolVersion": 2,
        "connectionEpoch": 9,
        "executorId": "e",
        "organizationId": None,
        "serverTime": "2026-01-02T03:04:05.678Z",
        "heartbeatMs": 10000,
        "staleMs": 60000,
        "leaseMs": 45000,
        "maxFrameBytes": 4194304,
        "maxInFlight": 10,
        "tags": ["group:g"],
    },
    {"type": "pong", "ts": 1, "serverTime": "2026-01-02T03:04:05.678Z"},
    {
        "type": "execute",
        "requestId": RUN,
        "organizationId": "o",
        "userId": "u",
        "kind": "agent.execute",
        "payload": {"nodeId": "n1"},
    },
    {
        "type": "execute",
        "requestId": RUN,
        "organizationId": "o",
        "userId": "u",
        "kind": "connector.action",
        "payload": {},
        "secret": "s",
        "leaseEpoch": 1,
        "timeoutMs": 60000,
        "onLost": "resend",
        "secrets": {"a": "b"},
        "traceparent": "00-x",
    },
    {"type": "execute_ack", "requestId": RUN},
    {"type": "execute_cancel", "requestId": RUN, "reason": "cancelled"},
    {
        "type": "session_open",
        **ABOUT,
        "sessionKey": "k",
        "routedAgentId": None,
        "userId": "u",
        "sessionConfig": {"engine": {"id": "vespid.echo.v1"}},
        "history": [{"seq": 1, "role": "user", "content": "hi"}],
        "historyFrom": 1,
        "historySeq": 1,
        "generation": 1,
        "memory": [{"path": "a.md", "sha256": "00", "content": "x", "version": 1}],
        "more": False,
    },
    {
        "type": "session_turn",
        **ABOUT,
        "sessionKey": "k",
        "userId": "u",
        "eventSeq": 4,
        "message": "m",
        "prior": [EVENT],
    },
    {"type": "session_cancel", **ABOUT},
    {
        "type": "memory_sync",
        **ABOUT,
        "sessionKey": "k",
        "provider": "builtin",
        "workspaceDir": "/w",
        "direction": "pull",
    },
    {"type": "memory_query", **ABOUT, "sessionKey": "k", "provider": "builtin", "query": "q", "limit": 50},
    {"type": "reconnect", "afterMs": 500, "reason": "draining"},
    {"type": "error", "code": "BAD_REQUEST", "message": "event.level: missing", "requestId": RUN},
]


@pytest.mark.parametrize("golden", AGENT_GOLDENS, ids=lambda golden: str(golden["type"]))
def test_agent_frames_decode_and_encode_to_the_same(golden: dict[str, object]) -> None:
    frame = codec.decode_agent_frame(json.dumps(golden))
    assert isinstance(frame, f.Frame)
    assert json.loads(codec.encode(frame)) == golden
    assert codec.decode_agent_frame(codec.encode(frame)) == frame


@pytest.mark.parametrize("golden", GATEWAY_GOLDENS, ids=lambda golden: str(golden["type"]))
def test_gateway_frames_decode_and_encode_to_the_same(golden: dict[str, object]) -> None:
    frame = codec.decode_gateway_frame(json.dumps(golden).encode())
    assert isinstance(frame, f.Frame)
    assert json.loads(codec.encode(frame)) == golden


def test_goldens_cover_every_frame_type() -> None:
    assert {golden["type"] for golden in AGENT_GOLDENS} == {f.wire_type(kind) for kind in get_args(f.AgentFrame)}
    assert {golden["type"] for golden in GATEWAY_GOLDENS} == {f.wire_type(kind) for kind in get_args(f.GatewayFrame)}


@pytest.mark.parametrize("golden", AGENT_GOLDENS + GATEWAY_GOLDENS, ids=lambda golden: str(golden["type"]))
def test_every_field_has_the_camel_case_name_of_the_contract(golden: dict[str, object]) -> None:
    assert all("_" not in key for key in golden)


def test_output_is_passed_through_byte_for_byte() -> None:
    odd = b'{"type":"execute_result","requestId":"r","status":"succeeded","output": {"b" : 1.50, "a":"\\u00e9"} }'
    frame = codec.decode_agent_frame(odd)
    assert isinstance(frame, f.ExecuteResult)
    assert isinstance(frame.output, msgspec.Raw)
    assert bytes(frame.output).strip() == b'{"b" : 1.50, "a":"\\u00e9"}'


def test_null_output_is_not_absent_output() -> None:
    with_null = codec.decode_agent_frame(
        b'{"type":"execute_result","requestId":"r","status":"succeeded","output":null}'
    )
    without = codec.decode_agent_frame(b'{"type":"execute_result","requestId":"r","status":"succeeded"}')
    assert isinstance(with_null, f.ExecuteResult)
    assert isinstance(without, f.ExecuteResult)
    assert isinstance(with_null.output, msgspec.Raw)
    assert without.output is msgspec.UNSET


def test_optional_fields_may_be_null_and_extra_fields_are_ignored() -> None:
    frame = codec.decode_agent_frame('{"type":"execute_received","requestId":"r","leaseEpoch":null,"colour":"red"}')
    assert frame == f.ExecuteReceived(request_id="r")


def test_unknown_type_is_told_apart_from_bad_shape() -> None:
    assert codec.decode_agent_frame('{"type":"telepathy","x":1}') == codec.Unknown("telepathy")
    # A gateway's frame is not an agent's.
    assert codec.decode_agent_frame('{"type":"execute_ack","requestId":"r"}') == codec.Unknown("execute_ack")


@pytest.mark.parametrize(
    ("message", "field", "request_id", "frame_type"),
    [
        (
            '{"type":"execute_event","requestId":"r","event":{"seq":1,"ts":1,"kind":"x"}}',
            "event.level",
            "r",
            "execute_event",
        ),
        ('{"type":"execute_result","requestId":"r","status":"done"}', "status", "r", "execute_result"),
        ('{"type":"execute_result","status":"failed"}', "requestId", None, "execute_result"),
        ('{"type":"execute_result","requestId":7,"status":"failed"}', "requestId", None, "execute_result"),
        (
            '{"type":"execute_result","requestId":"r","status":"failed","leaseEpoch":-1}',
            "leaseEpoch",
            "r",
            "execute_result",
        ),
        ('{"type":"ping","ts":99999999999999999999}', "ts", None, "ping"),
        ('{"type":"hello","name":"x"}', "agentVersion", None, "hello"),
        ('{"requestId":"r"}', "type", "r", None),
        ('{"type":7}', "type", None, None),
        ("[1]", "$", None, None),
        ("", "$", None, None),
        ("{", "$", None, None),
        ('{"type":"ping","type":"hello","ts":1}', "type", None, "hello"),
    ],
)
@pytest.mark.promise("P10")
def test_bad_shape_names_the_field(message: str, field: str, request_id: str | None, frame_type: str | None) -> None:
    with pytest.raises(codec.FrameInvalid) as caught:
        codec.decode_agent_frame(message)
    assert (caught.value.field, caught.value.request_id, caught.value.frame_type) == (field, request_id, frame_type)


@pytest.mark.promise("P10")
def test_bytes_that_are_not_utf8_are_refused_even_where_nothing_looks_inside() -> None:
    with pytest.raises(codec.FrameInvalid):
        codec.decode_agent_frame(b'{"type":"execute_result","requestId":"r","status":"failed","output":"\xff"}')


@pytest.mark.promise("P10")
def test_deep_nesting_is_refused() -> None:
    deep = b'{"type":"execute_result","requestId":"r","status":"succeeded","output":' + b"[" * 200_000
    with pytest.raises(codec.FrameInvalid, match="nested too deep"):
        codec.decode_agent_frame(deep + b"]" * 200_000 + b"}")


@pytest.mark.promise("P10")
def test_nul_and_lone_surrogates_are_mended_inside_passed_through_output() -> None:
    message = '{"type":"execute_result","requestId":"r","status":"succeeded","output":"a\\u0000b\\ud83dc"}'
    frame = codec.decode_agent_frame(message)
    assert isinstance(frame, f.ExecuteResult)
    assert isinstance(frame.output, msgspec.Raw)
    assert json.loads(bytes(frame.output)) == "a\ufffdb\ufffdc"
    assert codec.clean_message(message)[1] == 2


@given(st.binary(max_size=300))
@pytest.mark.promise("P10")
def test_arbitrary_bytes_decode_or_are_refused(data: bytes) -> None:
    for decode in (codec.decode_agent_frame, codec.decode_gateway_frame, codec.recover):
        with contextlib.suppress(codec.FrameInvalid):
            decode(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda x: st.lists(x),
    max_leaves=5,
)


@settings(max_examples=300)
@given(st.sampled_from(AGENT_GOLDENS), st.data())
@pytest.mark.promise("P10")
def test_a_frame_with_any_one_field_spoiled_decodes_or_is_refused(
    golden: dict[str, object], data: st.DataObject
) -> None:
    key = data.draw(st.sampled_from(sorted(golden)))
    spoiled = {**golden, key: data.draw(JSON)}
    try:
        frame = codec.decode_agent_frame(json.dumps(spoiled))
        blamed = None
    except codec.FrameInvalid as problem:
        blamed = problem.field.split(".")[0].split("[")[0]
    else:
        assert isinstance(frame, f.Frame | codec.Unknown)
    assert blamed in (None, key, "$") or key == "type"


def test_recovery_finds_whose_an_oversized_result_is() -> None:
    big = (
        b'{"output":"' + b"x" * 100 + b'","leaseEpoch":4,"type":"execute_result","requestId":"r","status":"succeeded"}'
    )
    assert codec.recover(big) == codec.Envelope("execute_result", "r", 4)


def test_recovery_is_not_fooled_by_what_the_output_holds() -> None:
    sly = json.dumps(
        {"type": "execute_result", "output": {"requestId": "other", "leaseEpoch": 9}, "requestId": "r", "leaseEpoch": 1}
    )
    assert codec.recover(sly) == codec.Envelope("execute_result", "r", 1)


def test_sizes_between_the_two_limits_are_told_from_those_beyond() -> None:
    limit = codec.MAX_FRAME_BYTES
    assert [codec.measure(size) for size in (limit, limit + 1, limit * 4, limit * 4 + 1)] == [
        codec.Size.FITS,
        codec.Size.OVER_AGREED,
        codec.Size.OVER_AGREED,
        codec.Size.OVER_HARD,
    ]
    assert codec.message_bytes("é") == 2


def test_a_result_that_does_not_fit_is_replaced() -> None:
    result = f.ExecuteResult(
        request_id="r", status="succeeded", output=msgspec.Raw(b'"' + b"x" * 500 + b'"'), lease_epoch=2
    )
    same, data = codec.fit_result(result, 1000)
    assert same is result
    assert codec.decode_agent_frame(data) == result
    smaller, data = codec.fit_result(result, 300)
    assert (smaller.status, smaller.error, smaller.lease_epoch) == ("failed", "RESULT_TOO_LARGE", 2)
    assert len(data) <= 300


def test_base_form_leaves_out_what_a_base_peer_does_not_know() -> None:
    for golden in GATEWAY_GOLDENS:
        frame = codec.decode_gateway_frame(json.dumps(golden))
        assert not isinstance(frame, codec.Unknown)
        simpler = f.base_form(frame)
        later = {"leaseEpoch", "timeoutMs", "onLost", "secrets", "traceparent", "generation", "memory", "more", "prior"}
        if simpler is None:
            assert golden["type"] in {"welcome", "execute_cancel", "reconnect", "error"}
        else:
            assert not (later | {"direction", "documents"}) & json.loads(codec.encode(simpler)).keys()


@pytest.mark.promise("P7")
def test_printing_a_frame_shows_no_secret() -> None:
    for golden in GATEWAY_GOLDENS:
        text = repr(codec.decode_gateway_frame(json.dumps({**golden, "secret": "canary", "secrets": {"a": "canary"}})))
        assert "canary" not in text
