"""Events as the frames that tell them."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest

from vespid.gateway.client import told
from vespid.gateway.client.told import Told, chunks, place_of_state, state_frame, tell
from vespid.store.sessions import SessionEventRow, SessionStanding
from vespid_protocol.ids import SessionId

SESSION = UUID("00000000-0000-4000-8000-000000000001")
HOST = UUID("00000000-0000-4000-8000-000000000002")
AT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
STAMP = "2026-01-02T03:04:05.678Z"


def row(kind: str, payload: bytes | None, level: str = "info") -> SessionEventRow:
    return SessionEventRow(SESSION, SESSION, SESSION, 7, 6, kind, level, "k", payload, AT)


def read(frame: bytes | None) -> Any:
    return None if frame is None else msgspec.json.decode(frame)


@pytest.mark.parametrize(
    "kind", ["session_created", "user_message", "agent_message", "tool_call", "agent_handoff", "agent_final", "error"]
)
def test_an_event_is_told_whole_and_its_payload_as_it_is(kind: str) -> None:
    payload = b'{"message":"x","deep":{"n":[1.50,null]},"big":12345678901234567890}'
    frame = tell(row(kind, payload, "warn")).event
    assert payload in frame
    assert read(frame) == {
        "type": "session_event_v2",
        "sessionId": str(SESSION),
        "seq": 7,
        "eventType": kind,
        "level": "warn",
        "payload": read(payload),
        "createdAt": STAMP,
    }


def test_a_message_is_acknowledged_and_nothing_else_is() -> None:
    assert read(tell(row("user_message", b"{}")).ack) == {
        "type": "session_ack",
        "sessionId": str(SESSION),
        "userEventSeq": 7,
    }
    assert tell(row("tool_call", b"{}")).ack is None


def test_an_answer_is_repeated_with_the_engines_output() -> None:
    assert read(tell(row("agent_final", b'{"message":"Hello","output":{"n":1}}')).after) == {
        "type": "agent_final",
        "sessionId": str(SESSION),
        "seq": 7,
        "content": "Hello",
        "payload": {"n": 1},
        "createdAt": STAMP,
    }
    assert read(tell(row("agent_final", b'{"message":"Hello"}')).after)["payload"] is None


def test_a_failure_is_repeated_with_its_code() -> None:
    failed = read(tell(row("error", b'{"code":"LLM_TIMEOUT","message":"slow"}')).after)
    assert failed == {
        "type": "session_error",
        "sessionId": str(SESSION),
        "code": "LLM_TIMEOUT",
        "message": "slow",
    }
    assert read(tell(row("error", b"{}")).after)["code"] == "NODE_EXECUTION_FAILED"


@pytest.mark.parametrize("payload", [None, b"[]", b'"x"', b'{"message":1,"action":[]}'])
@pytest.mark.parametrize("kind", ["agent_final", "error", "system", "user_message"])
def test_whatever_a_payload_is_its_event_is_told(kind: str, payload: bytes | None) -> None:
    assert read(tell(row(kind, payload)).event)["payload"] == read(payload)


def test_only_a_failover_and_a_restart_of_the_system_void_the_text() -> None:
    for action in ("session_executor_failover", "turn_restarted"):
        payload = msgspec.json.encode({"action": action})
        assert tell(row("system", payload)).voids_text
        # A tool may say what it likes.
        assert not tell(row("tool_call", payload)).voids_text
    assert not tell(row("system", b'{"action":"waiting"}')).voids_text


@pytest.mark.parametrize(("host", "pool"), [(None, None), (HOST, "managed"), (HOST, "byon")])
def test_where_it_lives_is_said_in_both_spellings_and_null_where_nowhere(host: UUID | None, pool: Any) -> None:
    pinned = None if host is None else str(host)
    standing = SessionStanding(7, "per-peer", host, pool, "support", None)
    assert read(state_frame(SessionId(str(SESSION)), standing)) == {
        "type": "session_state",
        "sessionId": str(SESSION),
        "pinnedExecutorId": pinned,
        "pinnedExecutorPool": pool,
        "pinnedAgentId": pinned,
        "routedAgentId": "support",
        "scope": "per-peer",
        "executionMode": "pinned-node-host",
    }


def of(*kinds: str) -> list[Told]:
    """Events of those types; `failover` and `waiting` are of the system."""
    actions = {"failover": told.FAILOVER, "waiting": "waiting"}
    return [
        Told(seq, "system" if kind in actions else kind, actions.get(kind), b"x" * 10) for seq, kind in enumerate(kinds)
    ]


@pytest.mark.parametrize(
    ("kinds", "place"),
    [
        ([], 0),
        (["user_message", "waiting"], 2),
        (["user_message", "tool_call", "agent_final"], 1),
        (["tool_call", "failover", "tool_call"], 1),
        (["user_message", "error"], 1),
    ],
)
def test_a_new_place_is_told_before_its_failover_else_before_what_its_host_says(kinds: list[str], place: int) -> None:
    assert place_of_state(of(*kinds)) == place


def test_events_are_written_in_runs_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "CHUNK_BYTES", 25)
    every = of(*["tool_call"] * 7)
    runs = [list(run) for run in chunks(every)]
    assert [len(run) for run in runs] == [3, 3, 1]
    assert [one for run in runs for one in run] == every
    assert list(chunks([])) == []
