"""Identifiers and tokens."""

from __future__ import annotations

import hashlib
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vespid_protocol import ids

RUN = "0190b6a2-7a9e-7c1b-8a51-6d6ef1f0a001"


def test_new_ids_are_version_7_and_sort_by_time() -> None:
    made = [ids.new_id() for _ in range(200)]
    assert len(set(made)) == 200
    assert {uuid.UUID(text).version for text in made} == {7}
    early, late = ids.uuid7(1_000_000, b"\xff" * 8), ids.uuid7(2_000_000, b"\x00" * 8)
    assert str(early) < str(late)
    assert early.variant == uuid.RFC_4122


@given(st.uuids(), st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True), st.integers(1, 10**9))
def test_request_id_round_trip(run: uuid.UUID, node: str, attempt: int) -> None:
    assert ids.parse_request_id(ids.request_id(str(run), node, attempt)) == (str(run), node, attempt)


def test_turn_request_id_round_trip() -> None:
    assert ids.parse_turn_request_id(ids.turn_request_id(RUN, 4, 2)) == (RUN, 4, 2)
    with pytest.raises(ids.IdInvalid):
        ids.parse_request_id(ids.turn_request_id(RUN, 4, 2))


@pytest.mark.parametrize(
    "text", ["", "a:b:1", f"{RUN}:n1:-1", f"{RUN}:n1:01", f"{RUN}:n 1:1", f"{RUN}:n1", f"{RUN}:n1:1\n"]
)
def test_what_is_no_request_id_is_refused(text: str) -> None:
    with pytest.raises(ids.IdInvalid):
        ids.parse_request_id(text)


def test_token_is_split_at_the_first_dot_and_hashed_whole() -> None:
    token = f"{RUN.upper()}.vsp_a.b.c"
    parsed = ids.parse_token(token)
    assert parsed == (RUN, hashlib.sha256(token.encode()).digest())


@pytest.mark.parametrize("token", ["", RUN, f"{RUN}.", ".x", f"{RUN}x.y", "no-uuid.secret", f"{RUN}." + "x" * 600])
@pytest.mark.promise("P7")
def test_what_is_no_token_is_refused_without_repeating_it(token: str) -> None:
    with pytest.raises(ids.IdInvalid) as caught:
        ids.parse_token(token)
    assert "secret" not in str(caught.value).replace("<secret>", "")


def test_created_tokens_parse_and_differ() -> None:
    one, other = ids.create_token(RUN), ids.create_token(RUN)
    assert one != other
    assert ids.parse_token(one).subject == RUN
    assert len(one.partition(".")[2]) >= 43
