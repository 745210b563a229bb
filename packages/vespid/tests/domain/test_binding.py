"""Bindings: which one holds, and which of those that hold is asked first."""

from __future__ import annotations

import itertools

import pytest

from vespid.domain.binding import DIMENSIONS, MAIN, Binding, Facts, Routed, in_order, read_match, route
from vespid.domain.fields import FieldsInvalid

FACTS = Facts(
    peer="ann", parent_peer="room", channel="slack", account="acme", team="sales", org_roles=("member",), actor="bob"
)
MATCHES = {
    "peer": {"peer": "ann"},
    "parent_peer": {"parentPeer": "room"},
    "org_roles": {"orgRoles": ["admin", "member"]},
    "organization": {},
    "team": {"team": "sales"},
    "account": {"account": "acme"},
    "channel": {"channel": "slack"},
    "default": {},
}


def binding(dimension, match=None, *, priority=0, binding_id="1"):
    given = MATCHES[dimension] if match is None else match
    return Binding(binding_id, f"agent-{binding_id}", priority, dimension, read_match(dimension, given))


def test_dimensions_are_asked_in_the_order_of_the_contract():
    assert DIMENSIONS == (
        "peer",
        "parent_peer",
        "org_roles",
        "organization",
        "team",
        "account",
        "channel",
        "default",
    )
    for first, second in itertools.pairwise(DIMENSIONS):
        lower, higher = binding(second, priority=9, binding_id="1"), binding(first, binding_id="2")
        assert route(in_order([lower, higher]), FACTS) == Routed("agent-2", "2")


def test_within_a_dimension_the_higher_priority_wins_then_the_lower_id():
    rows = [binding("peer", priority=1, binding_id="1"), binding("peer", priority=2, binding_id="3")]
    assert route(in_order(rows), FACTS).binding_id == "3"
    rows.append(binding("peer", priority=2, binding_id="2"))
    assert route(in_order(rows), FACTS).binding_id == "2"


def test_without_a_binding_that_holds_it_is_the_main_agents():
    assert route((), FACTS) == MAIN
    assert route(in_order([binding("peer", {"peer": "eve"})]), FACTS) == MAIN


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_each_dimension_holds_for_what_it_names(dimension):
    assert read_match(dimension, MATCHES[dimension]).holds(FACTS)
    assert read_match(dimension, MATCHES[dimension]).holds(Facts()) is (dimension in ("organization", "default"))


def test_blanks_and_case_do_not_matter():
    assert read_match("peer", {"peer": [" ANN ", "x"]}).holds(Facts(peer="Ann"))


def test_further_keys_narrow_a_binding():
    narrow = read_match("channel", {"channel": "slack", "team": "sales"})
    assert narrow.holds(FACTS)
    assert not narrow.holds(Facts(channel="slack", team="support"))
    assert not narrow.holds(Facts(channel="slack"))


@pytest.mark.parametrize(
    ("dimension", "match", "fields"),
    [
        ("peer", {}, {"match.peer"}),
        ("peer", {"peer": None}, {"match.peer"}),
        ("peer", {"peer": 3, "team": ""}, {"match.peer", "match.team"}),
        ("parent_peer", {"peer": "x"}, {"match.parentPeer"}),
        ("org_roles", {"orgRoles": ["boss"]}, {"match.orgRoles"}),
        ("team", {"team": []}, {"match.team"}),
        ("account", {"account": ["a", 1]}, {"match.account"}),
        ("channel", {"channel": "x" * 201}, {"match.channel"}),
        ("default", {"channel": {}}, {"match.channel"}),
    ],
)
def test_what_is_wrong_with_a_match_is_told_by_field(dimension, match, fields):
    with pytest.raises(FieldsInvalid) as refused:
        read_match(dimension, match)
    assert set(refused.value.fields) == fields


def test_keys_that_are_not_known_are_ignored():
    assert read_match("default", {"note": 1}).holds(Facts())
