"""A session's past in frames that fit, for peers of both layers."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from vespid.gateway.edge.turn_frames import Past, open_frames, turn_frame
from vespid_protocol.codec import encode
from vespid_protocol.frames import HistoryEntry, MemoryDocument, SessionOpen
from vespid_protocol.ids import RequestId

LIMIT = 300_000
HEAD = SessionOpen(
    request_id=RequestId("s:turn:2:1"),
    organization_id="o",
    session_id="s",
    session_key="k",
    routed_agent_id=None,
    user_id="u",
    session_config=msgspec.Raw(b"{}"),
    history=(),
    history_from=0,
    history_seq=0,
)


def past(history: list[int], memory: list[int]) -> Past:
    return Past(
        history=tuple(HistoryEntry(seq=n + 1, role="user", content="x" * size) for n, size in enumerate(history)),
        history_seq=len(history),
        generation=3,
        memory=tuple(
            MemoryDocument(path=f"memory/{n}.md", sha256="", content="y" * size, version=1)
            for n, size in enumerate(memory)
        ),
    )


SIZES = st.lists(st.integers(0, 80_000), max_size=12)


@given(SIZES, SIZES)
def test_all_of_it_arrives_in_order_in_frames_under_half_the_limit(history: list[int], memory: list[int]) -> None:
    whole = past(history, memory)
    frames = open_frames(HEAD, whole, max_frame_bytes=LIMIT, is_base=False)
    assert [entry for frame in frames for entry in frame.history] == list(whole.history)
    assert [document for frame in frames for document in frame.memory or ()] == list(whole.memory)
    assert all(len(encode(frame)) < LIMIT / 2 for frame in frames)
    assert [bool(frame.more) for frame in frames] == [True] * (len(frames) - 1) + [False]
    assert {(frame.generation, frame.history_seq) for frame in frames} == {(3, len(history))}


@given(SIZES)
def test_a_base_peer_gets_the_newest_that_fits_in_one_frame(history: list[int]) -> None:
    (frame,) = open_frames(HEAD, past(history, []), max_frame_bytes=LIMIT, is_base=True)
    kept = [entry.seq for entry in frame.history]
    assert kept == list(range(len(history) - len(kept) + 1, len(history) + 1))
    assert len(encode(frame)) < LIMIT / 2
    assert frame.more is None


def test_the_turn_carries_message_attachments_and_what_was_done_before() -> None:
    frame = turn_frame(HEAD, 2, b'{"message":"hi","attachments":[{"name":"a"}]}', b'[{"type":"tool_call"}]')
    sent = msgspec.json.decode(encode(frame))
    assert (sent["message"], sent["eventSeq"], sent["requestId"]) == ("hi", 2, "s:turn:2:1")
    assert sent["attachments"] == [{"name": "a"}]
    assert sent["prior"] == [{"type": "tool_call"}]
    plain = msgspec.json.decode(encode(turn_frame(HEAD, 2, b'{"message":"hi"}', None)))
    assert not {"attachments", "prior", "shellRunEnabled"} & plain.keys()
    shell = turn_frame(HEAD, 2, b'{"message":"hi"}', None, may_run_shell=True)
    assert msgspec.json.decode(encode(shell))["shellRunEnabled"] is True
