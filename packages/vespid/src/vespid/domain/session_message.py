"""What somebody says in a session: the body of POST …/messages, and what `session_send` carries.

Decoding into `SessionMessage` is the check: lengths are of the contract, in characters. Unknown keys are ignored.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from vespid_protocol.client_frames import ATTACHMENTS_MAX, MESSAGE_MAX_CHARS, Attachment, IdempotencyKey

# A message over HTTP may be so large; everything else is bound by the server's 1 MiB.
BODY_MAX_BYTES = 4 * 1024 * 1024


class SessionMessage(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One message. The same key in one session is one message, however often it is sent."""

    message: Annotated[str, msgspec.Meta(min_length=1, max_length=MESSAGE_MAX_CHARS)]
    attachments: Annotated[list[Attachment], msgspec.Meta(max_length=ATTACHMENTS_MAX)] | None = None
    idempotency_key: IdempotencyKey | None = None
