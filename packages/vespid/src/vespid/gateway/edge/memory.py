"""Memory that is on a host: asked for over its socket, committed where the answer comes in (`bus.memory_push`)."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from vespid.bus.memory_push import KnownDocument, PushAsked, Pushed
from vespid.errors import ApiError
from vespid.gateway.edge.connection import Connection
from vespid.gateway.edge.memory_documents import stored
from vespid.gateway.edge.registry import Registry
from vespid.store.failure import STORE_AWAY, STORE_REFUSED
from vespid.store.turns import TurnStore
from vespid_protocol.codes import Code
from vespid_protocol.frames import MemoryDocument, MemorySync, MemorySyncResult
from vespid_protocol.ids import RequestId, new_id
from vespid_runtime.memory import DELETED_SHA256, admit, session_folder

log = structlog.get_logger("vespid.gateway.edge.memory")

# A host reads some hundred files for it.
WITHIN_S = 15.0
PROVIDER = "builtin"


class _Details(msgspec.Struct, frozen=True):
    """What we read of `memory_sync_result.details`; a base peer may say anything there, or nothing."""

    documents: tuple[MemoryDocument, ...] = ()


_decode_details = msgspec.json.Decoder(_Details).decode


class HostMemory:
    """What the sockets of this edge are asked about memory."""

    def __init__(self, registry: Registry, turns: TurnStore, root: Path, *, within_s: float = WITHIN_S) -> None:
        self._registry = registry
        self._turns = turns
        # What a base peer is told as its folder; our own agent has a root of its own.
        self._root = root
        self._within_s = within_s
        self._waiting: dict[RequestId, tuple[Connection, asyncio.Future[MemorySyncResult]]] = {}

    async def push(self, asked: PushAsked) -> Pushed:
        """Raises ApiError: 404 where the host's socket is not here, 503 where it does not answer as it should."""
        connection = self._registry.get(asked.executor_id)
        if connection is None or connection.is_over or connection.org_id not in (None, asked.organization_id):
            raise ApiError(404, "NOT_FOUND", "That host is not connected here.")
        result = await self._ask(connection, asked)
        if result.status == "failed":
            raise _unanswered(_known_code(result.error), "The host could not read the session's memory.")
        documents, left_out = _read(result, asked.known)
        changed = stored(documents)
        try:
            version = await self._turns.put_memory(asked.organization_id, asked.session_id, asked.executor_id, changed)
        except STORE_AWAY:
            raise
        except STORE_REFUSED as error:
            # More than a session may remember, or two names for one file; nothing of it is taken.
            log.warning("memory_refused", session_id=asked.session_id, error=repr(error))
            raise _unanswered(Code.RESULT_TOO_LARGE, f"The host's memory cannot be kept: {error}"[:200]) from error
        if version is None:
            raise _unanswered(Code.PINNED_AGENT_OFFLINE, "The session has moved to another host meanwhile.")
        return Pushed(version, left_out)

    def answered(self, connection: Connection, frame: MemorySyncResult) -> None:
        """A host answers; only the one that was asked is heard."""
        asked, waiting = self._waiting.get(RequestId(frame.request_id), (None, None))
        if waiting is None or asked is not connection or waiting.done():
            log.info("memory_unasked", executor_id=connection.executor_id)
            return
        waiting.set_result(frame)

    def over(self, connection: Connection) -> None:
        """Its socket is gone; nobody waits for it any more."""
        for asked, waiting in tuple(self._waiting.values()):
            if asked is connection and not waiting.done():
                waiting.set_exception(_unanswered(Code.PINNED_AGENT_OFFLINE, "The host went away."))

    async def _ask(self, connection: Connection, asked: PushAsked) -> MemorySyncResult:
        request_id = RequestId(new_id())
        waiting: asyncio.Future[MemorySyncResult] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = (connection, waiting)
        try:
            connection.forward(
                MemorySync(
                    request_id=request_id,
                    organization_id=asked.organization_id,
                    session_id=asked.session_id,
                    session_key=asked.session_key,
                    provider=PROVIDER,
                    workspace_dir=str(session_folder(self._root, asked.organization_id, asked.session_key)),
                    direction="pull",
                    documents=tuple(
                        MemoryDocument(path=known.path, version=known.version, sha256=known.sha256, content=None)
                        for known in asked.known
                    ),
                )
            )
            async with asyncio.timeout(self._within_s):
                return await waiting
        except TimeoutError:
            raise _unanswered(Code.PINNED_AGENT_OFFLINE, "The host did not answer in time.") from None
        finally:
            del self._waiting[request_id]


def _read(result: MemorySyncResult, known: Sequence[KnownDocument]) -> tuple[tuple[MemoryDocument, ...], list[str]]:
    """The documents to put down, and why others are not."""
    if not isinstance(result.details, msgspec.Raw):
        return (), []
    try:
        details = _decode_details(result.details)
    except msgspec.ValidationError as error:
        raise _unanswered(Code.GATEWAY_RESPONSE_INVALID, f"The host's answer is not readable: {error}") from error
    admitted = admit(details.documents)
    left_out = [str(refused) for refused in admitted.refused]
    there = {document.path for document in admitted.documents if document.content is not None}
    gone = {document.path for document in admitted.documents if document.sha256 == DELETED_SHA256} - there
    if known and not there and gone >= {document.path for document in known}:
        # A disk that was lost looks like this; what people forget on purpose goes with the turn that forgot it.
        return (), [*left_out, "documents: the host has none of them; what is known was kept"]
    return admitted.documents, left_out


def _known_code(error: str | None) -> Code:
    try:
        return Code(error or "")
    except ValueError:
        return Code.NODE_EXECUTION_FAILED


def _unanswered(code: Code, message: str) -> ApiError:
    return ApiError(503, code, message)
