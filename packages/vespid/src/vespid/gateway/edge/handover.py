"""Inline secrets of synchronous dispatches, kept in memory between the HTTP call and the `execute` it becomes."""

import asyncio

import msgspec

from vespid.dispatch.secrets import RequestSecrets, SecretUnavailable
from vespid.security.envelope import SecretValue
from vespid.store.executions import SecretRefs
from vespid_protocol.codes import Code
from vespid_protocol.ids import RequestId

# Nobody waits longer for an `execute` that has not been sent.
KEPT_S = 60.0

_decode_refs = msgspec.json.Decoder(SecretRefs).decode


class Handover:
    """Values by request, each taken at most once."""

    def __init__(self) -> None:
        # Value, and the loop time until which it is kept; oldest first.
        self._values: dict[RequestId, tuple[SecretValue, float]] = {}

    def keep(self, request_id: RequestId, value: SecretValue) -> None:
        """Hold it until its request is sent."""
        now = asyncio.get_running_loop().time()
        self._values[request_id] = (value, now + KEPT_S)
        for kept, (_, until) in tuple(self._values.items()):
            if until > now:
                break
            del self._values[kept]

    def forget(self, request_id: RequestId) -> None:
        self._values.pop(request_id, None)

    def take(self, request_id: RequestId, stored_refs: bytes) -> RequestSecrets | None:
        """The inline secret of a request; None where it has none. Raises SecretUnavailable where it was lost."""
        if not _decode_refs(stored_refs).inline:
            return None
        held = self._values.pop(request_id, None)
        if held is None:
            raise SecretUnavailable(Code.SECRET_REQUIRED, "the secret of this request was lost; dispatch it again")
        return RequestSecrets(held[0])
