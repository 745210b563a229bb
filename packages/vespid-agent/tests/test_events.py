from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from vespid_agent.events import GAP, KEPT_MAX, KEPT_MAX_BYTES, TOTAL_MAX_BYTES, Events
from vespid_agent.outbox import EVENTS_MAX_BYTES
from vespid_agent.testing.fake_gateway import FakeGateway
from vespid_agent.testing.payloads import decoded, shell
from vespid_agent.testing.running import InProcessAgent, appears
from vespid_protocol import frames as f


def event(seq: int, size: int = 2) -> f.Event:
    return f.Event(seq=seq, ts=0, kind="stdout", level="info", payload=msgspec.Raw(b'"' + b"x" * (size - 2) + b'"'))


@dataclass
class Wire:
    """A socket that takes so many events more."""

    room: int = 1_000_000
    taken: list[f.Event] = field(default_factory=list)

    def put(self, event: f.Event) -> bool:
        if self.room == 0:
            return False
        self.room -= 1
        self.taken.append(event)
        return True

    @property
    def said(self) -> list[int | tuple[int, int, int]]:
        """Seqs; of a gap also what it says is missing."""
        return [e.seq if e.kind != GAP else (*decoded(e.payload).values(), e.seq) for e in self.taken]  # type: ignore[misc]


@pytest.fixture
def events() -> Events:
    return Events()


def test_events_go_out_as_they_come_and_again_on_the_next_socket(events: Events) -> None:
    first, second = Wire(), Wire()
    for seq in (1, 2, 3):
        events.add("r", event(seq), first.put, 0)
    events.add("r", event(4), None, 0)
    events.replay("r", second.put, 0)
    events.add("r", event(5), second.put, 0)
    assert first.said == [1, 2, 3]
    assert second.said == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("size", [2, 8_192])
def test_what_is_too_much_for_the_time_away_is_a_marked_gap(events: Events, size: int) -> None:
    for seq in range(1, 1_001):
        events.add("r", event(seq, size), None, 0)
        assert events.size <= KEPT_MAX_BYTES
    wire = Wire()
    events.replay("r", wire.put, 0)
    gap, *kept = wire.said
    assert isinstance(gap, tuple)
    assert gap == (1, gap[1], gap[1])
    assert kept == list(range(gap[1] + 1, 1_001))
    assert len(kept) == (KEPT_MAX if size == 2 else KEPT_MAX_BYTES // (8_192 + 512))


def test_a_gap_is_marked_once_per_socket(events: Events) -> None:
    for seq in range(1, KEPT_MAX + 11):
        events.add("r", event(seq), None, 0)
    first, second = Wire(), Wire()
    events.replay("r", first.put, 0)
    events.add("r", event(KEPT_MAX + 11), first.put, 0)
    assert [said for said in first.said if isinstance(said, tuple)] == [(1, 10, 10)]
    events.replay("r", second.put, 0)
    # One more fell out meanwhile; it had been sent, but who knows.
    assert second.said[0] == (1, 11, 11)
    assert second.said[1:] == list(range(12, KEPT_MAX + 12))


def test_a_slow_socket_gets_the_rest_when_it_has_room_again(events: Events) -> None:
    wire = Wire(room=2)
    for seq in (1, 2, 3, 4):
        events.add("r", event(seq), wire.put, 0)
    wire.room = 100
    events.add("r", event(5), wire.put, 0)
    assert wire.said == [1, 2, 3, 4, 5]


def test_a_socket_too_slow_for_too_long_is_told_what_it_missed(events: Events) -> None:
    wire = Wire(room=2)
    for seq in range(1, KEPT_MAX + 6):
        events.add("r", event(seq), wire.put, 0)
    wire.room = 1_000
    events.add("r", event(KEPT_MAX + 6), wire.put, 0)
    assert wire.said == [1, 2, (3, 5, 5), *range(6, KEPT_MAX + 7)]


@pytest.mark.parametrize(("made", "gap"), [(4, (3, 4, 4)), (KEPT_MAX + 10, (3, KEPT_MAX + 10, KEPT_MAX + 10))])
def test_what_a_slow_socket_did_not_take_before_the_result_is_a_marked_gap(
    events: Events, made: int, gap: tuple[int, int, int]
) -> None:
    wire = Wire(room=2)
    for seq in range(1, made + 1):
        events.add("r", event(seq), wire.put, 0)
    wire.room = 1_000
    events.end("r", wire.put, 0)
    events.end("r", wire.put, 0)
    assert wire.said == [1, 2, gap]


def test_what_has_surely_arrived_is_not_sent_again(events: Events) -> None:
    first, second = Wire(), Wire()
    for seq, at in ((1, 10), (2, 20), (3, 30)):
        events.add("r", event(seq), first.put, at)
    events.confirm(30)
    events.replay("r", second.put, 0)
    assert second.said == [3]


def test_what_was_never_sent_is_never_taken_to_have_arrived(events: Events) -> None:
    events.add("r", event(1), None, 0)
    events.confirm(1_000_000)
    wire = Wire()
    events.replay("r", wire.put, 0)
    assert wire.said == [1]


def test_what_fell_out_and_has_arrived_is_no_gap(events: Events) -> None:
    first, second = Wire(), Wire()
    for seq in range(1, KEPT_MAX + 11):
        events.add("r", event(seq), first.put, 0 if seq <= 20 else 100)
    events.confirm(50)
    events.replay("r", second.put, 0)
    assert second.said == list(range(21, KEPT_MAX + 11))


def test_all_that_is_kept_fits_into_the_outbox_of_a_new_socket(events: Events) -> None:
    wire = Wire()
    for n in range(3_000):
        events.add(f"r{n % 60}", event(n // 60 + 1, 4_096), wire.put, 0)
        assert events.size <= TOTAL_MAX_BYTES
    # Whoever comes last is sent all the same.
    assert len(wire.taken) == 3_000
    again = Wire()
    for request in events:
        events.replay(request, again.put, 0)
    frames = [f.ExecuteEvent(request_id="r" * 200, event=each, lease_epoch=2**40) for each in again.taken]
    assert len(frames) > 100
    assert sum(len(msgspec.json.encode(frame)) for frame in frames) <= EVENTS_MAX_BYTES
    for request in events:
        events.forget(request)
    assert events.size == 0


def texts(frames: list[f.ExecuteEvent]) -> str:
    return "".join(str(decoded(frame.event.payload)["text"]) for frame in frames)


def waits_for(path: Path) -> str:
    return f"while [ ! -e {path} ]; do sleep 0.02; done"


async def test_output_made_while_the_link_is_cut_is_streamed_after_it(
    gateway: FakeGateway, agent: InProcessAgent, tmp_path: Path
) -> None:
    on, away, end = tmp_path / "on", tmp_path / "away", tmp_path / "end"
    script = f"echo one; {waits_for(on)}; echo two; sleep 0.3; echo three; touch {away}; {waits_for(end)}; echo four"
    request = await gateway.dispatch("agent.execute", shell(script), lease_epoch=7)
    first = await gateway.link()
    await gateway.until(lambda: bool(first.of(f.ExecuteEvent, request)))
    await gateway.stop()
    on.touch()
    await appears(away)
    await gateway.start()
    second = await gateway.link(2)
    await gateway.until(lambda: "three" in texts(second.of(f.ExecuteEvent, request)))
    assert request not in gateway.results
    end.touch()
    await gateway.result(request)
    streamed = second.of(f.ExecuteEvent, request)
    assert texts(streamed) == "one\ntwo\nthree\nfour\n"
    assert [frame.event.seq for frame in streamed] == list(range(1, len(streamed) + 1))
    assert {frame.lease_epoch for frame in streamed} == {7}
    # What the first gateway had already has the number it had.
    assert first.of(f.ExecuteEvent, request)[0].event == streamed[0].event


async def test_output_of_work_that_ended_while_the_link_was_cut_comes_before_its_result(
    gateway: FakeGateway, agent: InProcessAgent, tmp_path: Path
) -> None:
    on, away = tmp_path / "on", tmp_path / "away"
    script = f"{waits_for(on)}; echo made alone; touch {away}"
    request = await gateway.dispatch("agent.execute", shell(script))
    await gateway.until(lambda: bool(gateway.connections[0].of(f.ExecuteReceived, request)))
    await gateway.stop()
    on.touch()
    await appears(away)
    await gateway.start()
    await gateway.result(request)
    told = [frame for frame in gateway.connections[-1].frames if getattr(frame, "request_id", None) == request]
    assert [f.wire_type(frame) for frame in told] == ["execute_event", "execute_result"]
    assert texts(gateway.connections[-1].of(f.ExecuteEvent, request)) == "made alone\n"


async def test_after_the_acknowledgement_nothing_of_a_request_is_sent_again(
    gateway: FakeGateway, agent: InProcessAgent
) -> None:
    request = await gateway.dispatch("agent.execute", shell("echo once"))
    await gateway.result(request)
    await gateway.run("agent.execute", shell("echo behind the ack"))
    gateway.connections[0].cut()
    second = await gateway.link(2)
    await gateway.run("agent.execute", shell("true"))
    assert not second.of(f.ExecuteEvent, request)


async def test_a_request_whose_output_is_too_much_for_the_time_away_is_told_of_a_gap(
    gateway: FakeGateway, agent: InProcessAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vespid_agent.events.KEPT_MAX", 3)
    on, away, end = tmp_path / "on", tmp_path / "away", tmp_path / "end"
    script = f"{waits_for(on)}; seq 1 20000; touch {away}; {waits_for(end)}"
    request = await gateway.dispatch("agent.execute", shell(script))
    await gateway.until(lambda: bool(gateway.connections[0].of(f.ExecuteReceived, request)))
    await gateway.stop()
    on.touch()
    await appears(away)
    await gateway.start()
    second = await gateway.link(2)
    await gateway.until(lambda: len(second.of(f.ExecuteEvent, request)) >= 4)
    end.touch()
    assert (await gateway.result(request)).status == "succeeded"
    gap, *kept = [frame.event for frame in second.of(f.ExecuteEvent, request)]
    assert (gap.kind, gap.level) == (GAP, "warn")
    assert decoded(gap.payload) == {"fromSeq": 1, "toSeq": gap.seq}
    assert [each.seq for each in kept] == list(range(gap.seq + 1, gap.seq + 1 + len(kept)))
