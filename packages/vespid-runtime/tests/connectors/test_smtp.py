"""smtp.send against a small real server, in clear and with TLS under a test authority."""

import email
import ssl
from pathlib import Path

import pytest

from vespid_runtime.connectors import ConnectorError, registry
from vespid_runtime.connectors.smtp import parse_server

from .conftest import MakeContext
from .mail_server import MailServer

CONNECTORS = registry(())
MAIL = {"from": "Ada <ada@example.com>", "to": ["bob@example.com"], "subject": "Grüße", "text": "hello"}


@pytest.fixture
def trusted(tmp_path: Path, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))


async def send(make_context: MakeContext, secret: str, **more: object) -> dict[str, object]:
    output = await CONNECTORS.run("smtp", "send", MAIL | more, secret, make_context())
    assert isinstance(output, dict)
    return output


async def test_message_in_clear_arrives_whole(make_context: MakeContext) -> None:
    async with MailServer(None) as server:
        secret = f"smtp://mail.local.example:{server.port}?tls=none"
        output = await send(make_context, secret, cc=["c@example.com"], bcc=["d@example.com"], html="<b>hello</b>")
    mail = server.received[0]
    message = email.message_from_bytes(mail.content)
    assert mail.sender == "ada@example.com"
    assert mail.recipients == ["bob@example.com", "c@example.com", "d@example.com"]
    assert message["Message-ID"] == output["messageId"]
    assert "d@example.com" not in mail.content.decode()
    assert [part.get_content_type() for part in message.walk()][1:] == ["text/plain", "text/html"]


async def test_repeated_attempt_has_the_same_message_id(make_context: MakeContext) -> None:
    async with MailServer(None) as server:
        secret = f"smtp://mail.local.example:{server.port}?tls=none"
        first, second = await send(make_context, secret), await send(make_context, secret)
    assert first["messageId"] == second["messageId"]


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("implicit", [True, False])
async def test_tls_is_used_and_the_name_is_checked_not_the_address(
    make_context: MakeContext, tls: ssl.SSLContext, implicit: bool
) -> None:
    async with MailServer(tls, implicit=implicit) as server:
        scheme = "smtps" if implicit else "smtp"
        await send(make_context, f"{scheme}://ada:p%40ss@mail.local.example:{server.port}")
        with pytest.raises(ConnectorError, match="not trusted"):
            await send(make_context, f"{scheme}://ada:p%40ss@wrong.local.example:{server.port}")
    assert [(mail.user, mail.encrypted) for mail in server.received] == [("ada", True)]


@pytest.mark.promise("P7")
async def test_server_without_starttls_is_never_told_the_password(make_context: MakeContext) -> None:
    async with MailServer(None) as server:
        with pytest.raises(ConnectorError) as failed:
            await send(make_context, f"smtp://ada:hunter2@mail.local.example:{server.port}")
    assert failed.value.code == "SMTP_FAILED"
    assert "AUTH" not in server.heard
    assert "hunter2" not in str(failed.value)


@pytest.mark.parametrize(("answer", "retryable"), [("550 no such user", False), ("451 later", True)])
async def test_refused_recipients_are_final_or_not_as_the_server_says(
    make_context: MakeContext, answer: str, retryable: bool
) -> None:
    async with MailServer(None) as server:
        server.answers["RCPT"] = answer
        with pytest.raises(ConnectorError) as failed:
            await send(make_context, f"smtp://mail.local.example:{server.port}?tls=none")
    assert (failed.value.code, failed.value.retryable) == (f"SMTP_FAILED:{answer[:3]}", retryable)


async def test_mail_server_is_under_the_guard(make_context: MakeContext) -> None:
    context = make_context(guarded=True)
    with pytest.raises(ConnectorError) as denied:
        await CONNECTORS.run("smtp", "send", MAIL, "smtp://mail.local.example:25?tls=none", context)
    assert denied.value.code == "EGRESS_DENIED"


@pytest.mark.promise("P10")
@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"to": []}, "to"),
        ({"to": ["not an address"]}, "to[0]"),
        ({"to": ["a@b.example\r\nRCPT TO:<x@y>"]}, "to"),
        ({"from": "nobody"}, "from"),
        ({"subject": "a\r\nBcc: x@y.example"}, "subject"),
        ({"text": None}, "text"),
        ({"cc": ["a@b.example", "<>"]}, "cc[1]"),
        ({"replyTo": "a@b\nX: y"}, "replyTo"),
    ],
)
async def test_bad_messages_name_the_field(make_context: MakeContext, more: dict[str, object], field: str) -> None:
    with pytest.raises(ConnectorError) as refused:
        await send(make_context, "smtp://mail.local.example:9?tls=none", **more)
    assert (refused.value.code, refused.value.details) == ("INVALID_ACTION_INPUT", {"field": field})


@pytest.mark.parametrize(
    "secret", ["hunter2", "http://h", "smtp://", "smtps://h?tls=none", "smtp://h?x=1", "smtp://h:x"]
)
def test_urls_that_are_no_mail_server_are_refused(secret: str) -> None:
    with pytest.raises(ConnectorError) as refused:
        parse_server(secret)
    assert "hunter2" not in str(refused.value)
