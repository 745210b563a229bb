"""What a turn says: joined, masked, kept until the link takes it."""

from __future__ import annotations

import asyncio

from vespid_agent.sessions.stream import TurnStream
from vespid_protocol.frames import Event
from vespid_runtime.redaction import Redactor


class Link:
    def __init__(self, *secrets: str, max_chars: int = 1_000) -> None:
        self.told: list[str] = []
        self.is_slow = False
        self.stream = TurnStream(Redactor(secrets), max_chars, self._send, self._tell)

    def _send(self, text: str) -> bool:
        if not self.is_slow:
            self.told.append(text)
        return not self.is_slow

    def _tell(self, event: Event) -> None:
        self.told.append(f"<{event.kind} {event.seq}>")


async def test_pieces_of_one_loop_turn_leave_as_one_but_never_across_an_event() -> None:
    link = Link()
    link.stream.delta("a")
    link.stream.delta("b")
    link.stream.event("tool_call", "info", None, None)
    link.stream.delta("c")
    await asyncio.sleep(0)
    link.stream.delta("d")
    link.stream.close()
    assert link.told == ["ab", "<tool_call 1>", "c", "d"]


async def test_secret_split_over_pieces_and_an_event_is_masked() -> None:
    link = Link("topsecret")
    link.stream.delta("it is top")
    link.stream.event("tool_call", "info", "topsecret", {"a": "topsecret"})
    link.stream.delta("secret.")
    link.stream.close()
    assert link.told == ["it is ", "<tool_call 1>", "***."]


async def test_what_a_slow_link_did_not_take_goes_with_the_next_piece() -> None:
    link = Link()
    link.is_slow = True
    link.stream.delta("a")
    link.stream.flush()
    link.is_slow = False
    link.stream.delta("b")
    link.stream.close()
    assert link.told == ["ab"]


async def test_new_link_gets_the_whole_text_again() -> None:
    link = Link()
    link.stream.delta("a")
    link.stream.flush()
    link.stream.delta("b")
    link.stream.repeat()
    link.stream.close()
    assert link.told == ["a", "ab"]


async def test_text_is_cut_at_its_limit_behind_the_masking() -> None:
    link = Link("topsecret", max_chars=5)
    link.stream.delta("abc")
    link.stream.delta("topsecret")
    link.stream.close()
    link.stream.delta("after the end")
    assert "".join(link.told) == "abc**"
