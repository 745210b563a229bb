"""Which executors a piece of work may go to.

A `Selector` is what the workflow's author wrote. A `Requirement` is what an executor must be able to do and be tagged
with; its `signature` is a short hash under which the bus keeps executors and waiters. Pool and executorId are not part
of it: the pool chooses the partition, an executorId is asked for beside it. Only control-plane tags are ever compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Literal

import msgspec

Pool = Literal["byon", "managed"]


class Selector(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """`execution.selector` as written; every label, the tag and `group:<group>` must be among the executor's tags."""

    pool: Pool | None = None
    labels: tuple[str, ...] = ()
    group: str | None = None
    tag: str | None = None
    executor_id: str | None = None

    def required_tags(self) -> tuple[str, ...]:
        """The tags an executor must have, sorted, each once."""
        tags = set(self.labels)
        if self.tag is not None:
            tags.add(self.tag)
        if self.group is not None:
            tags.add(f"group:{self.group}")
        return tuple(sorted(tags))


class Requirement(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What an executor must offer for one kind of work. None: not asked for."""

    kind: str
    connector: str | None = None
    engine: str | None = None
    backend: str | None = None
    # Sorted, each once: equal requirements have equal signatures.
    tags: tuple[str, ...] = ()

    @property
    def signature(self) -> str:
        """The hash of this requirement."""
        return signature(self.kind, self.connector, self.engine, self.backend, self.tags)


class Capabilities(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What an executor declared in `hello`, and its control-plane tags. None: everything of that sort."""

    kinds: frozenset[str] | None = None
    connectors: frozenset[str] | None = None
    engines: frozenset[str] | None = None
    backends: frozenset[str] | None = None
    # The control plane's; what an agent reports about itself never routes.
    tags: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        *,
        kinds: Iterable[str] | None = None,
        connectors: Iterable[str] | None = None,
        engines: Iterable[str] | None = None,
        backends: Iterable[str] | None = None,
        tags: Iterable[str] = (),
    ) -> Capabilities:
        """From lists as they come in frames and rows; None stays None, an empty list offers nothing."""
        return cls(_set(kinds), _set(connectors), _set(engines), _set(backends), frozenset(tags))


def _set(values: Iterable[str] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(values)


@lru_cache(maxsize=4096)
def signature(
    kind: str, connector: str | None, engine: str | None, backend: str | None, tags: tuple[str, ...] = ()
) -> str:
    """16 hex digits over the requirement; the order and repetition of tags do not matter."""
    material = msgspec.json.encode([kind, connector, engine, backend, sorted(set(tags))])
    return hashlib.sha256(material).hexdigest()[:16]


def matches(offer: Capabilities, requirement: Requirement) -> bool:
    """Whether an executor with these capabilities may be given that work."""
    return (
        _offers(offer.kinds, requirement.kind)
        and _offers(offer.connectors, requirement.connector)
        and _offers(offer.engines, requirement.engine)
        and _offers(offer.backends, requirement.backend)
        and offer.tags.issuperset(requirement.tags)
    )


def _offers(offered: Collection[str] | None, wanted: str | None) -> bool:
    return wanted is None or offered is None or wanted in offered
