"""A session as plain Python: what was said and remembered, and a host's copy of both. Tests hold Postgres to it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from vespid.domain.turn import TERMINAL, Event, Happening, State, Turn, step


@dataclass
class Copy:
    """What a host keeps of a session. It follows what a lease hands over, and knows nothing else."""

    generation: int
    history_seq: int
    memory_version: int
    # (role, content) by turn.
    history: list[tuple[str, str]]
    memory: dict[str, str]

    def said(self) -> dict[str, int]:
        return {
            "generation": self.generation,
            "historySeq": self.history_seq,
            "memoryVersion": self.memory_version,
        }


@dataclass
class Host:
    """An executor, and what the database has been told of it."""

    managed: bool
    tags: tuple[str, ...] = ()
    engines: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None
    ours: bool = True
    id: str = field(default_factory=lambda: str(uuid4()))
    epoch: int = 0
    connected: bool = False
    revoked: bool = False
    cordoned: bool = False
    draining: bool = False
    enabled: bool = True
    copies: dict[str, Copy] = field(default_factory=dict)
    # Copies that were on disk some time ago.
    backups: dict[str, Copy] = field(default_factory=dict)
    # What it was given: (session, seq, epoch).
    had: list[tuple[str, int, int]] = field(default_factory=list)

    def have(self, session: str, which: str) -> Copy | None:
        return {"own": self.copies, "old": self.backups}.get(which, {}).get(session)


@dataclass
class Session:
    """What the session's row, its turns and its memory must be."""

    on_busy: str
    on_host_lost: Any
    pool: str | None
    only: str | None
    tags: tuple[str, ...]
    engine: str
    timeout_ms: int
    id: str = field(default_factory=lambda: str(uuid4()))
    generation: int = 1
    forgotten: int = 0
    last_turn: int = 0
    pin: str | None = None
    routed: str | None = None
    memory_version: int = 0
    # path → (version, sha256, content; None: deleted)
    memory: dict[str, tuple[int, str, str | None]] = field(default_factory=dict)
    turns: dict[int, Turn] = field(default_factory=dict)
    messages: dict[int, str] = field(default_factory=dict)
    answers: dict[int, str] = field(default_factory=dict)
    tools: dict[int, list[str]] = field(default_factory=dict)
    keys: dict[str, int] = field(default_factory=dict)

    def live(self) -> list[int]:
        return [seq for seq in sorted(self.turns) if self.turns[seq].state not in TERMINAL]

    def next(self) -> int | None:
        return next(iter(self.live()), None)

    def is_next(self, seq: int) -> bool:
        return seq == self.next()

    def to_place(self) -> int | None:
        seq = self.next()
        return seq if seq is not None and self.turns[seq].wants_host else None

    def put(self, seq: int, turn: Turn) -> None:
        self.turns[seq] = turn
        if turn.state in TERMINAL:
            self.last_turn = max(self.last_turn, seq)

    def may_be_held(self, host: Host, connection_epoch: int, edge_is_its: bool) -> bool:
        return (
            host.connected
            and not (host.revoked or host.cordoned or host.draining)
            and host.enabled
            and connection_epoch == host.epoch
            and edge_is_its
            and (host.ours or host.managed)
            and (self.pool != "managed" or host.managed)
            and self.only in (None, host.id)
            and set(self.tags) <= set(host.tags)
            and (host.kinds is None or "agent.run" in host.kinds)
            and (host.engines is None or self.engine in host.engines)
        )

    def is_good(self, copy: Copy) -> bool:
        """Whether what is missing in it can be added."""
        return (
            copy.generation == self.generation
            and copy.history_seq <= self.last_turn
            and copy.memory_version <= self.memory_version
        )

    def fresh(self) -> Turn:
        return Turn(on_host_lost=self.on_host_lost, is_bound=self.only is not None, timeout_ms=self.timeout_ms)

    def send(self, seq: int, text: str, now: int) -> None:
        self.messages[seq], self.tools[seq] = text, []
        self.put(seq, step(self.fresh(), Happening(event=Event.SEND, now=now)).turn)

    def said_before(self, seq: int) -> list[tuple[str, str]]:
        """What a host has to know when it is given that turn."""
        said: list[tuple[str, str]] = []
        for earlier in sorted(self.messages):
            if self.forgotten < earlier < seq:
                said.append(("user", self.messages[earlier]))
                if self.turns[earlier].state is State.ANSWERED:
                    said.append(("assistant", self.answers[earlier]))
        return said

    def remembered(self) -> dict[str, str]:
        return {path: content for path, (_, _, content) in self.memory.items() if content is not None}

    def put_memory(self, docs: list[dict[str, Any]]) -> int:
        # Of two that say the same path, the later.
        said = {doc["path"]: (doc["sha256"], doc["content"]) for doc in docs}
        changed = {
            path: (self.memory_version + 1, sha256, content)
            for path, (sha256, content) in said.items()
            if path not in self.memory
            or (self.memory[path][1], self.memory[path][2] is None) != (sha256, content is None)
        }
        self.memory |= changed
        self.memory_version += bool(changed)
        return self.memory_version


def follow(have: Copy | None, seq: int, lease: dict[str, Any]) -> Copy:
    """The copy of a host that was given that turn, having said it had `have`."""
    row, history, memory = lease["session"], lease["history"], lease["memory"]
    if history is None:
        assert have is not None
        after = copy.deepcopy(have)
    elif row["have_seq"] is None:
        after = Copy(row["generation"], 0, 0, [], {})
    else:
        assert have is not None
        after = copy.deepcopy(have)
    after.history += [(entry["role"], entry["content"]) for entry in history or ()]
    for doc in memory or ():
        if doc["content"] is None:
            after.memory.pop(doc["path"], None)
        else:
            after.memory[doc["path"]] = doc["content"]
    after.history_seq, after.memory_version = row["last_turn_seq"], row["memory_version"]
    assert after.generation == row["generation"]
    return after
