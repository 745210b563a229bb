"""A mail server of a few verbs for the tests: AUTH PLAIN, STARTTLS, one message per connection kept as it came."""

import asyncio
import base64
import ssl
from dataclasses import dataclass, field


@dataclass
class Mail:
    sender: str = ""
    recipients: list[str] = field(default_factory=list)
    content: bytes = b""
    user: str = ""
    encrypted: bool = False


class MailServer:
    def __init__(self, tls: ssl.SSLContext | None, *, implicit: bool = False, offers_starttls: bool = True) -> None:
        self._tls = tls
        self._implicit = implicit
        self._offers_starttls = offers_starttls and tls is not None and not implicit
        self._server: asyncio.Server | None = None
        self.received: list[Mail] = []
        # Answers of its own by verb, e.g. {"RCPT": "550 no such user"}.
        self.answers: dict[str, str] = {}
        self.heard: list[str] = []
        self.port = 0

    async def __aenter__(self) -> "MailServer":
        tls = self._tls if self._implicit else None
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mail = Mail(encrypted=self._implicit)
        writer.write(b"220 test\r\n")
        try:
            while line := (await reader.readline()).decode().strip():
                verb = line.split(" ")[0].upper()
                self.heard.append(verb)
                if verb in self.answers:
                    answer = self.answers[verb]
                elif verb == "EHLO":
                    offers = ["STARTTLS"] if self._offers_starttls and not mail.encrypted else []
                    lines = ["test", *offers, "AUTH PLAIN", "8BITMIME"]
                    answer = "\r\n".join([*(f"250-{offer}" for offer in lines[:-1]), f"250 {lines[-1]}"])
                elif verb == "STARTTLS":
                    writer.write(b"220 go\r\n")
                    assert self._tls is not None
                    await writer.start_tls(self._tls)
                    mail.encrypted = True
                    continue
                elif verb == "AUTH":
                    mail.user = base64.b64decode(line.split(" ")[2]).split(b"\0")[1].decode()
                    answer = "235 welcome"
                elif verb == "DATA":
                    writer.write(b"354 go\r\n")
                    mail.content = (await reader.readuntil(b"\r\n.\r\n"))[:-5]
                    self.received.append(mail)
                    answer = "250 queued"
                else:
                    if verb == "MAIL":
                        mail.sender = line.partition("<")[2].partition(">")[0]
                    if verb == "RCPT":
                        mail.recipients.append(line.partition("<")[2].partition(">")[0])
                    answer = "250 ok"
                writer.write(answer.encode() + b"\r\n")
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            pass  # the client goes when it has what it wants
        finally:
            writer.close()
