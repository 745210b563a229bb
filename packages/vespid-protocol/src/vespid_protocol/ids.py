"""Identifiers: their types, how they are made, and what is inside the ones that carry meaning.

requestId of a node's attempt: ``<runId>:<nodeId>:<attempt>``. requestId of a turn's try:
``<sessionId>:turn:<userEventSeq>:<turnEpoch>``. Executor token: ``<uuid>.<secret>``, where the UUID is the
organization's (BYON) or the executor's (managed) and the secret is nobody's to interpret; the database holds only
`hash_token` of the whole.

`new_id` and `create_token` are the two functions of this distribution that ask the machine for something (time and
randomness); `uuid7` is their pure core.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
import uuid
from typing import NamedTuple, NewType

OrgId = NewType("OrgId", str)
UserId = NewType("UserId", str)
RunId = NewType("RunId", str)
WorkflowId = NewType("WorkflowId", str)
ExecutorId = NewType("ExecutorId", str)
RequestId = NewType("RequestId", str)
NodeId = NewType("NodeId", str)
SessionId = NewType("SessionId", str)
ProcessId = NewType("ProcessId", str)

TOKEN_MAX_CHARS = 512
_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_NODE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,14}")


class IdInvalid(ValueError):
    """The text is not an identifier of the asked-for kind."""


# --- making ids ------------------------------------------------------------------------------------------------------


def uuid7(time_ns: int, random: bytes) -> uuid.UUID:
    """A version 7 UUID: 48 bits of epoch ms, 12 bits of the fraction of that ms, 62 random bits (from 8 bytes)."""
    return uuid.UUID(int=_uuid7_bits(time_ns, random))


def _uuid7_bits(time_ns: int, random: bytes) -> int:
    milliseconds, rest_ns = divmod(time_ns, 1_000_000)
    fraction = rest_ns * 4096 // 1_000_000
    tail = int.from_bytes(random[:8], "big") & ((1 << 62) - 1)
    return (milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | tail


def new_id() -> str:
    """A fresh id, a UUID v7 in text: ids made later by the same clock sort later (to a quarter of a microsecond)."""
    # Spelled here: every request makes ids, and a UUID object is three quarters of the work.
    digits = f"{_uuid7_bits(time.time_ns(), os.urandom(8)):032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def is_uuid(text: str) -> bool:
    """Whether `text` is a UUID in its usual spelling, upper or lower case."""
    return _UUID.fullmatch(text) is not None


# --- request ids -----------------------------------------------------------------------------------------------------


class NodeAttempt(NamedTuple):
    """What a node's requestId says."""

    run_id: RunId
    node_id: NodeId
    attempt: int


class TurnAttempt(NamedTuple):
    """What a turn's requestId says."""

    session_id: SessionId
    event_seq: int
    turn_epoch: int


def request_id(run_id: str, node_id: str, attempt: int) -> RequestId:
    """``<runId>:<nodeId>:<attempt>``; the attempt is the node's, from 1."""
    return RequestId(f"{run_id}:{node_id}:{attempt}")


def parse_request_id(text: str) -> NodeAttempt:
    """The parts of a node's requestId. Raises IdInvalid."""
    parts = text.split(":")
    if len(parts) != 3 or not is_uuid(parts[0]) or not _NODE_ID.fullmatch(parts[1]) or not _NUMBER.fullmatch(parts[2]):
        raise IdInvalid("not a requestId of the form <runId>:<nodeId>:<attempt>")
    return NodeAttempt(RunId(parts[0]), NodeId(parts[1]), int(parts[2]))


def turn_request_id(session_id: str, event_seq: int, turn_epoch: int) -> RequestId:
    """``<sessionId>:turn:<userEventSeq>:<turnEpoch>``."""
    return RequestId(f"{session_id}:turn:{event_seq}:{turn_epoch}")


def parse_turn_request_id(text: str) -> TurnAttempt:
    """The parts of a turn's requestId. Raises IdInvalid."""
    parts = text.split(":")
    if (
        len(parts) != 4
        or parts[1] != "turn"
        or not is_uuid(parts[0])
        or not _NUMBER.fullmatch(parts[2])
        or not _NUMBER.fullmatch(parts[3])
    ):
        raise IdInvalid("not a requestId of the form <sessionId>:turn:<seq>:<epoch>")
    return TurnAttempt(SessionId(parts[0]), int(parts[2]), int(parts[3]))


# --- tokens ----------------------------------------------------------------------------------------------------------


class ParsedToken(NamedTuple):
    """A token's public half, and the hash by which the whole of it is known."""

    # The organization's id (BYON, pairing) or the executor's (managed), in lower case.
    subject: str
    sha256: bytes


def hash_token(token: str) -> bytes:
    """SHA-256 of the whole token, 32 bytes: what is stored of a random token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def parse_token(token: str) -> ParsedToken:
    """Splits ``<uuid>.<secret>`` at the first dot. Raises IdInvalid, never with the token in the message."""
    subject, dot, secret = token.partition(".")
    if not dot or not secret or len(token) > TOKEN_MAX_CHARS or not is_uuid(subject):
        raise IdInvalid("not a token of the form <uuid>.<secret>")
    return ParsedToken(subject.lower(), hash_token(token))


def create_token(subject: str, prefix: str = "vsp") -> str:
    """A fresh ``<subject>.<prefix>_<43 characters>``, 256 random bits; the prefix lets secret scanners find leaks."""
    return f"{subject}.{prefix}_{secrets.token_urlsafe(32)}"
