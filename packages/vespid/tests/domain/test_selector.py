"""Selectors and requirements: who may be given what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vespid.domain.selector import Capabilities, Requirement, Selector, matches, signature


def test_every_label_the_tag_and_the_group_are_required():
    selector = Selector(labels=("gpu", "west"), tag="west", group="alpha")
    assert selector.required_tags() == ("gpu", "group:alpha", "west")


@pytest.mark.parametrize(
    ("offer", "requirement", "expected"),
    [
        (Capabilities(), Requirement("agent.execute"), True),
        (Capabilities.of(kinds=["agent.run"]), Requirement("agent.execute"), False),
        (Capabilities.of(kinds=[]), Requirement("agent.execute"), False),
        (Capabilities.of(connectors=["slack"]), Requirement("connector.action", connector="github"), False),
        (Capabilities.of(connectors=["github"]), Requirement("connector.action", connector="github"), True),
        (Capabilities(), Requirement("connector.action", connector="github"), True),
        (Capabilities.of(engines=["codex.sdk.v1"]), Requirement("agent.run", engine="vespid.echo.v1"), False),
        (Capabilities.of(backends=["host"]), Requirement("agent.execute", backend="docker"), False),
        (Capabilities.of(backends=["host", "docker"]), Requirement("agent.execute", backend="docker"), True),
        (Capabilities.of(backends=[]), Requirement("agent.execute", backend="docker"), False),
        (Capabilities(), Requirement("agent.execute", backend="docker"), True),
        (Capabilities.of(backends=["host"]), Requirement("agent.execute"), True),
        (Capabilities.of(tags=["west"]), Requirement("agent.execute", tags=("west",)), True),
        (Capabilities.of(tags=["west"]), Requirement("agent.execute", tags=("gpu", "west")), False),
        (Capabilities.of(tags=["WEST"]), Requirement("agent.execute", tags=("west",)), False),
        (Capabilities.of(tags=["alpha"]), Requirement("agent.execute", tags=("group:alpha",)), False),
    ],
)
def test_matching(offer, requirement, expected):
    assert matches(offer, requirement) is expected


@given(st.lists(st.text(max_size=5), max_size=5), st.randoms())
def test_signature_does_not_depend_on_order_or_repetition(tags, random):
    shuffled = tags * 2
    random.shuffle(shuffled)
    assert signature("k", None, None, None, tuple(tags)) == signature("k", None, None, None, tuple(shuffled))


def test_signatures_tell_requirements_apart():
    requirements = [
        Requirement("a"),
        Requirement("a", connector="b"),
        Requirement("a", engine="b"),
        Requirement("a", backend="b"),
        Requirement("a", tags=("b",)),
        Requirement("a", tags=("b", "c")),
        Requirement("a", tags=("b,c",)),
    ]
    assert len({requirement.signature for requirement in requirements}) == len(requirements)
