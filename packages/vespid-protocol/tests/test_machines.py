"""The tables of connection, lease and journal: what they promise as tables, and the lease walked by hypothesis."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vespid_protocol import connection, journal, lease
from vespid_protocol.machine import IllegalTransition, diagram, markdown

WIRE_EVENTS = (
    lease.Event.DECLINE,
    lease.Event.RECEIVED,
    lease.Event.RESULT,
    lease.Event.REMOTE_EVENT,
    lease.Event.HELLO_LISTS,
)
LIVE = (lease.State.DISPATCHED, lease.State.RECEIVED, lease.State.CANCELLING)


def holding(state: lease.State, **fields: object) -> lease.Lease:
    return lease.Lease(
        state=state,
        executor_id="x",
        lease_epoch=2,
        placements=2,
        act_by=1000,
        wait_until=5000,
        **fields,  # type: ignore[arg-type]
    )


def happening(event: lease.Event, **fields: object) -> lease.Happening:
    return lease.Happening(event=event, **{"now": 10, "executor_id": "x", "lease_epoch": 2, **fields})  # type: ignore[arg-type]


# --- tables ----------------------------------------------------------------------------------------------------------


def test_every_state_of_every_machine_is_reached_from_its_start() -> None:
    for rows, start, states in (
        (lease.ROWS, "none", set(lease.State)),
        (journal.ROWS, "none", set(journal.State)),
        (connection.ROWS, "authenticating", set(connection.State)),
    ):
        reached: set[str] = {start}
        for _ in states:
            reached |= {str(row.target) for row in rows if row.target and reached & set(row.sources)}
        assert reached == {str(state) for state in states}


def test_frames_about_a_lease_are_answered_in_every_state() -> None:
    for event in WIRE_EVENTS:
        for state in set(lease.State) - {lease.State.NONE}:
            lease.step(holding(state), happening(event))


def test_terminal_leases_never_change() -> None:
    for state in lease.TERMINAL:
        for event in lease.Event:
            before = holding(state)
            try:
                after = lease.step(before, happening(event)).lease
            except IllegalTransition:
                continue
            assert after == before


@pytest.mark.parametrize("event", [lease.Event.UNSENT, lease.Event.ACT_BY])
def test_illegal_transition_raises_and_changes_nothing(event: lease.Event) -> None:
    before = holding(lease.State.SUCCEEDED)
    with pytest.raises(IllegalTransition, match=r"lease: no .* in succeeded"):
        lease.step(before, happening(event))
    assert before == holding(lease.State.SUCCEEDED)


def test_illegal_transitions_of_the_other_machines_raise() -> None:
    with pytest.raises(IllegalTransition):
        connection.find(connection.State.CONNECTED, connection.Event.EXECUTE)
    with pytest.raises(IllegalTransition):
        connection.find(connection.State.CLOSED, connection.Event.RESULT)
    with pytest.raises(IllegalTransition):
        journal.find(journal.State.STARTED, journal.Event.START)


def test_closed_is_final_and_every_way_there_unregisters() -> None:
    for row in connection.ROWS:
        assert connection.State.CLOSED not in row.sources or row.target is None
        if row.target is connection.State.CLOSED and connection.State.AUTHENTICATING not in row.sources:
            assert connection.Effect.UNREGISTER in row.effects


def test_nothing_but_a_first_execute_runs_anything() -> None:
    runs = [row for row in journal.ROWS if journal.Effect.RUN in row.effects]
    assert [(row.event, row.sources) for row in runs] == [(journal.Event.EXECUTE, (journal.State.NONE,))]
    starts = [row.sources for row in journal.ROWS if row.target is journal.State.STARTED]
    assert starts == [(journal.State.ACCEPTED,)]


def test_a_result_leaves_the_journal_only_by_ack_or_age() -> None:
    leaving = {row.event for row in journal.ROWS if journal.State.FINISHED in row.sources and row.target is not None}
    assert leaving == {journal.Event.ACK, journal.Event.EXPIRE}


def test_pictures_hold_every_change_of_state() -> None:
    picture = diagram(lease.ROWS, lease.State.NONE)
    assert "pending --> dispatched: grant [may_hold]" in picture
    assert "cancelled --> [*]" in picture
    assert markdown(lease.ROWS).count("\n") == len(lease.ROWS) + 1


# --- the lease, row by row where it is subtle ------------------------------------------------------------------------


@pytest.mark.promise("P4")
@pytest.mark.parametrize("event", [*WIRE_EVENTS, lease.Event.UNSENT, lease.Event.LOST, lease.Event.HELLO_OMITS])
@pytest.mark.parametrize("who", [{"lease_epoch": 1}, {"lease_epoch": 3}, {"executor_id": "y"}, {"executor_id": None}])
def test_who_does_not_hold_the_lease_changes_nothing(event: lease.Event, who: dict[str, object]) -> None:
    for state in (lease.State.PENDING, *LIVE):
        before = holding(state)
        try:
            outcome = lease.step(before, happening(event, seq=99, succeeded=True, **who))
        except IllegalTransition:
            continue
        assert outcome.lease == before
        assert lease.Effect.APPLY not in outcome.effects


@pytest.mark.promise("P2")
def test_late_result_is_good_until_somebody_else_was_granted() -> None:
    lost = lease.step(holding(lease.State.RECEIVED, on_lost="resend"), happening(lease.Event.LOST)).lease
    assert lost.state is lease.State.PENDING
    assert lease.step(lost, happening(lease.Event.RESULT, succeeded=True)).lease.state is lease.State.SUCCEEDED
    moved = lease.step(lost, happening(lease.Event.GRANT, executor_id="y")).lease
    late = lease.step(moved, happening(lease.Event.RESULT, succeeded=True))
    assert late.lease == moved
    assert late.effects == (lease.Effect.ACK, lease.Effect.DISCARD)


def test_frame_without_epoch_counts_as_the_holders_last() -> None:
    outcome = lease.step(holding(lease.State.RECEIVED), happening(lease.Event.RESULT, lease_epoch=None, succeeded=True))
    assert outcome.lease.state is lease.State.SUCCEEDED


def test_third_placement_is_the_last() -> None:
    last = holding(lease.State.RECEIVED, on_lost="resend")
    last = lease.step(last, happening(lease.Event.LOST)).lease
    last = lease.step(last, happening(lease.Event.GRANT)).lease
    ended = lease.step(last, happening(lease.Event.LOST, lease_epoch=None)).lease
    assert (ended.placements, ended.state, ended.error) == (3, lease.State.FAILED, "AGENT_DISCONNECTED")


@pytest.mark.parametrize(
    ("on_lost", "pinned", "loss", "state"),
    [
        ("fail", False, lease.Loss.LEASE_EXPIRED, lease.State.FAILED),
        ("resend", False, lease.Loss.ANOTHER_JOURNAL, lease.State.PENDING),
        ("resend", True, lease.Loss.LEASE_EXPIRED, lease.State.FAILED),
        ("wait", False, lease.Loss.LEASE_EXPIRED, lease.State.RECEIVED),
        ("wait", False, lease.Loss.OMITTED, lease.State.RECEIVED),
        ("wait", False, lease.Loss.REVOKED, lease.State.FAILED),
        ("wait", False, lease.Loss.ANOTHER_JOURNAL, lease.State.FAILED),
    ],
)
def test_on_lost_decides_what_a_loss_does(on_lost: str, pinned: bool, loss: lease.Loss, state: lease.State) -> None:
    before = holding(lease.State.RECEIVED, on_lost=on_lost, pinned=pinned)
    assert lease.step(before, happening(lease.Event.LOST, loss=loss)).lease.state is state


def test_deadline_of_a_lost_holder_says_disconnected() -> None:
    waiting = lease.step(holding(lease.State.RECEIVED, on_lost="wait"), happening(lease.Event.LOST)).lease
    assert lease.step(waiting, happening(lease.Event.ACT_BY, now=1000)).lease.error == "AGENT_DISCONNECTED"
    heard = lease.step(waiting, happening(lease.Event.HELLO_LISTS)).lease
    assert lease.step(heard, happening(lease.Event.ACT_BY, now=1000)).lease.error == "NODE_EXECUTION_TIMEOUT"
    declined = lease.step(waiting, happening(lease.Event.DECLINE)).lease
    assert lease.step(declined, happening(lease.Event.ACT_BY, now=5000)).lease.error == "NO_AGENT_AVAILABLE"


def test_declines_do_not_stretch_the_wait() -> None:
    before = holding(lease.State.DISPATCHED)
    assert lease.step(before, happening(lease.Event.DECLINE)).lease.act_by == before.wait_until


def test_repeated_events_are_appended_once() -> None:
    first = lease.step(holding(lease.State.RECEIVED), happening(lease.Event.REMOTE_EVENT, seq=4))
    again = lease.step(first.lease, happening(lease.Event.REMOTE_EVENT, seq=4))
    assert first.effects == (lease.Effect.APPEND_EVENT,)
    assert again.effects == (lease.Effect.DISCARD,)


HAPPENINGS = st.builds(
    lease.Happening,
    event=st.sampled_from(lease.Event),
    now=st.integers(0, 2_000_000),
    executor_id=st.sampled_from(["x", "y"]),
    lease_epoch=st.none() | st.integers(0, 4),
    succeeded=st.booleans(),
    seq=st.integers(0, 3),
    loss=st.sampled_from(lease.Loss),
    same_request=st.booleans(),
    may_hold=st.booleans(),
    nothing_written=st.booleans(),
    revoked=st.booleans(),
)


@settings(max_examples=300)
@given(st.lists(HAPPENINGS, max_size=40), st.sampled_from(["fail", "resend", "wait"]))
@pytest.mark.promise("P2")
@pytest.mark.promise("P4")
def test_any_walk_keeps_the_leases_laws(walk: list[lease.Happening], on_lost: str) -> None:
    now = lease.step(
        lease.Lease(on_lost=on_lost),  # type: ignore[arg-type]
        lease.Happening(event=lease.Event.DISPATCH, now=0),
    ).lease
    applied = 0
    for event in walk:
        try:
            outcome = lease.step(now, event)
        except IllegalTransition:
            continue
        then = outcome.lease
        applied += lease.Effect.APPLY in outcome.effects
        # The epoch grows by one, at a grant, and only there does the holder change.
        granted = event.event is lease.Event.GRANT and then.state is not now.state
        assert then.lease_epoch == now.lease_epoch + granted
        assert granted or then.executor_id == now.executor_id
        assert 0 <= then.placements <= lease.MAX_PLACEMENTS
        # Somebody acts by some moment, until it is over; and over is over.
        assert (then.act_by is None) == (then.state in lease.TERMINAL)
        assert (then.state is lease.State.FAILED) == (then.error is not None)
        assert now.state not in lease.TERMINAL or then == now
        now = then
    assert applied == (now.state in lease.TERMINAL)
