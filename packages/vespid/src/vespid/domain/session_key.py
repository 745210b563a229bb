"""The session key: who shares a conversation, as one line of text (`contracts/api.md` §6).

`agent:<agent|main>:org:<org>:scope:<scope>` and, by scope, `:account:A:channel:C:peer:P`. A part is trimmed, lower
case, and everything but `[a-z0-9._-]` is a `-`; where that changed more than blanks and case it is followed by `~` and
8 hex digits of the original's SHA-256. `~` and `:` stand in no part by themselves, so keys of different people differ.
"""

from __future__ import annotations

import hashlib
import re
from typing import Literal, get_args

from vespid_protocol.ids import OrgId

Scope = Literal["main", "per-peer", "per-channel-peer", "per-account-channel-peer"]

SCOPES: tuple[Scope, ...] = get_args(Scope)
MAIN_AGENT = "main"
UNKNOWN_CHANNEL = "unknown-channel"
UNKNOWN_ACCOUNT = "unknown-account"

_OTHER = re.compile(r"[^a-z0-9._-]")
_DIGITS = 8


def session_key(
    org_id: OrgId, scope: Scope, *, agent_id: str | None, peer: str, channel: str | None, account: str | None
) -> str:
    """The key; `peer` is the peer, else the actor, else the caller. Without an agent it is the organization's main."""
    parts = ["agent", _part(agent_id) or MAIN_AGENT, "org", org_id, "scope", scope]
    if scope == "per-account-channel-peer":
        parts += ["account", _part(account) or UNKNOWN_ACCOUNT]
    if scope in ("per-channel-peer", "per-account-channel-peer"):
        parts += ["channel", _part(channel) or UNKNOWN_CHANNEL]
    if scope != "main":
        parts += ["peer", normalised(peer)]
    return ":".join(parts)


def normalised(original: str) -> str:
    """One part of a key: different for originals that differ in more than blanks around them and case."""
    plain = original.strip().lower()
    safe = _OTHER.sub("-", plain)
    if safe == plain:
        return safe
    digest = hashlib.sha256(original.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{safe}~{digest[:_DIGITS]}"


def _part(original: str | None) -> str:
    return "" if original is None else normalised(original)
