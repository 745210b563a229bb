"""Bindings: which agent of the organization a session is routed to.

A binding says of a dimension what must be true of the session. The first that holds wins, in the order of dimensions
below, then by the higher priority, then by the lower id (the older one). Where none holds, the session is the
organization's main agent's.

`match` has a key per fact: `peer`, `parentPeer`, `orgRoles`, `team`, `account`, `channel`; each is a text or a list of
texts of which one must be equal, blanks around and case aside. The dimension's own key must be there (`organization`
and `default` have none and always hold); other keys narrow it further, and all must hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, get_args

import msgspec

from vespid.domain.fields import FieldNotes

Dimension = Literal["peer", "parent_peer", "org_roles", "organization", "team", "account", "channel", "default"]

# In the order of precedence.
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
PRIORITY_MAX = 1_000_000

_OWN_KEY: dict[Dimension, str] = {
    "peer": "peer",
    "parent_peer": "parentPeer",
    "org_roles": "orgRoles",
    "team": "team",
    "account": "account",
    "channel": "channel",
}
_KEYS = tuple(_OWN_KEY.values())
_ROLES = ("owner", "admin", "member")
_TEXT_MAX = 200
_TEXTS_MAX = 100

AgentId = Annotated[str, msgspec.Meta(min_length=1, max_length=120)]


class Facts(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What is known of a session when it is made: what bindings are compared with, and what its key is made of."""

    peer: str | None = None
    parent_peer: str | None = None
    channel: str | None = None
    account: str | None = None
    team: str | None = None
    actor: str | None = None
    # Of whoever made it.
    org_roles: tuple[str, ...] = ()
    # As it was given.
    context: dict[str, object] | None = None


class Match(msgspec.Struct, frozen=True):
    """What must hold: for each key the texts of which one must be among the session's, plain."""

    wanted: dict[str, frozenset[str]]

    def holds(self, facts: Facts) -> bool:
        return all(not texts.isdisjoint(_texts_of(facts, key)) for key, texts in self.wanted.items())


class Binding(msgspec.Struct, frozen=True):
    """A binding as routing needs it."""

    id: str
    agent_id: str
    priority: int
    dimension: Dimension
    match: Match


class Routed(msgspec.Struct, frozen=True, rename="camel"):
    """Where a session goes. Both None: no binding holds, it is the main agent's."""

    agent_id: str | None
    binding_id: str | None


MAIN = Routed(None, None)


def in_order(bindings: Iterable[Binding]) -> tuple[Binding, ...]:
    """The bindings, the one that is asked first at the front."""
    return tuple(sorted(bindings, key=lambda b: (DIMENSIONS.index(b.dimension), -b.priority, b.id)))


def route(bindings: Sequence[Binding], facts: Facts) -> Routed:
    """Where a session with these facts goes; `bindings` are `in_order`."""
    for binding in bindings:
        if binding.match.holds(facts):
            return Routed(binding.agent_id, binding.id)
    return MAIN


def read_match(dimension: Dimension, given: dict[str, object]) -> Match:
    """`match` of a binding. Raises FieldsInvalid with an entry per key at fault; keys not known are ignored."""
    notes = FieldNotes()
    wanted = {key: _read_texts(given[key], f"match.{key}", notes) for key in _KEYS if given.get(key) is not None}
    own = _OWN_KEY.get(dimension)
    if own is not None and own not in wanted:
        notes.note(f"match.{own}", f"This field is required for the dimension {dimension}.")
    for role in sorted(wanted.get("orgRoles", frozenset()) - set(_ROLES)):
        notes.note("match.orgRoles", f"There is no role {role!r}; use owner, admin or member.")
    notes.raise_any()
    return Match(wanted)


def _read_texts(value: object, field: str, notes: FieldNotes) -> frozenset[str]:
    given = value if isinstance(value, list) else [value]
    texts = [text for text in given if isinstance(text, str)]
    if len(texts) < len(given) or not 0 < len(texts) <= _TEXTS_MAX:
        notes.note(field, f"Expected a text, or a list of 1..{_TEXTS_MAX} texts.")
        return frozenset()
    plain = {_plain(text) for text in texts}
    if any(not 0 < len(text) <= _TEXT_MAX for text in plain):
        notes.note(field, f"A text here has 1..{_TEXT_MAX} characters.")
    return frozenset(plain)


def _texts_of(facts: Facts, key: str) -> frozenset[str]:
    value = {
        "peer": facts.peer,
        "parentPeer": facts.parent_peer,
        "team": facts.team,
        "account": facts.account,
        "channel": facts.channel,
    }.get(key)
    if key == "orgRoles":
        return frozenset(facts.org_roles)
    return frozenset() if value is None else frozenset({_plain(value)})


def _plain(text: str) -> str:
    return text.strip().lower()
