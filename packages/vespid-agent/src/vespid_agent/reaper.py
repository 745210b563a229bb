"""What an earlier process of this agent left running is ended before anything new is taken.

Each request that was `started` when the process died has its processes killed by the backend that made them, and is
journaled `failed AGENT_DISCONNECTED`, which the gateway may retry. Under `onLost: resend`, and of a session's turn,
that is kept and not sent: the gateway places those elsewhere by itself. What the work had kept goes with the failure,
so that the next attempt can go on from there. A mark that cannot be understood or reaped keeps the agent from saying
more than it knows: the request is failed all the same, and the log says what may still run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import msgspec

from vespid_agent.journal import Entry, EntryState, Journal
from vespid_agent.logs import Logger
from vespid_agent.marks import read_marks
from vespid_agent.result import failure_of
from vespid_agent.sandbox.task import Backend, ProcessMark, SandboxError
from vespid_protocol import codec
from vespid_protocol.codes import Code


async def reap(journal: Journal, backends: Mapping[str, Backend], log: Logger) -> None:
    """Leaves `journal.leftovers` empty. Raises JournalError."""
    for entry in journal.leftovers:
        if entry.mark is not None:
            await _end_calls(entry.request_id, entry.mark, backends, log)
        state = EntryState.ABANDONED if entry.moves else EntryState.FINISHED
        await journal.close_leftover(entry, entry.result or _interrupted(entry), state)
        log.warning("reaped", request_id=entry.request_id)
        ended = replace(entry, state=state, mark=None, result=None, kept=None)
        (journal.abandoned if entry.moves else journal.unacknowledged).append(ended)
    journal.leftovers = []


def _interrupted(entry: Entry) -> bytes:
    message = "the agent was restarted while it worked on this"
    failure = failure_of(entry.request_id, entry.lease_epoch or None, Code.AGENT_DISCONNECTED, message)
    if entry.kept is not None:
        failure = msgspec.structs.replace(failure, output=msgspec.Raw(entry.kept))
    return codec.encode(failure)


async def _end_calls(request_id: str, text: str, backends: Mapping[str, Backend], log: Logger) -> None:
    try:
        marks = read_marks(text)
    except msgspec.DecodeError as error:
        log.error("mark_unreadable", request_id=request_id, error=str(error))
        return
    for mark in marks:
        await _end_processes(request_id, mark, backends, log)


async def _end_processes(request_id: str, text: str, backends: Mapping[str, Backend], log: Logger) -> None:
    try:
        mark = msgspec.json.decode(text, type=ProcessMark)
    except msgspec.DecodeError as error:
        log.error("mark_unreadable", request_id=request_id, error=str(error))
        return
    backend = backends.get(mark.backend)
    if backend is None:
        log.error("mark_of_missing_backend", request_id=request_id, backend=mark.backend, pid=mark.pid)
        return
    try:
        await backend.reap(mark)
    except (SandboxError, OSError) as error:
        log.error("reap_failed", request_id=request_id, backend=mark.backend, pid=mark.pid, error=str(error))
