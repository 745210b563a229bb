"""The client socket's frames: goldens as the contract writes them, limits, and the field that is named."""

from __future__ import annotations

import contextlib
import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vespid_protocol import client_frames as f
from vespid_protocol.codec import FrameInvalid, Unknown, decode_client_frame, encode

SESSION = "0190b6a2-7a9e-7c1b-8a51-6d6ef1f0a002"
HOST = "0190b6a2-7a9e-7c1b-8a51-6d6ef1f0a003"
AT = "2026-01-02T03:04:05.678Z"
ATTACHMENT = {"name": "a.md", "mimeType": "text/markdown", "contentText": "# A", "metadata": {"pages": 1}}
LINK = {"name": "x.png", "mimeType": "image/png", "contentUrl": "https://files.test/x.png"}

# What programs of other makes send: each must decode, and encode to the same again.
CLIENT_GOLDENS: list[dict[str, object]] = [
    {"type": "client_hello"},
    {"type": "client_hello", "clientVersion": "1.2.3"},
    {"type": "session_join", "sessionId": SESSION},
    {"type": "session_join", "sessionId": SESSION, "afterSeq": 0},
    {"type": "session_send", "sessionId": SESSION, "message": "Hello"},
    {
        "type": "session_send",
        "sessionId": SESSION,
        "message": "Hello",
        "attachments": [ATTACHMENT, LINK],
        "idempotencyKey": "k",
    },
    {"type": "session_cancel", "sessionId": SESSION},
    {"type": "session_reset_agent", "sessionId": SESSION},
    {"type": "session_reset_agent", "sessionId": SESSION, "mode": "clear_history"},
    {"type": "session_leave", "sessionId": SESSION},
]
SERVER_GOLDENS: list[tuple[msgspec.Struct, dict[str, object]]] = [
    (f.SessionAck(session_id=SESSION), {"type": "session_ack", "sessionId": SESSION}),
    (
        f.SessionAck(session_id=SESSION, user_event_seq=2),
        {"type": "session_ack", "sessionId": SESSION, "userEventSeq": 2},
    ),
    (
        f.SessionState(
            session_id=SESSION,
            pinned_executor_id=None,
            pinned_executor_pool=None,
            pinned_agent_id=None,
            routed_agent_id=None,
            scope="main",
            execution_mode="pinned-node-host",
        ),
        {
            "type": "session_state",
            "sessionId": SESSION,
            "pinnedExecutorId": None,
            "pinnedExecutorPool": None,
            "pinnedAgentId": None,
            "routedAgentId": None,
            "scope": "main",
            "executionMode": "pinned-node-host",
        },
    ),
    (
        f.SessionEventV2(
            session_id=SESSION,
            seq=1,
            event_type="tool_call",
            level="warn",
            payload=msgspec.Raw(b"null"),
            created_at=AT,
        ),
        {
            "type": "session_event_v2",
            "sessionId": SESSION,
            "seq": 1,
            "eventType": "tool_call",
            "level": "warn",
            "payload": None,
            "createdAt": AT,
        },
    ),
    (
        f.AgentDelta(session_id=SESSION, seq=2, content="Hel", created_at=AT),
        {"type": "agent_delta", "sessionId": SESSION, "seq": 2, "content": "Hel", "createdAt": AT},
    ),
    (
        f.AgentFinal(session_id=SESSION, seq=3, content="Hello", payload=msgspec.Raw(b'{"n":1}'), created_at=AT),
        {
            "type": "agent_final",
            "sessionId": SESSION,
            "seq": 3,
            "content": "Hello",
            "payload": {"n": 1},
            "createdAt": AT,
        },
    ),
    (f.SessionErrorFrame(code="X", message="y"), {"type": "session_error", "code": "X", "message": "y"}),
    (
        f.SessionErrorFrame(code="X", message="y", session_id=SESSION),
        {"type": "session_error", "sessionId": SESSION, "code": "X", "message": "y"},
    ),
]


@pytest.mark.parametrize("golden", CLIENT_GOLDENS, ids=lambda g: str(g["type"]))
def test_a_clients_frame_decodes_and_encodes_to_the_same(golden: dict[str, object]) -> None:
    frame = decode_client_frame(json.dumps(golden))
    assert json.loads(encode(frame)) == golden
    assert decode_client_frame(json.dumps(golden | {"more": [1]})) == frame


@pytest.mark.parametrize(("frame", "golden"), SERVER_GOLDENS, ids=lambda g: type(g).__name__)
def test_what_a_client_is_told_is_spelled_as_in_the_contract(frame: Any, golden: dict[str, object]) -> None:
    assert json.loads(encode(frame)) == golden


def test_every_frame_has_a_golden() -> None:
    assert {type(decode_client_frame(json.dumps(golden))) for golden in CLIENT_GOLDENS} == set(get_args(f.ClientFrame))
    assert {type(frame) for frame, _ in SERVER_GOLDENS} == set(get_args(f.ServerFrame))


def test_a_frame_of_an_unknown_type_is_not_an_error() -> None:
    assert isinstance(decode_client_frame('{"type":"session_dance","sessionId":1}'), Unknown)
    # What only the gateway says is unknown from a client.
    assert isinstance(decode_client_frame(json.dumps({"type": "session_ack", "sessionId": SESSION})), Unknown)


def send(**fields: object) -> str:
    return json.dumps({"type": "session_send", "sessionId": SESSION, "message": "x"} | fields)


@pytest.mark.parametrize("letter", ["x", "é", "漢", "\U0001f600"])
def test_a_message_is_bounded_by_characters_and_not_by_bytes(letter: str) -> None:
    frame = decode_client_frame(send(message=letter * 50_000))
    assert isinstance(frame, f.SessionSend)
    assert len(frame.message) == 50_000
    with pytest.raises(FrameInvalid) as refused:
        decode_client_frame(send(message=letter * 50_001))
    assert refused.value.field == "message"
    assert refused.value.session_id == SESSION


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"message": ""}, "message"),
        ({"message": None}, "message"),
        ({"attachments": [LINK] * 33}, "attachments"),
        ({"attachments": [LINK, {"name": "x"}]}, "attachments[1].mimeType"),
        ({"attachments": [LINK | {"name": "x" * 201}]}, "attachments[0].name"),
        ({"attachments": [LINK | {"mimeType": "x" * 121}]}, "attachments[0].mimeType"),
        ({"attachments": [LINK | {"contentUrl": "x" * 2_049}]}, "attachments[0].contentUrl"),
        ({"attachments": [LINK | {"contentText": "x" * 100_001}]}, "attachments[0].contentText"),
        ({"attachments": [LINK | {"metadata": []}]}, "attachments[0].metadata"),
        ({"idempotencyKey": ""}, "idempotencyKey"),
        ({"idempotencyKey": "x" * 256}, "idempotencyKey"),
        ({"sessionId": 1}, "sessionId"),
    ],
)
def test_the_field_at_fault_is_named(fields: dict[str, object], at_fault: str) -> None:
    with pytest.raises(FrameInvalid) as refused:
        decode_client_frame(send(**fields))
    assert refused.value.field == at_fault


def test_everything_at_its_limit_is_taken() -> None:
    largest = {"name": "é" * 200, "mimeType": "x" * 120, "contentUrl": "x" * 2_048, "contentText": "漢" * 100_000}
    frame = decode_client_frame(send(attachments=[largest] * 2 + [LINK] * 30, idempotencyKey="k" * 255))
    assert isinstance(frame, f.SessionSend)
    assert frame.attachments is not None
    assert len(frame.attachments) == 32


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_frame_an_unknown_one_or_invalid(data: bytes) -> None:
    # Nothing else is raised.
    with contextlib.suppress(FrameInvalid):
        assert isinstance(decode_client_frame(data), (Unknown, *get_args(f.ClientFrame)))
