"""When an agent comes back, and until when it may trust its leases."""

from __future__ import annotations

from vespid_protocol import effects as fx
from vespid_protocol import journal
from vespid_protocol.comeback import Comeback
from vespid_protocol.entries import Entries, Entry
from vespid_protocol.trust import Trust


def pause(comeback: Comeback) -> int:
    (again,) = comeback.closed(1006, "", 0)
    assert isinstance(again, fx.Reconnect)
    return again.after_ms


def test_pauses_grow_until_a_gateway_has_welcomed_us() -> None:
    comeback = Comeback(lambda: 0.5)
    first, second, third = pause(comeback), pause(comeback), pause(comeback)
    assert first < second < third
    comeback.welcomed()
    assert pause(comeback) == first


def test_answer_to_an_older_ping_takes_no_trust_away() -> None:
    trust = Trust()
    trust.renew(1_000, 45_000)
    trust.renew(500, 45_000)
    assert trust.holds(40_999)
    assert not trust.holds(41_000)


def test_ping_of_an_older_socket_is_answered_by_nobody() -> None:
    trust = Trust()
    trust.pinged(7, 0)
    trust.opened()
    assert trust.answered(7) is None


def test_work_that_is_stopped_for_want_of_trust_is_not_told_as_running() -> None:
    entries = Entries()
    for name, stopping in (("a", None), ("b", "trust_ended"), ("c", "cancelled")):
        entry = Entry(request_id=name, state=journal.State.NONE, stopping=stopping)
        entries.move(entry, journal.Event.EXECUTE, 0)
    assert [told.request_id for told in entries.in_flight()] == ["a", "c"]
