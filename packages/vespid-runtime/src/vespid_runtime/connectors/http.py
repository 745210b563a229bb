"""`http.request`: any HTTP endpoint the egress guard lets us reach; also the node kind of that name.

The secret, where there is one, becomes one header:
    `Name: value`            (a header name, a colon, a space) that header
    `Basic …`, `Bearer …`    the whole value of Authorization
    anything else            `Authorization: Bearer <secret>`
It is dropped when a redirect leaves the origin. Answers below 500 other than 429 are answers, not failures: what a 404
means is for the workflow to say.
"""

import asyncio
import base64
import re
from typing import Annotated, Literal

import msgspec

from vespid_runtime.connectors.call import call
from vespid_runtime.connectors.contract import Action, ActionContext, ActionInput, Connector, invalid_input
from vespid_runtime.egress import HttpReply

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_NAMED_SECRET = re.compile(rf"(?P<name>{_TOKEN.pattern}): +(?P<value>.+)")
_SCHEMED_SECRET = re.compile(r"(?:Basic|Bearer) +\S.*", re.IGNORECASE)
# These decide how the message is framed and where it goes, which is the client's business.
_REFUSED_HEADERS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "te", "trailer", "expect"}
)
_TEXT_TYPES = re.compile(r"text/.*|application/(xml|javascript|x-www-form-urlencoded|x-ndjson)|.*\+xml")
_JSON_TYPES = re.compile(r"application/json|text/json|.*\+json")


class RequestInput(ActionInput, frozen=True):
    url: Annotated[str, msgspec.Meta(min_length=1, max_length=8192)]
    method: Method = "GET"
    headers: dict[str, str | int | float | bool] = msgspec.field(default_factory=dict)
    # A string is sent as it is, anything else as JSON.
    body: object = None
    timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=600_000)] | None = None


class RequestOutput(msgspec.Struct, frozen=True, rename="camel"):
    status: int
    headers: dict[str, str]
    # Decoded JSON, text, or base64, as `body_encoding` says.
    body: object
    body_encoding: Literal["json", "text", "base64"]
    truncated: bool


async def request(input: RequestInput, secret: str | None, context: ActionContext) -> object:
    headers = _checked_headers(input.headers)
    names = {name.lower() for name in headers}
    private: frozenset[str] = frozenset()
    if secret:
        name, value = auth_header(secret)
        if name.lower() in names:
            raise invalid_input(f"headers.{name}", "is set by the secret as well; leave one of them out")
        headers[name] = value
        private = frozenset({name.lower()})
    body = _encoded_body(input.body)
    if body is not None and not isinstance(input.body, str) and "content-type" not in names:
        headers["Content-Type"] = "application/json"
    if input.method not in ("GET", "HEAD", "OPTIONS") and "idempotency-key" not in names:
        headers["Idempotency-Key"] = context.idempotency_key
    async with asyncio.timeout(context.remaining_s(input.timeout_ms)):
        reply = await call(
            context, "HTTP", input.method, input.url, headers=headers, body=body, private_headers=private
        )
    return msgspec.to_builtins(_output(reply))


def auth_header(secret: str) -> tuple[str, str]:
    """(name, value) of the header a secret becomes; the rule is in the module's docstring."""
    secret = secret.strip()
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in secret):
        raise invalid_input("auth.secretId", "the secret holds line breaks or control characters")
    named = _NAMED_SECRET.fullmatch(secret)
    if named:
        return named["name"], named["value"]
    if _SCHEMED_SECRET.fullmatch(secret):
        return "Authorization", secret
    return "Authorization", f"Bearer {secret}"


def _checked_headers(given: dict[str, str | int | float | bool]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, raw in given.items():
        value = raw if isinstance(raw, str) else msgspec.json.encode(raw).decode()
        if not _TOKEN.fullmatch(name):
            raise invalid_input("headers", f"{name[:128]!r} is not a header name")
        if name.lower() in _REFUSED_HEADERS or name.lower().startswith("proxy-"):
            raise invalid_input(f"headers.{name}", "cannot be set")
        if len(value) > 8192 or any(_is_control(char) for char in value):
            raise invalid_input(f"headers.{name}", "is too long or holds line breaks or control characters")
        headers[name] = value
    return headers


def _is_control(char: str) -> bool:
    return (ord(char) < 0x20 and char != "\t") or ord(char) == 0x7F


def _encoded_body(body: object) -> bytes | None:
    if body is None:
        return None
    if isinstance(body, str):
        return body.encode("utf-8", "replace")
    return msgspec.json.encode(body)


def _output(reply: HttpReply) -> RequestOutput:
    kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if _JSON_TYPES.fullmatch(kind) and not reply.truncated:
        try:
            decoded = msgspec.json.decode(reply.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            decoded = None  # says JSON and is not: given as the text that it is
        else:
            return RequestOutput(reply.status, dict(reply.headers), decoded, "json", truncated=False)
    if not kind or _TEXT_TYPES.fullmatch(kind) or _JSON_TYPES.fullmatch(kind):
        text = _text(reply)
        return RequestOutput(reply.status, dict(reply.headers), text, "text", reply.truncated)
    encoded = base64.b64encode(reply.body).decode()
    return RequestOutput(reply.status, dict(reply.headers), encoded, "base64", reply.truncated)


def _text(reply: HttpReply) -> str:
    try:
        return reply.body.decode(reply.charset or "utf-8", "replace")
    except LookupError:  # a charset nobody knows
        return reply.body.decode("utf-8", "replace")


connector = Connector(
    id="http",
    display_name="HTTP",
    requires_secret=False,
    actions=(Action("request", RequestInput, request, "Send one HTTP request; answers status, headers and body."),),
)
