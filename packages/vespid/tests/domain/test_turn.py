"""The table of turns: what it promises as a table, and where it is subtle. `tests/store` walks it beside Postgres."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vespid.domain import turn
from vespid.domain.turn import Event, Guard, Happening, Loss, State, Turn
from vespid_protocol.machine import IllegalTransition

FRAMES = (
    Event.TOOL_EVENT,
    Event.FINAL,
    Event.ERROR,
    Event.LOST,
    Event.HELLO_LISTS,
    Event.HELLO_ANNOUNCES,
    Event.HELLO_OMITS,
)
WITH_HOST = (State.OPENING, State.RUNNING, State.CANCELLING)


def held(state: State, **fields: object) -> Turn:
    return Turn(**{"state": state, "executor_id": "x", "turn_epoch": 2, "tries": 2, "act_by": 1000} | fields)  # type: ignore[arg-type]


def happening(event: Event, **fields: object) -> Happening:
    return Happening(**{"event": event, "now": 10, "executor_id": "x", "epoch": 2} | fields)  # type: ignore[arg-type]


def test_every_state_is_reached_from_the_start() -> None:
    reached: set[str] = {State.NONE}
    for _ in State:
        reached |= {row.target for row in turn.ROWS if row.target and reached & set(row.sources)}
    assert reached == set(State)


def test_frames_are_answered_in_every_state() -> None:
    for event in FRAMES:
        for state in set(State) - {State.NONE}:
            turn.step(held(state), happening(event))


def test_an_ended_turn_never_changes() -> None:
    for state in turn.TERMINAL:
        for event in Event:
            before = held(state)
            try:
                assert turn.step(before, happening(event)).turn == before
            except IllegalTransition:
                continue


@pytest.mark.parametrize("event", [Event.CANCEL, Event.RESET, Event.INTERRUPT, Event.ACT_BY])
def test_an_illegal_transition_raises_and_changes_nothing(event: Event) -> None:
    before = held(State.ANSWERED)
    with pytest.raises(IllegalTransition, match=r"turn: no .* in answered"):
        turn.step(before, happening(event))
    assert before == held(State.ANSWERED)


@pytest.mark.promise("P4", "P8")
@pytest.mark.parametrize("event", FRAMES)
@pytest.mark.parametrize("who", [{"epoch": 1}, {"epoch": 3}, {"executor_id": "y"}, {"executor_id": None}])
def test_who_is_not_the_host_changes_nothing(event: Event, who: dict[str, object]) -> None:
    for state in WITH_HOST:
        assert turn.step(held(state), happening(event, **who)).turn == held(state)


@pytest.mark.promise("P8")
def test_nobody_answers_a_turn_that_nobody_was_leased() -> None:
    waiting = Turn(state=State.QUEUED)
    for executor in (None, "x"):
        assert turn.step(waiting, happening(Event.FINAL, executor_id=executor, epoch=0)).turn == waiting


@pytest.mark.promise("P8")
def test_only_the_next_turn_is_leased_told_to_wait_or_failed() -> None:
    waiting = Turn(state=State.QUEUED)
    for event in (Event.LEASE, Event.WAITING, Event.UNPLACEABLE):
        known = happening(event, epoch=event is Event.LEASE, is_next=False, reason="ALL_FULL")
        assert turn.step(waiting, known).turn == waiting
    rows = [row for row in turn.ROWS if row.event is Event.LEASE and row.target]
    assert all({Guard.WANTS_HOST, Guard.IS_NEXT, Guard.IS_CURRENT, Guard.MAY_HOLD} <= set(row.guards) for row in rows)


def test_the_third_host_is_the_last() -> None:
    last = held(State.RUNNING, tries=turn.MAX_TRIES)
    ended = turn.step(last, happening(Event.LOST)).turn
    assert (ended.state, ended.error) == (State.FAILED, "AGENT_DISCONNECTED")
    assert turn.step(last, happening(Event.LOST, loss=Loss.DECLINED)).turn.state is State.OPENING


def test_declines_do_not_stretch_the_wait() -> None:
    begun = turn.step(Turn(state=State.QUEUED), happening(Event.WAITING, epoch=0, now=0, reason="ALL_FULL")).turn
    leased = turn.step(begun, happening(Event.LEASE, epoch=1, now=50_000)).turn
    declined = turn.step(leased, happening(Event.LOST, epoch=1, now=50_001, loss=Loss.DECLINED)).turn
    assert (declined.act_by, declined.waiting_reason, declined.tries) == (60_000, "ALL_FULL", 0)


def test_a_late_end_is_good_until_somebody_else_was_leased_the_turn() -> None:
    lost = turn.step(held(State.RUNNING), happening(Event.LOST)).turn
    assert turn.step(lost, happening(Event.FINAL)).turn.state is State.ANSWERED
    moved = turn.step(lost, happening(Event.LEASE, epoch=3, executor_id="y")).turn
    assert turn.step(moved, happening(Event.FINAL)).turn == moved


def test_a_host_that_comes_back_takes_its_turn_back() -> None:
    lost = turn.step(held(State.RUNNING), happening(Event.LOST)).turn
    back = turn.step(lost, happening(Event.HELLO_LISTS)).turn
    assert (back.state, back.executor_id, back.tries) == (State.RUNNING, "x", 2)


HAPPENINGS = st.builds(
    Happening,
    event=st.sampled_from(sorted(set(Event) - {Event.SEND})),
    now=st.integers(0, 200_000),
    executor_id=st.sampled_from(["x", "y"]),
    epoch=st.integers(0, 4),
    is_next=st.booleans(),
    may_hold=st.booleans(),
    is_newest=st.booleans(),
    is_base=st.booleans(),
    loss=st.sampled_from(Loss),
    reason=st.sampled_from(["ALL_FULL", "QUOTA"]),
    code=st.just("X"),
)


@pytest.mark.promise("P8")
@settings(max_examples=300)
@given(st.lists(HAPPENINGS, max_size=40), st.sampled_from(["rerun", "fail"]))
def test_any_walk_keeps_the_laws_of_turns(walk: list[Happening], on_lost: str) -> None:
    now = turn.step(Turn(on_host_lost=on_lost), Happening(event=Event.SEND, now=0)).turn  # type: ignore[arg-type]
    ends = 0
    for event in walk:
        try:
            outcome = turn.step(now, event)
        except IllegalTransition:
            continue
        then = outcome.turn
        ends += bool({turn.Effect.TELL_ANSWER, turn.Effect.TELL_ERROR} & set(outcome.effects))
        leased = event.event is Event.LEASE and then != now
        assert then.turn_epoch == now.turn_epoch + leased
        assert 0 <= then.tries <= turn.MAX_TRIES
        # With a host it is acted upon by some moment, and over is over.
        assert then.executor_id is None or then.state in turn.TERMINAL or then.act_by is not None
        assert now.state not in turn.TERMINAL or then == now
        assert (then.error is None) == (then.state not in (State.FAILED, State.CANCELLED))
        now = then
    assert ends == (now.state in turn.TERMINAL)
