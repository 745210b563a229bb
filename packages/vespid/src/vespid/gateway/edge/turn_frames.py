"""The frames that bring a turn to its host, made from what the lease answered. Pure.

A session's past and memory may be larger than a frame: they go in several `session_open` frames of one requestId, each
under half the limit, and all but the last say that more follows. A base peer takes one frame: it is given the newest
part of the past that fits.
"""

from collections.abc import Iterable, Iterator

import msgspec

from vespid_protocol.frames import HistoryEntry, MemoryDocument, SessionOpen, SessionTurn

# What a frame holds beside history and memory, generously.
_ENVELOPE_BYTES = 64 * 1024

_encode = msgspec.json.Encoder().encode
_Piece = HistoryEntry | MemoryDocument


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """What the host lacks of a session. `history_seq`: the message whose turn is the last one in it."""

    history: tuple[HistoryEntry, ...]
    history_seq: int
    generation: int
    memory: tuple[MemoryDocument, ...]


def open_frames(head: SessionOpen, past: Past, *, max_frame_bytes: int, is_base: bool) -> list[SessionOpen]:
    """`head` names the session; it has no past yet."""
    room = max(max_frame_bytes // 2 - _ENVELOPE_BYTES - len(head.session_config), _ENVELOPE_BYTES)
    if is_base:
        return [_filled(head, past, _newest(past.history, room), more=None)]
    pieces: list[_Piece] = [*past.memory, *past.history]
    parts = list(_parts(pieces, room)) or [[]]
    return [_filled(head, past, part, more=True if part is not parts[-1] else None) for part in parts]


def turn_frame(
    head: SessionOpen, seq: int, payload: bytes, prior: bytes | None, *, may_run_shell: bool = False
) -> SessionTurn:
    """`payload` is the user message's: {message, attachments?}."""
    message = _decode_message(payload)
    return SessionTurn(
        request_id=head.request_id,
        organization_id=head.organization_id,
        session_id=head.session_id,
        session_key=head.session_key,
        user_id=head.user_id,
        event_seq=seq,
        message=message.message,
        attachments=message.attachments,
        prior=msgspec.UNSET if prior is None else msgspec.Raw(prior),
        shell_run_enabled=True if may_run_shell else msgspec.UNSET,
    )


class _Message(msgspec.Struct, frozen=True):
    message: str
    attachments: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_message = msgspec.json.Decoder(_Message).decode


def _filled(head: SessionOpen, past: Past, part: Iterable[_Piece], *, more: bool | None) -> SessionOpen:
    pieces = list(part)
    history = tuple(piece for piece in pieces if isinstance(piece, HistoryEntry))
    return msgspec.structs.replace(
        head,
        history=history,
        history_from=history[0].seq if history else 0,
        history_seq=past.history_seq,
        generation=past.generation,
        memory=tuple(piece for piece in pieces if isinstance(piece, MemoryDocument)),
        more=more,
    )


def _parts(pieces: Iterable[_Piece], room: int) -> Iterator[list[_Piece]]:
    part: list[_Piece] = []
    used = 0
    for piece in pieces:
        size = len(_encode(piece)) + 1
        if part and used + size > room:
            yield part
            part, used = [], 0
        part.append(piece)
        used += size
    if part:
        yield part


def _newest(history: tuple[HistoryEntry, ...], room: int) -> list[HistoryEntry]:
    kept: list[HistoryEntry] = []
    for entry in reversed(history):
        room -= len(_encode(entry)) + 1
        if room < 0:
            break
        kept.append(entry)
    return kept[::-1]
