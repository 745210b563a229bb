"""The gateway's end, rule by rule."""

from __future__ import annotations

import json

import pytest
from msgspec import Raw

from vespid_protocol import effects as fx
from vespid_protocol import frames as f
from vespid_protocol.codec import encode
from vespid_protocol.connection import Event, State
from vespid_protocol.gateway_peer import Effects, GatewayPeer, Strikes, close_code
from vespid_protocol.machine import IllegalTransition

BASE_HELLO = f.Hello(agent_version="1", name="n")
V2_HELLO = f.Hello(agent_version="1", name="n", protocol=f.Protocol(version=2), instance_id="i")
EVENT = f.Event(seq=1, ts=1, kind="note", level="info")


def welcome(epoch: int = 7) -> f.Welcome:
    return f.Welcome(
        protocol_version=2,
        connection_epoch=epoch,
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


def greeted(hello: f.Hello = V2_HELLO, **settings: int) -> GatewayPeer:
    peer = GatewayPeer(0, server_time=lambda: "now", **settings)
    assert peer.receive(hello, 0) == (fx.Register(hello),)
    peer.attach(welcome())
    return peer


def execute(epoch: int = 1, request_id: str = "r") -> f.Execute:
    return f.Execute(
        request_id=request_id,
        organization_id="o",
        user_id="u",
        kind="agent.execute",
        payload=Raw(b"{}"),
        lease_epoch=epoch,
        timeout_ms=5,
        on_lost="fail",
        secrets={"a": "b"},
    )


def sent(effects: Effects) -> list[f.Frame]:
    return [effect.frame for effect in effects if isinstance(effect, fx.Send)]


# --- layers ----------------------------------------------------------------------------------------------------------


def test_v2_peer_is_welcomed_and_a_base_peer_is_not() -> None:
    for hello, expected in ((V2_HELLO, [welcome()]), (BASE_HELLO, [])):
        peer = GatewayPeer(0)
        peer.receive(hello, 0)
        assert not peer.routable
        assert sent(peer.attach(welcome())) == expected
        assert peer.routable


def test_base_peer_sees_no_v2_field_and_no_v2_frame() -> None:
    peer = greeted(BASE_HELLO)
    (frame,) = sent(peer.execute(execute(), 0))
    assert set(json.loads(encode(frame))) == {"type", "requestId", "organizationId", "userId", "kind", "payload"}
    assert peer.cancel("r", "x") == ()
    assert sent(peer.drain(500, "x")) == []
    assert sent(peer.receive_data("{", 0)) == []


@pytest.mark.promise("P2")
def test_base_peer_gets_an_execute_once_per_lease() -> None:
    peer = greeted(BASE_HELLO)
    assert len(peer.execute(execute(1), 0)) == 1
    assert peer.execute(execute(1), 0) == ()
    assert len(peer.execute(execute(2), 0)) == 1


def test_unspoken_protocol_version_is_closed() -> None:
    hello = f.Hello(agent_version="1", name="n", protocol=f.Protocol(version=3))
    assert close_code(GatewayPeer(0).receive(hello, 0)) == 4426


def test_later_hello_updates_and_never_lowers_the_layer() -> None:
    peer = greeted()
    assert peer.receive(BASE_HELLO, 1) == (fx.Update(BASE_HELLO),)
    assert peer.speaks_v2


def test_every_ping_is_answered() -> None:
    for peer in (GatewayPeer(0, server_time=lambda: "now"), greeted(), greeted(BASE_HELLO)):
        assert peer.receive(f.Ping(ts=5), 1) == (fx.Send(f.Pong(ts=5, server_time="now")),)


# --- what is heard when ----------------------------------------------------------------------------------------------


@pytest.mark.promise("P3")
def test_before_the_hello_only_results_are_heard() -> None:
    peer = GatewayPeer(0)
    final = f.TurnFinal(request_id="t", session_id="s", content="c")
    ended = f.ExecuteResult(request_id="r", status="succeeded")
    assert peer.receive(ended, 0) == (fx.Result(ended, None),)
    assert peer.receive(final, 0) == (fx.Session(final),)
    assert peer.receive(f.ExecuteReceived(request_id="r"), 0) == (fx.Counted("early_frame", "r"),)
    assert peer.receive(f.ExecuteEvent(request_id="r", event=EVENT), 0) == (fx.Counted("early_frame", "r"),)
    assert peer.receive(f.TurnDelta(request_id="t", session_id="s", content="c"), 0) == (
        fx.Counted("early_frame", "t"),
    )


def test_frame_without_epoch_is_given_the_one_of_this_sockets_grant() -> None:
    peer = greeted(BASE_HELLO)
    peer.execute(execute(4), 0)
    ended = f.ExecuteResult(request_id="r", status="succeeded")
    assert peer.receive(ended, 0) == (fx.Result(ended, 4),)


@pytest.mark.promise("P4")
def test_said_epoch_is_passed_on_as_said() -> None:
    peer = greeted()
    peer.execute(execute(4), 0)
    ended = f.ExecuteResult(request_id="r", status="succeeded", lease_epoch=3)
    assert peer.receive(ended, 0) == (fx.Result(ended, 3),)


def test_over_capacity_is_a_decline_and_not_a_result() -> None:
    peer = greeted()
    peer.execute(execute(4), 0)
    no_room = f.ExecuteResult(request_id="r", status="failed", error="EXECUTOR_OVER_CAPACITY", lease_epoch=4)
    assert peer.receive(no_room, 0) == (fx.Declined("r", 4), fx.Send(f.ExecuteAck(request_id="r")))
    assert peer.held == {}


@pytest.mark.promise("P4")
def test_after_the_end_nothing_is_heard_or_sent() -> None:
    peer = greeted()
    peer.end(Event.REVOKED, "revoked")
    assert peer.receive(f.ExecuteResult(request_id="r", status="succeeded"), 1) == ()
    assert peer.receive_data('{"type":"ping","ts":1}', 1) == ()
    assert (peer.ack("r"), peer.cancel("r", "x"), peer.tick(10**9), peer.gone()) == ((), (), (), ())
    with pytest.raises(IllegalTransition):
        peer.execute(execute(), 1)


def test_execute_before_the_hello_is_our_own_fault() -> None:
    peer = GatewayPeer(0)
    with pytest.raises(IllegalTransition):
        peer.execute(execute(), 0)
    assert peer.state is State.CONNECTED
    assert peer.held == {}


# --- supersession ----------------------------------------------------------------------------------------------------


@pytest.mark.promise("P4")
def test_newer_socket_of_the_same_process_replaces_silently_and_of_another_says_so() -> None:
    other = f.Hello(agent_version="1", name="n", protocol=f.Protocol(version=2), instance_id="other")
    assert close_code(greeted().supersede(V2_HELLO)) == 1000
    assert close_code(greeted().supersede(other)) == 4409
    assert close_code(greeted(BASE_HELLO).supersede(BASE_HELLO)) == 4409


@pytest.mark.promise("P4")
def test_end_of_a_socket_unregisters_only_its_own_epoch() -> None:
    assert greeted().gone() == (fx.Unregister(7),)
    assert GatewayPeer(0).gone() == (fx.Unregister(None),)
    assert fx.Unregister(7) in greeted().end(Event.SUPERSEDED, "x")


# --- time ------------------------------------------------------------------------------------------------------------


def test_silence_makes_unroutable_and_then_stale() -> None:
    peer = greeted()
    assert fx.Silent() in peer.tick(20_000)
    assert not peer.routable
    assert peer.heard(21_000) == (fx.Audible(),)
    assert peer.routable
    assert close_code(peer.tick(80_999)) is None
    assert close_code(peer.tick(81_000)) == 4408


def test_socket_is_probed_every_third_of_the_stale_window() -> None:
    peer = greeted(BASE_HELLO)
    probes = []
    for now in range(0, 61_000, 1_000):
        peer.heard(now)
        probes += [now for effect in peer.tick(now) if isinstance(effect, fx.Probe)]
    assert probes == [20_000, 40_000, 60_000]


def test_work_not_taken_in_five_seconds_closes_a_v2_peer() -> None:
    peer = greeted()
    peer.execute(execute(), 0)
    peer.execute(execute(request_id="taken"), 0)
    peer.receive(f.ExecuteReceived(request_id="taken", lease_epoch=1), 100)
    assert peer.next_due <= 5_000
    assert peer.tick(4_999) == ()
    effects = peer.tick(5_000)
    assert effects[0] == fx.NotTaken("r", 1)
    assert close_code(effects) == 4408


@pytest.mark.parametrize(
    "frame",
    [
        f.ExecuteReceived(request_id="r", lease_epoch=1),
        f.ExecuteEvent(request_id="r", event=EVENT, lease_epoch=1),
        f.ExecuteResult(request_id="r", status="succeeded", lease_epoch=1),
    ],
)
def test_any_word_about_the_work_stops_the_accept_timer(frame: f.AgentFrame) -> None:
    peer = greeted()
    peer.execute(execute(), 0)
    peer.receive(frame, 100)
    assert close_code(peer.tick(10_000)) is None


def test_base_peer_has_no_accept_timer() -> None:
    peer = greeted(BASE_HELLO)
    peer.execute(execute(), 0)
    assert close_code(peer.tick(30_000)) is None


def test_third_strike_within_ten_minutes_pauses() -> None:
    strikes = Strikes()
    assert [strikes.add(now) for now in (0, 200_000, 500_000)] == [False, False, True]
    assert strikes.paused_until == 560_000
    apart = Strikes()
    assert not any(apart.add(now) for now in range(0, 10**7, 400_000))


# --- draining --------------------------------------------------------------------------------------------------------


@pytest.mark.promise("P12")
def test_draining_agent_is_unrouted_and_still_heard() -> None:
    peer = greeted()
    peer.execute(execute(), 0)
    assert peer.receive(f.Draining(reason="SIGTERM"), 0) == (fx.Unroute("SIGTERM"),)
    assert not peer.routable
    ended = f.ExecuteResult(request_id="r", status="succeeded", lease_epoch=1)
    assert peer.receive(ended, 0) == (fx.Result(ended, 1),)


def test_draining_gateway_asks_v2_peers_to_reconnect() -> None:
    assert greeted().drain(700, "deploy") == (
        fx.Unroute("deploy"),
        fx.Send(f.Reconnect(after_ms=700, reason="deploy")),
    )
    assert close_code(GatewayPeer(0).drain(700, "deploy")) == 1001


# --- bad frames ------------------------------------------------------------------------------------------------------


@pytest.mark.promise("P10")
def test_bad_frame_is_answered_and_the_connection_lives_on() -> None:
    peer = greeted()
    effects = peer.receive_data('{"type":"execute_result","requestId":"r","status":"done"}', 0)
    (told,) = sent(effects)
    assert isinstance(told, f.ErrorFrame)
    assert (told.code, told.request_id) == ("BAD_REQUEST", "r")
    assert "status" in told.message
    assert close_code(effects) is None


@pytest.mark.promise("P10")
def test_twenty_bad_frames_in_a_minute_close_and_slower_ones_do_not() -> None:
    peer = greeted()
    codes = [close_code(peer.receive_data("{", now)) for now in range(20)]
    assert codes == [None] * 19 + [1008]
    patient = greeted()
    assert not any(close_code(patient.receive_data("{", now)) for now in range(0, 3_200 * 100, 3_200))


@pytest.mark.promise("P10")
def test_unknown_frames_are_counted_and_cost_nothing() -> None:
    peer = greeted()
    for now in range(100):
        assert peer.receive_data('{"type":"future"}', now) == (fx.Counted("unknown_frame", "future"),)


@pytest.mark.promise("P10")
def test_oversized_result_fails_its_request_and_not_the_connection() -> None:
    peer = greeted(max_frame_bytes=200)
    peer.execute(execute(3), 0)
    big = encode(
        f.ExecuteResult(request_id="r", status="succeeded", output=Raw(b'"' + b"x" * 300 + b'"'), lease_epoch=3)
    )
    (ended, counted) = peer.receive_data(big, 0)
    assert isinstance(ended, fx.Result)
    assert (ended.frame.request_id, ended.frame.error, ended.lease_epoch) == ("r", "RESULT_TOO_LARGE", 3)
    assert counted == fx.Counted("oversized_frame", "execute_result")
    assert close_code(peer.receive_data(b'{"type":"ping","x":"' + b"x" * 300 + b'","ts":1}', 0)) is None
    assert close_code(peer.receive_data(b"x" * 801, 0)) == 1009
