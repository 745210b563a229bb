"""What must hold of everything that was ever said in sessions, checked over the rows that are left.

For sessions whose messages are made by `message` and answered by the scripted engine: each answer tells what its turn
was given, so that it can be compared with what stands in the history.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import asyncpg
from tests.support.chat import script

from vespid_agent.testing.scripted_engine import digest

_SESSIONS = "select id::text, event_seq, last_turn_seq from sessions"
_EVENTS = """
    select session_id::text as session, seq, turn_seq, event_type, idempotency_key as key, payload::text
    from session_events order by session_id, seq
"""
_TURNS = """
    select session_id::text as session, user_seq, turn_epoch, state, finished_at is not null as ended from session_turns
"""
_ANSWERS = ("agent_final", "error")
_STATES = {"answered": "agent_final", "failed": "error", "cancelled": "error"}
MEMORY = "memory/said.md"

# By session: the seq under which each key was accepted, as its sender was told.
Accepted = Mapping[str, Mapping[str, int]]


def message(name: str, marks: str, *during: dict[str, object]) -> str:
    """A turn that marks its beginning, adds its name to the memory, and tells what it was given."""
    return script(
        {"touch": marks},
        {"request": True},
        {"say": "|"},
        {"seen": True},
        {"say": "|"},
        *during,
        {"remember": MEMORY, "content": f"{name}\n", "append": True},
        {"recall": MEMORY},
        {"say": f"|{name}"},
    )


async def check_sessions(connection: "asyncpg.Connection[Any]", accepted: Accepted, starts: Iterable[str]) -> int:
    """Raises AssertionError with what is wrong; answers how many messages were answered by their turn.

    P8: every accepted message stands once and is answered once, in order, by the newest try alone; an answered turn had
    seen all that came before it, and what earlier answers remember is remembered once. Events are numbered without
    gaps, no try was begun twice, and nothing is in flight.
    """
    sessions = {row["id"]: row for row in await connection.fetch(_SESSIONS)}
    assert accepted.keys() <= sessions.keys()
    turns: dict[str, dict[int, Any]] = {}
    for turn in await connection.fetch(_TURNS):
        turns.setdefault(turn["session"], {})[turn["user_seq"]] = turn
    assert [(s, seq) for s, own in turns.items() for seq, turn in own.items() if not turn["ended"]] == [], "live turns"
    events: dict[str, list[Any]] = {}
    for event in await connection.fetch(_EVENTS):
        events.setdefault(event["session"], []).append(event)

    twice = {request: count for request, count in Counter(starts).items() if count > 1}
    assert twice == {}, "tries that were begun twice"
    answered = 0
    for session_id, keys in accepted.items():
        session = sessions[session_id]
        _check_numbers(session, events[session_id])
        _check_messages(session_id, events[session_id], keys)
        _check_answers(session_id, events[session_id], turns[session_id])
        answered += _check_what_turns_saw(session_id, events[session_id], turns[session_id])
    return answered


def _check_numbers(session: Any, events: list[Any]) -> None:
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1)), f"gaps in {session['id']}"
    assert session["event_seq"] == len(events), f"events of {session['id']} were lost"


def _check_messages(session_id: str, events: list[Any], keys: Mapping[str, int]) -> None:
    messages = [e for e in events if e["event_type"] == "user_message"]
    doubled = [key for key, count in Counter(e["key"] for e in messages).items() if count > 1]
    assert doubled == [], f"messages that stand twice in {session_id}"
    stand = {e["key"]: e["seq"] for e in messages}
    assert {key: stand.get(key) for key in keys} == keys, f"accepted messages of {session_id} are not as was told"


def _check_answers(session_id: str, events: list[Any], turns: Mapping[int, Any]) -> None:
    messages = [e["seq"] for e in events if e["event_type"] == "user_message"]
    ends = [e for e in events if e["event_type"] in _ANSWERS]
    assert sorted(turns) == messages, f"turns of {session_id}"
    assert [e["turn_seq"] for e in ends] == messages, f"answers of {session_id}, in order"
    for end in ends:
        state = turns[end["turn_seq"]]["state"]
        assert _STATES[state] == end["event_type"], f"message {end['turn_seq']} of {session_id} is {state}"
    over = {e["turn_seq"]: e["seq"] for e in ends}
    late = [e["seq"] for e in events if e["turn_seq"] is not None and e["seq"] > over[e["turn_seq"]]]
    assert late == [], f"events of turns of {session_id} that were over"


def _check_what_turns_saw(session_id: str, events: list[Any], turns: Mapping[int, Any]) -> int:
    """By turns, as hosts are given it: a message that came while a turn ran stands behind that one's answer."""
    said: dict[int, list[list[object]]] = {}
    for event in events:
        if event["event_type"] in ("user_message", "agent_final"):
            role = "user" if event["event_type"] == "user_message" else "assistant"
            content = digest(json.loads(event["payload"])["message"])
            said.setdefault(event["turn_seq"], []).append([event["turn_seq"], role, content])
    history: list[list[object]] = []
    remembered: list[str] = []
    answered = 0
    finals = {e["turn_seq"]: json.loads(e["payload"])["message"] for e in events if e["event_type"] == "agent_final"}
    for turn_seq in sorted(said):
        if turn_seq in finals:
            answered += 1
            request, seen, memory, name = finals[turn_seq].split("|")
            newest = f"{session_id}:turn:{turn_seq}:{turns[turn_seq]['turn_epoch']}"
            assert request == newest, f"{request} answered after it was given to {newest}"
            where = f"turn {turn_seq} of {session_id}"
            assert json.loads(seen) == history, f"{where} had seen {seen}, not {history}"
            remembered.append(name)
            assert memory.split() == remembered, f"{where} remembered {memory.split()}, not {remembered}"
        history += said[turn_seq]
    return answered
