"""A session's turns at the agent's end: taken once, kept until acknowledged, stopped on request."""

from __future__ import annotations

import pytest

from vespid_protocol import effects as fx
from vespid_protocol import frames as f
from vespid_protocol import journal
from vespid_protocol.agent_peer import AgentPeer, Identity
from vespid_protocol.entries import Entry
from vespid_protocol.requests import Effects

SESSION = "0190b6a2-7a9e-7c1b-8a51-6d6ef1f0a002"
TURN = f"{SESSION}:turn:4:1"
IDENTITY = Identity(
    agent_version="1", name="n", instance_id="i", journal_id="j", capabilities=f.Capabilities(max_in_flight=2)
)
WELCOME = f.Welcome(
    protocol_version=2,
    connection_epoch=1,
    executor_id="x",
    organization_id="o",
    server_time="",
    heartbeat_ms=10_000,
    stale_ms=60_000,
    lease_ms=45_000,
    max_frame_bytes=1 << 22,
    max_in_flight=10,
    tags=(),
)


def connected(*entries: Entry, v2: bool = True) -> AgentPeer:
    peer = AgentPeer(IDENTITY, entries, random=lambda: 0.5)
    peer.opened(0, 0)
    if v2:
        peer.receive(WELCOME, 0)
    return peer


def turn(request_id: str = TURN) -> f.SessionTurn:
    return f.SessionTurn(
        request_id=request_id,
        organization_id="o",
        session_id=SESSION,
        session_key="k",
        user_id="u",
        event_seq=4,
        message="hi",
    )


def cancel(request_id: str = TURN) -> f.SessionCancel:
    return f.SessionCancel(request_id=request_id, organization_id="o", session_id=SESSION)


def final(request_id: str = TURN) -> f.TurnFinal:
    return f.TurnFinal(request_id=request_id, session_id=SESSION, content="hello")


def begin(peer: AgentPeer, request_id: str = TURN) -> None:
    assert peer.receive(turn(request_id), 0) == (fx.Deliver(turn(request_id)),)
    assert peer.may_start(request_id, 0)


def codes(effects: Effects) -> list[str]:
    sent = [effect.frame for effect in effects if isinstance(effect, fx.Send)]
    return [frame.code for frame in sent if isinstance(frame, f.TurnError)]


@pytest.mark.promise("P8")
def test_repeated_turn_joins_what_runs_and_is_answered_from_the_journal_after_its_end() -> None:
    peer = connected()
    begin(peer)
    assert peer.receive(turn(), 1) == ()
    assert not peer.may_start(TURN, 1)
    assert peer.finish(final(), 2) == (fx.Send(final()),)
    assert peer.receive(turn(), 3) == (fx.Answer(TURN, None),)
    assert peer.receive(f.ExecuteAck(request_id=TURN), 4) == (fx.Bury(TURN),)
    assert codes(peer.receive(turn(), 5)) == ["AGENT_DISCONNECTED"]


@pytest.mark.promise("P8")
def test_running_turn_is_listed_in_flight_without_a_lease_and_its_end_is_sent_until_acknowledged() -> None:
    peer = connected()
    begin(peer)
    (told,) = peer.opened(5, 0)
    assert isinstance(told, fx.Send)
    assert isinstance(told.frame, f.Hello)
    assert told.frame.in_flight == (f.InFlight(request_id=TURN),)
    peer.closed(1006, "", 6)
    assert peer.finish(final(), 7) == ()
    (told, answer) = peer.opened(8, 0)
    assert isinstance(told, fx.Send)
    assert isinstance(told.frame, f.Hello)
    assert told.frame.unacked == (TURN,)
    assert answer == fx.Answer(TURN, None)


def test_turns_and_executions_share_the_room_and_a_declined_turn_stays_declined() -> None:
    peer = connected()
    begin(peer, "a")
    begin(peer, "b")
    assert codes(peer.receive(turn("c"), 0)) == ["EXECUTOR_OVER_CAPACITY"]
    peer.finish(final("a"), 1)
    assert codes(peer.receive(turn("c"), 2)) == ["EXECUTOR_OVER_CAPACITY"]
    assert peer.receive(turn("d"), 3) == (fx.Deliver(turn("d")),)
    assert codes(peer.decline("d", 4)) == ["EXECUTOR_OVER_CAPACITY"]
    assert peer.in_flight == 1
    assert codes(peer.receive(turn("d"), 5)) == ["EXECUTOR_OVER_CAPACITY"]


def test_draining_agent_takes_no_turn() -> None:
    peer = connected()
    peer.drain("SIGTERM")
    assert codes(peer.receive(turn(), 0)) == ["EXECUTOR_OVER_CAPACITY"]


@pytest.mark.promise("P8")
def test_cancel_stops_once_and_one_that_comes_first_leaves_a_tombstone() -> None:
    peer = connected()
    begin(peer)
    assert peer.receive(cancel(), 1) == (fx.Deliver(cancel()),)
    assert peer.receive(cancel(), 1) == ()
    peer.finish(final(), 2)
    # Ended already: told all the same, so that the session's copy goes without it.
    assert peer.receive(cancel(), 3) == (fx.Deliver(cancel()), fx.Answer(TURN, None))
    effects = peer.receive(cancel("late"), 4)
    assert effects[0] == fx.Bury("late")
    assert codes(effects) == ["TURN_CANCELLED"]
    assert codes(peer.receive(turn("late"), 5)) == ["TURN_CANCELLED"]


def test_base_gateway_cancels_by_session_whatever_the_request_id_is() -> None:
    peer = connected(v2=False)
    begin(peer)
    assert peer.receive(cancel("of its own"), 1) == (fx.Deliver(cancel("of its own")),)


@pytest.mark.promise("P8")
def test_turn_that_a_restart_interrupted_is_not_volunteered_and_never_started_again() -> None:
    left = Entry(request_id=TURN, state=journal.State.STARTED, on_lost="resend")
    peer = connected(left)
    assert left.state is journal.State.ABANDONED
    assert peer.entries.in_flight() == ()
    assert peer.entries.unacknowledged() == []
    assert peer.receive(turn(), 1) == (fx.Answer(TURN, None),)


@pytest.mark.parametrize("asked", [turn(), cancel()])
def test_turn_that_an_earlier_process_ended_is_answered_as_a_turn(asked: f.SessionTurn | f.SessionCancel) -> None:
    peer = connected(Entry(request_id=TURN, state=journal.State.FINISHED))
    peer.receive(f.ExecuteAck(request_id=TURN), 1)
    assert codes(peer.receive(asked, 2)) == ["AGENT_DISCONNECTED"]


def test_turn_given_up_at_the_end_of_the_process_is_kept_for_who_asks() -> None:
    peer = connected()
    begin(peer)
    peer.abandon(TURN, 1)
    assert peer.in_flight == 0
    (told,) = peer.opened(2, 0)
    assert isinstance(told, fx.Send)
    assert isinstance(told.frame, f.Hello)
    assert told.frame.unacked == ()
    assert peer.receive(turn(), 3) == (fx.Answer(TURN, None),)
