"""The host's copy of a history, and which sessions are kept."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from vespid_agent.sessions import open_sessions, workspaces
from vespid_agent.sessions.open_sessions import OpenSessions
from vespid_agent.sessions.session import Session
from vespid_agent.sessions.tools import ToolPolicy
from vespid_protocol import frames as f
from vespid_runtime.redaction import Redactor


def sessions() -> OpenSessions:
    return OpenSessions(Redactor(()), ToolPolicy("byon", ()))


def said(*seqs: int) -> tuple[f.HistoryEntry, ...]:
    return tuple(f.HistoryEntry(seq=seq, role="user", content=str(seq)) for seq in seqs)


def frame(
    session_id: str = "s",
    history: tuple[f.HistoryEntry, ...] = (),
    *,
    seq: int = 0,
    generation: int | None = 1,
    request_id: str = "r",
    more: bool | None = None,
) -> f.SessionOpen:
    return f.SessionOpen(
        request_id=request_id,
        organization_id="o",
        session_id=session_id,
        session_key="k",
        routed_agent_id=None,
        user_id="u",
        session_config=msgspec.Raw(b'{"engine":{"id":"vespid.echo.v1"}}'),
        history=history,
        history_from=history[0].seq if history else 0,
        history_seq=seq,
        generation=generation,
        more=more,
    )


def opened(held: OpenSessions, order: f.SessionOpen) -> Session:
    result = held.open(order)
    assert result is not None
    return result.session


def seqs(session: Session) -> list[int]:
    return [entry.seq for entry in session.history]


def test_gap_is_filled_and_what_overlaps_gives_way() -> None:
    held = sessions()
    opened(held, frame(history=said(1, 2), seq=1))
    session = opened(held, frame(history=said(2, 3), seq=3, request_id="r2"))
    assert (seqs(session), session.history_seq) == ([1, 2, 3], 3)


@pytest.mark.parametrize("generation", [2, None])
def test_another_generation_forgets_what_was_here(generation: int | None) -> None:
    held = sessions()
    opened(held, frame(history=said(1, 2), seq=1))
    session = opened(held, frame(history=said(7), seq=7, generation=generation))
    assert (seqs(session), session.history_seq) == ([7], 7)


def test_answer_that_is_not_acknowledged_counts_as_missing_until_it_is() -> None:
    held = sessions()
    session = opened(held, frame(history=said(1), seq=1))
    session.answered("t", 3, "hi", "hello")
    assert session.state().history_seq == 1
    session.acknowledged("t")
    assert session.state().history_seq == 3
    session.unanswered("t")
    assert (seqs(session), session.state().history_seq) == ([1], 1)


def test_unacknowledged_answer_gives_way_to_what_the_gateway_opens_with() -> None:
    held = sessions()
    session = opened(held, frame(history=said(1), seq=1))
    session.answered("t", 3, "hi", "hello")
    opened(held, frame(request_id="r2", seq=1))
    assert seqs(session) == [1]


def test_turn_does_not_see_its_own_answer_of_an_earlier_try() -> None:
    session = opened(sessions(), frame(history=said(1), seq=1))
    session.answered("t", 3, "hi", "hello")
    assert [entry.seq for entry in session.before(3)] == [1]


def test_parts_of_an_open_belong_to_one_request_and_one_socket() -> None:
    held = sessions()
    assert held.open(frame(history=said(1), request_id="a", more=True)) is None
    assert seqs(opened(held, frame(history=said(2), request_id="b"))) == [2]
    assert held.open(frame("t", said(1), request_id="c", more=True)) is None
    held.disconnected()
    assert seqs(opened(held, frame("t", said(2), request_id="c"))) == [2]


def test_least_recently_used_session_goes_first_and_a_busy_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_sessions, "SESSIONS_MAX", 2)
    held = sessions()
    for name in ("a", "b", "c", "d"):
        opened(held, frame(name))
    assert held.get("b") is not None
    assert held.make_room({"a"})
    assert {state.session_id for state in held.states()} == {"a", "b"}
    assert not held.make_room(set())


def test_histories_beyond_their_size_go_the_longest_unused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_sessions, "HISTORY_MAX_CHARS", 4)
    held = sessions()
    opened(held, frame("a", said(1, 2)))
    opened(held, frame("b", said(1, 2)))
    assert not held.make_room(set())
    opened(held, frame("c", said(1)))
    assert held.make_room({"c"})
    assert {state.session_id for state in held.states()} == {"b", "c"}


def test_opens_that_never_come_whole_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_sessions, "_PARTS_MAX", 1)
    held = sessions()
    held.open(frame("a", said(1), more=True))
    held.open(frame("b", said(1), more=True))
    assert seqs(opened(held, frame("a", said(2)))) == [2]


def test_turns_of_two_generations_wait_for_each_other() -> None:
    held = sessions()
    older = opened(held, frame(generation=1))
    assert opened(held, frame(generation=2)).lock is older.lock


def test_only_some_search_indexes_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspaces, "WORKSPACES_MAX", 1)
    kept, organization = workspaces.Workspaces(tmp_path), "0b8d2b4e-7d0f-4d56-9a3a-0d2f9d3d6a11"
    first = kept.of(organization, "a")
    assert kept.of(organization, "a") is first
    kept.of(organization, "b")
    assert kept.of(organization, "a") is not first


def test_config_shows_no_key() -> None:
    order = msgspec.structs.replace(
        frame(),
        session_config=msgspec.Raw(
            b'{"engine":{"id":"e","authMode":"inline_api_key","auth":{"kind":"api_key","apiKey":"sk-seen-by-nobody"}}}'
        ),
    )
    session = opened(sessions(), order)
    assert session.config.secrets == ("sk-seen-by-nobody",)
    assert "sk-seen" not in repr(session) + repr(order)
