"""What is made of the frames of a session: whose answer is whose, and text that is whole over a lost socket."""

from typing import Any

from vespid_client.conversation import (
    ChatItem,
    Conversation,
    Delta,
    DeltaFrame,
    EventFrame,
    Failed,
    Final,
    Happened,
    Restarted,
)


def event(seq: int, kind: str, **payload: Any) -> EventFrame:
    return EventFrame("s", seq, kind, "info", payload, "2026-01-02T03:04:05.678Z")


def delta(turn: int, text: str) -> DeltaFrame:
    return DeltaFrame("s", turn, text)


def told(conversation: Conversation, *frames: EventFrame | DeltaFrame) -> list[ChatItem]:
    items: list[ChatItem] = []
    for frame in frames:
        items += conversation.event(frame) if isinstance(frame, EventFrame) else conversation.delta(frame)
    return items


def shown(items: list[ChatItem], turn: int) -> str:
    """What a reader of the deltas has before them in the end."""
    text = ""
    for item in items:
        if isinstance(item, Restarted) and item.turn == turn:
            text = ""
        elif isinstance(item, Delta) and item.turn == turn:
            text += item.text
    return text


def answers(items: list[ChatItem]) -> dict[int, str]:
    return {item.turn: item.text for item in items if isinstance(item, Final)}


def test_an_answer_is_that_to_the_message_which_it_names() -> None:
    said = (event(8, "user_message"), event(9, "user_message"))
    named = event(10, "agent_final", message="nine", userEventSeq=9)
    earlier = event(11, "agent_final", message="five", userEventSeq=5)
    assert answers(told(Conversation(7), *said, named, earlier)) == {9: "nine"}
    # What runs when one joins is not of the message that is said next.
    joined = (event(8, "tool_call"), event(9, "user_message"))
    ended = (event(10, "agent_final", userEventSeq=6), event(11, "agent_final", message="nine", userEventSeq=9))
    assert answers(told(Conversation(7), *joined, *ended)) == {9: "nine"}


def test_an_answer_that_names_none_is_to_the_oldest_message_that_waits() -> None:
    items = told(
        Conversation(),
        *(event(1, "user_message"), event(2, "user_message"), event(3, "agent_final", message="one")),
        *(event(4, "user_message"), event(5, "agent_final", message="two"), event(6, "agent_final", message="four")),
    )
    assert answers(items) == {1: "one", 2: "two", 4: "four"}


def test_an_error_answers_the_message_that_it_names() -> None:
    conversation = Conversation()
    items = told(
        conversation,
        *(event(1, "user_message"), event(2, "user_message"), event(3, "error", userEventSeq=2, code="TURN_CANCELLED")),
        event(4, "agent_final", message="one"),
    )
    assert [(item.turn, item.code) for item in items if isinstance(item, Failed)] == [(2, "TURN_CANCELLED")]
    assert answers(items) == {1: "one"}


def test_an_answer_to_a_message_before_what_was_told_is_nobody_s() -> None:
    items = told(Conversation(7), event(8, "agent_final", message="early"), event(9, "user_message"))
    assert answers(items) == {}
    assert (
        answers(told(Conversation(7), event(8, "tool_call"), event(9, "user_message"), event(10, "agent_final"))) == {}
    )


def test_events_of_a_turn_name_its_message() -> None:
    items = told(Conversation(), event(1, "user_message"), event(2, "user_message"), event(3, "tool_call"))
    assert [(item.seq, item.turn) for item in items if isinstance(item, Happened)] == [(1, 1), (2, 2), (3, 1)]


def test_an_event_that_comes_again_is_told_once() -> None:
    conversation = Conversation()
    assert len(told(conversation, event(1, "system"), event(2, "system"), event(1, "system"), event(2, "system"))) == 2
    assert conversation.seq == 2


def test_text_that_comes_again_after_a_lost_socket_is_told_once() -> None:
    conversation = Conversation()
    before = told(conversation, event(1, "user_message"), delta(1, "one "), delta(1, "two "))
    conversation.rejoined()
    after = told(conversation, delta(1, "one "), delta(1, "two three "), delta(1, "four"))
    assert [item.text for item in after if isinstance(item, Delta)] == ["three ", "four"]
    assert shown(before + after, 1) == "one two three four"


def test_other_text_after_a_lost_socket_begins_anew() -> None:
    conversation = Conversation()
    before = told(conversation, event(1, "user_message"), delta(1, "one "))
    conversation.rejoined()
    assert shown(before + told(conversation, delta(1, "uno ")), 1) == "uno "


def test_a_failover_begins_the_text_anew() -> None:
    conversation = Conversation()
    items = told(
        conversation,
        *(event(1, "user_message"), delta(1, "lost")),
        *(event(2, "system", action="session_executor_failover"), delta(1, "found")),
        event(3, "agent_final", message="found"),
    )
    assert shown(items, 1) == "found"
    assert sum(isinstance(item, Restarted) for item in items) == 1


def test_deltas_are_all_of_the_answer_whatever_was_lost() -> None:
    for heard in ([], [delta(1, "the ")], [delta(1, "the answer")], [delta(1, "another")]):
        items = told(Conversation(), event(1, "user_message"), *heard, event(2, "agent_final", message="the answer"))
        assert shown(items, 1) == "the answer"
        assert isinstance(items[-1], Final)


def test_text_between_tools_is_kept_where_the_answer_is_its_end() -> None:
    heard = [delta(1, "let me see. "), event(2, "tool_call"), event(3, "tool_result"), delta(1, "42")]
    items = told(Conversation(), event(1, "user_message"), *heard, event(4, "agent_final", message="42"))
    assert shown(items, 1) == "let me see. 42"
