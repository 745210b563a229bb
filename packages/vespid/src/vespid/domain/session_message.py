"""What somebody says in a session: the body of POST …/messages, and what `session_send` carries.

Decoding into `SessionMessage` is the check: lengths are of the contract, in characters. Unknown keys are ignored.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

MESSAGE_MAX_CHARS = 50_000
ATTACHMENTS_MAX = 32
ATTACHMENT_TEXT_MAX_CHARS = 100_000
# A message over HTTP may be so large; everything else is bound by the server's 1 MiB.
BODY_MAX_BYTES = 4 * 1024 * 1024

IdempotencyKey = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class Attachment(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Something given along: text, or where it can be fetched."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    mime_type: Annotated[str, msgspec.Meta(min_length=1, max_length=120)]
    content_url: Annotated[str, msgspec.Meta(max_length=2_048)] | None = None
    content_text: Annotated[str, msgspec.Meta(max_length=ATTACHMENT_TEXT_MAX_CHARS)] | None = None
    metadata: dict[str, Any] | None = None


class SessionMessage(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One message. The same key in one session is one message, however often it is sent."""

    message: Annotated[str, msgspec.Meta(min_length=1, max_length=MESSAGE_MAX_CHARS)]
    attachments: Annotated[list[Attachment], msgspec.Meta(max_length=ATTACHMENTS_MAX)] | None = None
    idempotency_key: IdempotencyKey | None = None
