"""The agent's end, rule by rule."""

from __future__ import annotations

import json
from itertools import islice, pairwise

import pytest
from msgspec import Raw

from vespid_protocol import effects as fx
from vespid_protocol import frames as f
from vespid_protocol import journal
from vespid_protocol.agent_peer import AgentPeer, Identity
from vespid_protocol.backoff import backoff
from vespid_protocol.codec import encode
from vespid_protocol.entries import Entry
from vespid_protocol.requests import Effects

WALL = 1_700_000_000_000
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


def agent(*entries: Entry) -> AgentPeer:
    return AgentPeer(IDENTITY, entries, random=lambda: 0.5)


def welcomed(*entries: Entry, now: int = 0) -> AgentPeer:
    peer = agent(*entries)
    peer.opened(now, WALL)
    peer.receive(WELCOME, now)
    return peer


def execute(request_id: str = "r", epoch: int | None = 1, on_lost: f.OnLost | None = "fail") -> f.Execute:
    return f.Execute(
        request_id=request_id,
        organization_id="o",
        user_id="u",
        kind="agent.execute",
        payload=Raw(b"{}"),
        lease_epoch=epoch,
        on_lost=on_lost,
    )


def result(request_id: str = "r", error: str | None = None, epoch: int | None = None) -> f.ExecuteResult:
    status = "failed" if error else "succeeded"
    return f.ExecuteResult(request_id=request_id, status=status, error=error, lease_epoch=epoch)  # type: ignore[arg-type]


def sent(effects: Effects) -> list[f.Frame]:
    return [effect.frame for effect in effects if isinstance(effect, fx.Send)]


def run(peer: AgentPeer, frame: f.Execute, now: int = 0) -> None:
    peer.receive(frame, now)
    assert peer.may_start(frame.request_id, now)


# --- greeting --------------------------------------------------------------------------------------------------------


def test_hello_says_what_is_in_flight_and_unacknowledged() -> None:
    peer = welcomed()
    run(peer, execute("a"))
    run(peer, execute("b"))
    peer.finish(result("b"), 0)
    (hello, answer) = peer.opened(5, WALL)
    assert isinstance(hello, fx.Send)
    assert isinstance(hello.frame, f.Hello)
    assert hello.frame.in_flight == (f.InFlight(request_id="a", lease_epoch=1),)
    assert hello.frame.unacked == ("b",)
    assert hello.frame.protocol == f.Protocol(version=2)
    assert isinstance(answer, fx.Answer)
    assert answer.request_id == "b"


def test_every_gateway_is_a_base_one_until_it_says_welcome() -> None:
    peer = agent()
    peer.opened(0, WALL)
    assert peer.drain("SIGTERM") == ()
    assert sent(peer.receive(WELCOME, 0)) == [f.Draining(reason="SIGTERM")]
    peer.closed(1006, "", 0)
    peer.opened(1, WALL)
    assert peer.tell(f.TurnEvent(request_id="t", session_id="s", event=EVENT)) == ()
    assert sent(peer.tell(f.ExecuteEvent(request_id="r", event=EVENT))) != []


EVENT = f.Event(seq=1, ts=1, kind="note", level="info")


def test_a_base_gateway_that_never_pongs_is_worked_for() -> None:
    peer = agent()
    peer.opened(0, WALL)
    (received, start) = peer.receive(execute(epoch=None, on_lost=None), 0)
    assert isinstance(start, fx.Start)
    assert received == fx.Send(f.ExecuteReceived(request_id="r"))
    for now in range(1_000, 300_000, 1_000):
        peer.heard(now)
        assert not any(isinstance(effect, fx.Stop | fx.Close) for effect in peer.tick(now))
    assert peer.may_start("r", 300_000)
    (told,) = sent(peer.finish(result(), 300_000))
    assert "leaseEpoch" not in json.loads(encode(told))


# --- starting once ---------------------------------------------------------------------------------------------------


@pytest.mark.promise("P2")
def test_repeated_execute_joins_what_runs() -> None:
    peer = welcomed()
    run(peer, execute())
    assert peer.receive(execute(), 0) == (fx.Send(f.ExecuteReceived(request_id="r", lease_epoch=1)),)
    assert not peer.may_start("r", 0)


@pytest.mark.promise("P2")
@pytest.mark.promise("P4")
def test_higher_epoch_is_adopted_and_a_lower_one_ignored() -> None:
    peer = welcomed()
    run(peer, execute(epoch=2))
    assert peer.receive(execute(epoch=1), 0) == (fx.Counted("stale_execute"),)
    assert fx.Adopt("r", 3) in peer.receive(execute(epoch=3), 0)
    (told,) = sent(peer.finish(result(epoch=2), 0))
    assert isinstance(told, f.ExecuteResult)
    assert told.lease_epoch == 3


@pytest.mark.promise("P2")
def test_finished_work_is_answered_from_the_journal() -> None:
    peer = welcomed()
    run(peer, execute())
    peer.finish(result(), 0)
    assert peer.receive(execute(epoch=2), 0) == (fx.Adopt("r", 2), fx.Answer("r", 2))


@pytest.mark.promise("P2")
@pytest.mark.promise("P3")
def test_acknowledgement_of_a_result_under_an_older_lease_does_not_bury_it() -> None:
    # The lease had moved on while the result was on its way: the gateway discards it, and the acknowledgement, which
    # names no epoch, comes behind the `execute` that asks for it again.
    peer = welcomed()
    run(peer, execute(epoch=1))
    peer.finish(result(), 0)
    assert peer.receive(execute(epoch=2), 0)[-1] == fx.Answer("r", 2)
    assert peer.receive(f.ExecuteAck(request_id="r"), 0) == ()
    assert peer.receive(execute(epoch=2), 0) == (fx.Answer("r", 2),)
    (_hello, answer) = peer.opened(5, WALL)
    assert answer == fx.Answer("r", None)
    # On another socket nothing of the old one is acknowledged any more.
    assert peer.receive(f.ExecuteAck(request_id="r"), 5) == (fx.Bury("r"),)


def test_each_result_under_an_older_lease_takes_one_acknowledgement() -> None:
    peer = welcomed()
    run(peer, execute(epoch=1))
    peer.finish(result(), 0)
    peer.receive(execute(epoch=1), 0)
    peer.receive(execute(epoch=2), 0)
    peer.receive(execute(epoch=3), 0)
    acks = [peer.receive(f.ExecuteAck(request_id="r"), 0) for _ in range(4)]
    assert acks == [(), (), (), (fx.Bury("r"),)]


def test_result_without_an_epoch_is_good_under_any_of_ours_and_so_is_its_acknowledgement() -> None:
    peer = welcomed()
    run(peer, execute(epoch=1))
    peer.finish(result(), 0)
    peer.opened(5, WALL)
    peer.receive(WELCOME, 5)
    peer.receive(execute(epoch=2), 5)
    assert peer.receive(f.ExecuteAck(request_id="r"), 5) == (fx.Bury("r"),)


def test_acknowledged_work_is_never_started_again() -> None:
    peer = welcomed()
    run(peer, execute())
    peer.finish(result(), 0)
    assert peer.receive(f.ExecuteAck(request_id="r"), 0) == (fx.Bury("r"),)
    effects = peer.receive(execute(epoch=2), 0)
    assert not any(isinstance(effect, fx.Start) for effect in effects)
    (told,) = sent(effects)
    assert isinstance(told, f.ExecuteResult)
    assert (told.error, told.lease_epoch) == ("AGENT_DISCONNECTED", 2)


@pytest.mark.promise("P2")
def test_cancel_that_comes_first_leaves_a_tombstone() -> None:
    peer = welcomed()
    effects = peer.receive(f.ExecuteCancel(request_id="r", reason="x"), 0)
    assert effects[0] == fx.Bury("r")
    later = peer.receive(execute(), 0)
    assert [frame.error for frame in sent(later) if isinstance(frame, f.ExecuteResult)] == ["NODE_EXECUTION_CANCELLED"]
    assert not any(isinstance(effect, fx.Start) for effect in later)


def test_cancel_stops_running_work_once() -> None:
    peer = welcomed()
    run(peer, execute())
    cancel = f.ExecuteCancel(request_id="r", reason="x")
    assert peer.receive(cancel, 0) == (fx.Stop("r", "cancelled"),)
    assert peer.receive(cancel, 0) == ()


# --- declining -------------------------------------------------------------------------------------------------------


@pytest.mark.promise("P9")
def test_no_more_than_max_in_flight_is_taken_and_room_comes_back() -> None:
    peer = welcomed()
    run(peer, execute("a"))
    run(peer, execute("b"))
    (declined,) = sent(peer.receive(execute("c"), 0))
    assert isinstance(declined, f.ExecuteResult)
    assert (declined.error, declined.lease_epoch) == ("EXECUTOR_OVER_CAPACITY", 1)
    peer.finish(result("a"), 0)
    assert any(isinstance(effect, fx.Start) for effect in peer.receive(execute("d"), 0))


@pytest.mark.promise("P2")
def test_declined_execute_is_not_taken_when_its_copy_comes() -> None:
    peer = welcomed()
    run(peer, execute("a"))
    run(peer, execute("b"))
    peer.receive(execute("c"), 0)
    peer.finish(result("a"), 0)
    assert not any(isinstance(effect, fx.Start) for effect in peer.receive(execute("c"), 0))
    assert any(isinstance(effect, fx.Start) for effect in peer.receive(execute("c", epoch=2), 0))


@pytest.mark.promise("P2")
def test_work_given_back_is_not_taken_when_its_copy_comes() -> None:
    peer = welcomed()
    (ping,) = sent(peer.tick(10_000))
    assert isinstance(ping, f.Ping)
    peer.receive(execute(), 10_000)
    peer.tick(40_000)
    # The answer comes late and renews trust, and then a copy of what was given back.
    peer.receive(f.Pong(ts=ping.ts, server_time=""), 41_000)
    assert peer.is_trusted(41_000)
    assert not any(isinstance(effect, fx.Start) for effect in peer.receive(execute(), 41_000))
    assert any(isinstance(effect, fx.Start) for effect in peer.receive(execute(epoch=2), 41_000))


def test_draining_agent_declines_and_keeps_its_heartbeat() -> None:
    peer = welcomed()
    assert sent(peer.drain("SIGTERM", 30_000)) == [f.Draining(reason="SIGTERM", deadline_ms=30_000)]
    assert [type(frame) for frame in sent(peer.receive(execute(), 0))] == [f.ExecuteResult]
    assert [type(frame) for frame in sent(peer.tick(10_000))] == [f.Ping]


def test_full_disk_declines_what_was_accepted() -> None:
    peer = welcomed()
    peer.receive(execute(), 0)
    assert len(sent(peer.decline("r", 0))) == 1
    assert peer.in_flight == 0


# --- trust -----------------------------------------------------------------------------------------------------------


@pytest.mark.promise("P2")
@pytest.mark.parametrize(("on_lost", "stops"), [("fail", True), ("resend", True), ("wait", False)])
def test_work_stops_when_trust_ends_unless_it_may_wait(on_lost: f.OnLost, stops: bool) -> None:
    peer = welcomed()
    run(peer, execute(on_lost=on_lost))
    assert not any(isinstance(effect, fx.Stop) for effect in peer.tick(39_999))
    stopped = [effect for effect in peer.tick(40_000) if isinstance(effect, fx.Stop)]
    assert stopped == ([fx.Stop("r", "trust_ended")] if stops else [])
    assert peer.next_due > 40_000


@pytest.mark.promise("P2")
def test_trust_counts_from_the_sending_of_the_ping_that_was_answered() -> None:
    peer = welcomed()
    (ping,) = sent(peer.tick(10_000))
    assert isinstance(ping, f.Ping)
    assert ping.ts == WALL + 10_000
    peer.receive(f.Pong(ts=ping.ts, server_time=""), 39_000)
    assert peer.trusted_until == 10_000 + 45_000 - 5_000
    # An answer to nothing that was asked renews nothing.
    peer.receive(f.Pong(ts=ping.ts, server_time=""), 39_500)
    peer.receive(f.Pong(ts=WALL + 39_000, server_time=""), 39_500)
    assert peer.trusted_until == 50_000


@pytest.mark.promise("P2")
def test_nothing_leased_is_started_past_trust() -> None:
    peer = welcomed()
    peer.receive(execute("early"), 0)
    assert not peer.may_start("early", 40_000)
    assert not any(isinstance(effect, fx.Start) for effect in peer.receive(execute("late"), 40_000))


@pytest.mark.promise("P2")
def test_failure_after_lost_trust_is_kept_for_who_asks_and_not_volunteered() -> None:
    peer = welcomed()
    run(peer, execute(on_lost="resend"))
    peer.tick(40_000)
    assert peer.finish(result(error="AGENT_DISCONNECTED"), 40_100) == ()
    (hello,) = sent(peer.opened(41_000, WALL))
    assert isinstance(hello, f.Hello)
    assert (hello.in_flight, hello.unacked) == ((), ())
    peer.receive(WELCOME, 41_000)
    assert peer.receive(execute(epoch=2), 41_000) == (fx.Adopt("r", 2), fx.Answer("r", 2))


@pytest.mark.promise("P3")
def test_success_after_lost_trust_is_sent() -> None:
    peer = welcomed()
    run(peer, execute())
    peer.tick(40_000)
    assert sent(peer.finish(result(), 40_100)) == [result(epoch=1)]


def test_work_leased_anew_while_it_is_being_stopped_reports_its_end() -> None:
    peer = welcomed()
    run(peer, execute(on_lost="resend"))
    peer.tick(40_000)
    peer.opened(41_000, WALL)
    peer.receive(WELCOME, 41_000)
    peer.receive(execute(epoch=2), 41_000)
    (told,) = sent(peer.finish(result(error="AGENT_DISCONNECTED"), 41_100))
    assert isinstance(told, f.ExecuteResult)
    assert told.lease_epoch == 2


# --- results ---------------------------------------------------------------------------------------------------------


@pytest.mark.promise("P3")
def test_results_are_resent_on_every_connection_until_acknowledged() -> None:
    peer = welcomed()
    run(peer, execute())
    peer.closed(1006, "", 0)
    assert peer.finish(result(), 1_000) == ()
    for now in (2_000, 3_000):
        assert fx.Answer("r", None) in peer.opened(now, WALL)
        peer.closed(1001, "", now)
    peer.opened(4_000, WALL)
    peer.receive(f.ExecuteAck(request_id="r"), 4_000)
    peer.closed(1001, "", 4_000)
    assert len(peer.opened(5_000, WALL)) == 1


@pytest.mark.promise("P3")
def test_restart_fails_what_was_running_and_sends_what_was_finished() -> None:
    states = journal.State
    peer = agent(
        Entry(request_id="ran", state=states.STARTED, lease_epoch=1, on_lost="fail"),
        Entry(request_id="moves", state=states.STARTED, lease_epoch=1, on_lost="resend"),
        Entry(request_id="done", state=states.FINISHED, lease_epoch=1),
        Entry(request_id="acked", state=states.TOMBSTONE),
    )
    (hello, *answers) = peer.opened(0, WALL)
    assert isinstance(hello, fx.Send)
    assert isinstance(hello.frame, f.Hello)
    assert hello.frame.in_flight == ()
    assert hello.frame.unacked == ("ran", "done")
    assert [answer.request_id for answer in answers if isinstance(answer, fx.Answer)] == ["ran", "done"]
    peer.receive(WELCOME, 0)
    for request_id in ("ran", "moves", "done", "acked"):
        effects = peer.receive(execute(request_id, epoch=2), 0)
        assert not any(isinstance(effect, fx.Start) for effect in effects)


def test_unacknowledged_result_is_resent_on_a_live_v2_connection_with_growing_pauses() -> None:
    peer = welcomed()
    run(peer, execute(on_lost="wait"))
    peer.finish(result(), 0)
    at = []
    for now in range(0, 300_000, 1_000):
        peer.heard(now)
        at += [now for effect in peer.tick(now) if isinstance(effect, fx.Answer)]
    assert at[0] <= 50_000
    gaps = [later - earlier for earlier, later in pairwise(at)]
    assert gaps == sorted(gaps)
    assert gaps[0] >= 60_000


def test_everything_is_forgotten_after_a_day() -> None:
    peer = agent(Entry(request_id="r", state=journal.State.FINISHED))
    assert fx.Forget("r") not in peer.tick(journal.RETENTION_MS - 60_001)
    assert fx.Forget("r") in peer.tick(journal.RETENTION_MS)
    assert peer.entries == {}


# --- the link --------------------------------------------------------------------------------------------------------


def test_heartbeats_follow_the_welcome() -> None:
    peer = agent()
    peer.opened(0, WALL)
    quicker = f.Welcome(
        **{name: getattr(WELCOME, name) for name in WELCOME.__struct_fields__ if name != "heartbeat_ms"},
        heartbeat_ms=2_000,
    )
    peer.receive(quicker, 0)
    pings = [now for now in range(0, 10_001, 500) if any(isinstance(x, f.Ping) for x in sent(peer.tick(now)))]
    assert pings == [2_000, 4_000, 6_000, 8_000, 10_000]


def test_silent_gateway_is_left_after_the_stale_window() -> None:
    peer = welcomed()
    assert not any(isinstance(effect, fx.Close) for effect in peer.tick(59_999))
    closes = [effect for effect in peer.tick(60_000) if isinstance(effect, fx.Close)]
    assert [close.code for close in closes] == [4408]
    assert not peer.is_open


@pytest.mark.parametrize("code", [4401, 4403, 4426])
def test_final_close_codes_end_the_agent(code: int) -> None:
    assert welcomed().closed(code, "why", 0) == (fx.Exit(str(code), "why"),)


@pytest.mark.parametrize("code", ["EXECUTOR_TOKEN_INVALID", "EXECUTOR_REVOKED", "PROTOCOL_UNSUPPORTED"])
def test_final_refusals_end_the_agent(code: str) -> None:
    assert agent().refused(code, "why") == (fx.Exit(code, "why"),)


def test_retry_after_wins_over_the_backoff() -> None:
    (again,) = agent().refused("GATEWAY_DRAINING", "", retry_after_ms=20_000)
    assert isinstance(again, fx.Reconnect)
    assert 20_000 <= again.after_ms <= 25_000


def test_superseded_waits_and_the_third_time_within_ten_minutes_is_final() -> None:
    peer = welcomed()
    for now in (0, 100_000):
        (again,) = peer.closed(4409, "", now)
        assert isinstance(again, fx.Reconnect)
        assert 30_000 <= again.after_ms <= 60_000
    (end,) = peer.closed(4409, "", 200_000)
    assert isinstance(end, fx.Exit)


def test_supersession_spread_over_hours_is_not_final() -> None:
    peer = welcomed()
    for now in range(0, 20 * 400_000, 400_000):
        assert isinstance(peer.closed(4409, "", now)[0], fx.Reconnect)


def test_too_big_a_frame_asks_to_shrink_the_largest_result() -> None:
    assert isinstance(welcomed().closed(1009, "", 0)[0], fx.Shrink)


def test_backoff_grows_to_a_cap_with_full_jitter() -> None:
    assert list(islice(backoff(lambda: 0.0), 3)) == [0, 0, 0]
    bounds = list(islice(backoff(lambda: 0.999999), 8))
    assert bounds[0] <= 5_000
    assert bounds == sorted(bounds)
    assert bounds[-1] <= 30_000
    assert bounds[1] == pytest.approx(8_000, abs=2)


def test_reconnect_frame_asks_to_move() -> None:
    assert welcomed().receive(f.Reconnect(after_ms=500, reason="draining"), 0) == (fx.Migrate(500, "draining"),)


@pytest.mark.promise("P10")
def test_what_makes_no_sense_is_counted_and_changes_nothing() -> None:
    peer = welcomed()
    assert isinstance(peer.receive_data('{"type":"execute"}', 0)[0], fx.Counted)
    assert isinstance(peer.receive_data("{", 0)[0], fx.Counted)
    assert peer.receive_data('{"type":"future"}', 0) == (fx.Counted("unknown_frame", "future"),)
    assert peer.in_flight == 0


def test_nothing_is_heard_without_a_socket() -> None:
    peer = agent()
    assert peer.receive(execute(), 0) == ()
    assert peer.receive_data(encode(execute()), 0) == ()
