"""What the control plane asks gateways about the memory on a host, by their internal HTTP.

It asks every one at once: none but the gateway with the host's socket knows that it has it. The others answer 404, so
that nobody who is offline is waited for.
"""

import msgspec

from vespid_protocol.ids import ExecutorId, OrgId, SessionId

ROUTE = "/internal/v1/memory/push"


class KnownDocument(msgspec.Struct, frozen=True):
    """A document as the server has it."""

    path: str
    version: int
    sha256: str


class PushAsked(msgspec.Struct, frozen=True, rename="camel"):
    """Have the host that a session is pinned to push what differs from what is known."""

    organization_id: OrgId
    session_id: SessionId
    session_key: str
    executor_id: ExecutorId
    known: tuple[KnownDocument, ...] = ()


class Pushed(msgspec.Struct, frozen=True, rename="camel"):
    """It is committed under this version; why some of it is not."""

    memory_version: int
    left_out: list[str]
