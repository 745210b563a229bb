"""`smtp.send`: one message through one mail server.

The secret says where and who: `smtps://user:password@host[:465]` (TLS from the first byte) or
`smtp://user:password@host[:587][?tls=starttls|none]`. STARTTLS is the default and required: a server without it is
refused rather than told a password in clear; only `tls=none` sends in clear, and says so by its name.
The Message-ID is made from the idempotency key, so that a mailbox can tell a repeated attempt from a second message.
"""

import asyncio
import hashlib
import re
import ssl
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate
from typing import Annotated, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import aiosmtplib
import msgspec

from vespid_runtime.connectors.contract import (
    Action,
    ActionContext,
    ActionInput,
    Connector,
    ConnectorError,
    invalid_input,
)
from vespid_runtime.egress.connect import open_socket

TlsMode = Literal["implicit", "starttls", "none"]

_ADDRESS = re.compile(r"[^\s<>@,;:\"()\[\]\\]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_NAMED_ADDRESS = re.compile(rf"(?P<name>[^<>\r\n]{{0,200}})<(?P<address>{_ADDRESS.pattern})>")

Recipients = Annotated[list[str], msgspec.Meta(max_length=100)]


class SendInput(ActionInput, frozen=True):
    # `ada@example.com` or `Ada Lovelace <ada@example.com>`, everywhere.
    from_: str = msgspec.field(name="from")
    to: Annotated[list[str], msgspec.Meta(min_length=1, max_length=100)]
    cc: Recipients = msgspec.field(default_factory=list)
    bcc: Recipients = msgspec.field(default_factory=list)
    reply_to: str | None = None
    subject: Annotated[str, msgspec.Meta(max_length=998)] = ""
    text: str | None = None
    html: str | None = None


@dataclass(frozen=True, slots=True)
class MailServer:
    host: str
    port: int
    user: str | None
    password: str
    tls: TlsMode


async def send(input: SendInput, secret: str | None, context: ActionContext) -> object:
    server = parse_server(secret or "")
    message = _message(input, context)
    sender = _address("from", input.from_)
    lists = {"to": input.to, "cc": input.cc, "bcc": input.bcc}
    recipients = [_address(f"{name}[{at}]", one) for name, ones in lists.items() for at, one in enumerate(ones)]
    size = len(message.as_bytes())
    if size > context.limits.request_max_bytes:
        raise invalid_input("text", f"the message is {size} bytes, more than {context.limits.request_max_bytes}")
    try:
        refused, answer = await _deliver(server, message, sender, list(dict.fromkeys(recipients)), context)
    except aiosmtplib.SMTPRecipientsRefused as all_refused:
        first = all_refused.recipients[0]
        raise _rejected(first.code, first.message) from all_refused
    except aiosmtplib.SMTPResponseException as rejected:
        raise _rejected(rejected.code, rejected.message) from rejected
    except aiosmtplib.SMTPNotSupported as unsupported:
        raise ConnectorError("SMTP_FAILED", f"{server.host} does not offer what is needed: STARTTLS or AUTH") from (
            unsupported
        )
    except (aiosmtplib.SMTPException, OSError) as broken:
        if isinstance(broken, TimeoutError) and not isinstance(broken, aiosmtplib.SMTPException):
            raise
        if any(isinstance(error, ssl.SSLCertVerificationError) for error in (broken, broken.__cause__)):
            raise ConnectorError("SMTP_FAILED", f"the certificate of {server.host} is not trusted") from broken
        message_text = f"{server.host}:{server.port}: the exchange failed ({type(broken).__name__})"
        raise ConnectorError("SMTP_FAILED", message_text, retryable=True) from broken
    return {"messageId": message["Message-ID"], "refused": sorted(refused), "response": answer[:500]}


def parse_server(secret: str) -> MailServer:
    """Raises `ConnectorError` (the text never quotes the secret)."""

    def bad(problem: str) -> ConnectorError:
        return invalid_input("auth.secretId", f"the mail server's URL {problem}")

    try:
        parts = urlsplit(secret.strip())
        port, host = parts.port, parts.hostname
    except ValueError:
        raise bad("cannot be parsed") from None
    if parts.scheme not in ("smtp", "smtps") or not host:
        raise bad("is not smtp://host or smtps://host")
    tls: TlsMode = "implicit" if parts.scheme == "smtps" else "starttls"
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key != "tls" or value not in ("starttls", "none") or parts.scheme == "smtps":
            raise bad("has an option other than tls=starttls or tls=none (for smtp:// only)")
        tls = "none" if value == "none" else "starttls"
    default_port = {"implicit": 465, "starttls": 587, "none": 25}[tls]
    user = unquote(parts.username) if parts.username else None
    return MailServer(host, port or default_port, user, unquote(parts.password or ""), tls)


async def _deliver(
    server: MailServer, message: EmailMessage, sender: str, recipients: list[str], context: ActionContext
) -> tuple[list[str], str]:
    """(refused recipients, the server's last word). At least one recipient was accepted."""
    seconds = context.remaining_s()
    async with asyncio.timeout(seconds):
        connected = await open_socket(context.guard, server.host, server.port)
        client = aiosmtplib.SMTP(
            hostname=server.host,
            sock=connected,
            timeout=seconds,
            use_tls=server.tls == "implicit",
            start_tls=False,
            local_hostname="vespid",
        )
        try:
            await client.connect()
            if server.tls == "starttls":
                await client.starttls()
            if server.user is not None:
                await client.login(server.user, server.password)
            errors, answer = await client.send_message(message, sender=sender, recipients=recipients)
            return list(errors), answer
        finally:
            # The message is accepted or refused by now; QUIT would only wait for a farewell. The socket is the
            # transport's from `connect` on: closing it under the transport would free its number too early.
            client.close()


def _message(input: SendInput, context: ActionContext) -> EmailMessage:
    if input.text is None and input.html is None:
        raise invalid_input("text", "text or html is needed")
    digest = hashlib.sha256(context.idempotency_key.encode()).hexdigest()[:40]
    message = EmailMessage()
    message["Message-ID"] = f"<{digest}@vespid.invalid>"
    message["Date"] = formatdate(localtime=False)
    _set_header(message, "from", "From", input.from_)
    _set_header(message, "to", "To", ", ".join(input.to))
    _set_header(message, "cc", "Cc", ", ".join(input.cc))
    _set_header(message, "replyTo", "Reply-To", input.reply_to or "")
    _set_header(message, "subject", "Subject", input.subject)
    if input.text is not None:
        message.set_content(input.text)
        if input.html is not None:
            message.add_alternative(input.html, subtype="html")
    elif input.html is not None:
        message.set_content(input.html, subtype="html")
    return message


def _set_header(message: EmailMessage, field: str, name: str, value: str) -> None:
    if not value:
        return
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in value):
        raise invalid_input(field, "holds line breaks or control characters")
    message[name] = value


def _address(field: str, text: str) -> str:
    named = _NAMED_ADDRESS.fullmatch(text.strip())
    address = named["address"] if named else text.strip()
    if not _ADDRESS.fullmatch(address):
        raise invalid_input(field, "is not a mail address")
    return address


def _rejected(status: int, text: str) -> ConnectorError:
    # 4xx is the server's own word for "try again later".
    retryable = 400 <= status < 500
    return ConnectorError(f"SMTP_FAILED:{status}", f"the server answered {status} {text[:300]}", retryable=retryable)


connector = Connector(
    id="smtp",
    display_name="Mail (SMTP)",
    requires_secret=True,
    actions=(Action("send", SendInput, send, "Send an e-mail; text, html, or both."),),
)
