"""What one client of a session is told next, and in which order."""

from datetime import UTC, datetime
from uuid import UUID

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from vespid.gateway.client.follower import Follower
from vespid.gateway.client.told import FAILOVER, RESTARTED, Told, tell
from vespid.gateway.client.turn_text import Key, TurnText
from vespid.store.sessions import SessionEventRow

SESSION = UUID("00000000-0000-4000-8000-000000000001")
AT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
HERE, THERE = b'"here"', b'"there"'


def event(seq: int, kind: str, **payload: object) -> Told:
    row = SessionEventRow(SESSION, SESSION, SESSION, seq, None, kind, "info", None, msgspec.json.encode(payload), AT)
    return tell(row)


def words(frames: list[bytes]) -> list[str]:
    """A word per frame."""
    found = []
    for frame in frames:
        if frame in (HERE, THERE):
            found.append(msgspec.json.decode(frame))
            continue
        told = msgspec.json.decode(frame)
        seq = told.get("seq", told.get("userEventSeq", ""))
        found.append(f"{told['type'].removeprefix('session_')}:{seq}")
    return found


def follower(seq: int = 1, live_from: int = 1) -> Follower:
    """One that knows that the session lives here."""
    made = Follower(seq, live_from)
    made.state(HERE)
    return made


def heard(text: str, key: Key = Key(2, 1)) -> TurnText:  # noqa: B008
    made = TurnText()
    made.hear(key, 0, text)
    return made


def test_a_message_is_acknowledged_before_its_event_and_an_answer_is_repeated_behind_it() -> None:
    client = follower()
    frames = client.events([event(2, "user_message"), event(3, "tool_call"), event(4, "agent_final")], HERE)
    assert words(frames) == ["ack:2", "event_v2:2", "event_v2:3", "event_v2:4", "agent_final:4"]
    failed = client.events([event(5, "user_message"), event(6, "error", code="X", message="y")], HERE)
    assert words(failed) == ["ack:5", "event_v2:5", "event_v2:6", "error:"]


def test_what_was_before_the_join_is_told_as_events_alone() -> None:
    client = follower(seq=0, live_from=3)
    told = [event(1, "session_created"), event(2, "user_message"), event(3, "agent_final"), event(4, "user_message")]
    assert words(client.events(told, HERE)) == ["event_v2:1", "event_v2:2", "event_v2:3", "ack:4", "event_v2:4"]


def test_an_event_is_told_once_wherever_it_was_read() -> None:
    client = follower()
    told = [event(2, "tool_call"), event(3, "tool_call")]
    assert words(client.events(told[:1], HERE)) == ["event_v2:2"]
    assert words(client.events(told, HERE)) == ["event_v2:3"]
    assert client.events(told, HERE) == []
    assert client.seq == 3


def test_a_sender_is_acknowledged_once_whether_the_event_or_the_commit_is_known_first() -> None:
    ahead = follower()
    assert ahead.ack_own(2, 1)
    assert words(ahead.events([event(2, "user_message")], HERE)) == ["event_v2:2"]
    behind = follower()
    assert words(behind.events([event(2, "user_message")], HERE)) == ["ack:2", "event_v2:2"]
    assert not behind.ack_own(2, 1)


def test_a_repeated_message_is_acknowledged_again() -> None:
    client = follower(seq=5, live_from=1)
    assert client.ack_own(2, 5)


def test_an_acknowledgement_ahead_is_of_that_message_only() -> None:
    client = follower()
    assert client.ack_own(3, 1)
    frames = client.events([event(2, "user_message"), event(3, "user_message"), event(4, "user_message")], HERE)
    assert words(frames) == ["ack:2", "event_v2:2", "event_v2:3", "ack:4", "event_v2:4"]


def test_where_it_lives_is_told_when_that_changes_and_before_what_comes_from_there() -> None:
    client = follower()
    frames = client.events([event(2, "user_message"), event(3, "tool_call"), event(4, "agent_final")], THERE)
    assert words(frames) == ["ack:2", "event_v2:2", "there", "event_v2:3", "event_v2:4", "agent_final:4"]
    assert client.state(THERE) == []
    assert client.events([event(5, "tool_call")], THERE)[0] != THERE


def test_a_new_place_is_told_right_before_the_failover_that_names_it() -> None:
    told = [event(2, "tool_call"), event(3, "system", action=FAILOVER), event(4, "tool_call")]
    assert words(follower().events(told, THERE)) == ["event_v2:2", "there", "event_v2:3", "event_v2:4"]


def test_a_new_place_is_told_even_where_no_event_of_its_host_came() -> None:
    assert words(follower().events([event(2, "user_message")], THERE)) == ["ack:2", "event_v2:2", "there"]
    assert words(follower().events([], THERE)) == ["there"]


def test_text_is_given_once_piece_by_piece_or_as_one() -> None:
    text = heard("Hel")
    client, late = follower(), follower()
    assert client.text(text, as_one=False) == [(3, "Hel")]
    text.hear(Key(2, 1), 3, "lo ")
    text.hear(Key(2, 1), 6, "the")
    assert client.text(text, as_one=False) == [(6, "lo "), (9, "the")]
    assert client.text(text, as_one=False) == []
    assert late.text(text, as_one=True) == [(9, "Hello the")]


def test_text_that_began_anew_is_given_from_its_first_character() -> None:
    text, client = heard("Hello"), follower()
    client.text(text, as_one=False)
    text.hear(Key(2, 2), 0, "Hi")
    assert client.text(text, as_one=False) == [(2, "Hi")]
    # The same try, told anew.
    text.begin(Key(2, 2))
    text.hear(Key(2, 2), 0, "Ho")
    assert client.text(text, as_one=False) == [(2, "Ho")]


def test_behind_a_failover_or_a_restart_what_was_given_of_the_text_is_given_again() -> None:
    for action in (FAILOVER, RESTARTED):
        text, client = heard("Hello"), follower()
        client.text(text, as_one=False)
        client.events([event(2, "system", action=action)], HERE)
        assert client.text(text, as_one=False) == [(5, "Hello")]
    client.events([event(3, "system", action="waiting")], HERE)
    assert client.text(text, as_one=False) == []


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=20), st.integers(0, 12))
def test_whatever_is_handed_on_events_come_in_order_and_once(runs: list[tuple[int, int]], seq: int) -> None:
    every = [event(number, "tool_call") for number in range(1, 13)]
    client = follower(seq)
    told: list[int] = []
    for begin, size in runs:
        # Handed on from its place or from before it, as the view does.
        begin = min(begin, client.seq)
        frames = client.events(every[begin : begin + size], HERE)
        told += [msgspec.json.decode(frame)["seq"] for frame in frames]
    assert told == list(range(seq + 1, client.seq + 1))
