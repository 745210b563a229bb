"""Session keys: the contract's form, and nobody in another's conversation."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vespid.domain.session_key import SCOPES, normalised, session_key
from vespid_protocol.ids import OrgId

ORG = OrgId("0198a1c2-0000-7000-8000-000000000001")


def key(scope, *, agent_id=None, peer="Ann", channel=None, account=None):
    return session_key(ORG, scope, agent_id=agent_id, peer=peer, channel=channel, account=account)


@pytest.mark.parametrize(
    ("scope", "tail"),
    [
        ("main", ""),
        ("per-peer", ":peer:ann"),
        ("per-channel-peer", ":channel:slack:peer:ann"),
        ("per-account-channel-peer", ":account:acme:channel:slack:peer:ann"),
    ],
)
def test_each_scope_names_who_shares_it(scope, tail):
    made = key(scope, channel="Slack ", account=" ACME")
    assert made == f"agent:main:org:{ORG}:scope:{scope}{tail}"


def test_what_is_unknown_is_said():
    made = key("per-account-channel-peer", agent_id="Support")
    assert made.startswith("agent:support:")
    assert made.endswith(":account:unknown-account:channel:unknown-channel:peer:ann")


def test_a_part_that_changed_by_more_than_blanks_and_case_carries_its_hash():
    assert normalised("  Ann.B_1-x ") == "ann.b_1-x"
    digest = hashlib.sha256(b"Ann Smith").hexdigest()[:8]
    assert normalised("Ann Smith") == f"ann-smith~{digest}"


@given(st.text(max_size=20), st.text(max_size=20))
def test_parts_that_differ_stay_different(one, other):
    if one.strip().lower() != other.strip().lower():
        assert normalised(one) != normalised(other)


TEXTS = st.text(alphabet=st.sampled_from("ab:~-/. Ü"), min_size=1, max_size=8)
WHO = st.tuples(st.sampled_from(SCOPES), TEXTS, TEXTS, TEXTS, TEXTS)


def shared(who):
    """What two sessions must have in common to be one."""
    scope, *parts = who
    agent, account, channel, peer = (part.strip().lower() for part in parts)
    within = {
        "main": (),
        "per-peer": (peer,),
        "per-channel-peer": (channel or "unknown-channel", peer),
        "per-account-channel-peer": (account or "unknown-account", channel or "unknown-channel", peer),
    }
    return scope, agent or "main", within[scope]


@given(WHO, WHO)
def test_keys_are_equal_only_for_who_shares_the_session(one, other):
    keys = [
        key(scope, agent_id=agent, account=account, channel=channel, peer=peer)
        for scope, agent, account, channel, peer in (one, other)
    ]
    if shared(one) != shared(other):
        assert keys[0] != keys[1]


@given(TEXTS)
def test_a_part_has_only_plain_characters(original):
    assert set(normalised(original)) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-~")
