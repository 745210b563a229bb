"""Slack: post a message. The secret is a bot token (`xoxb-…`) with `chat:write`.

Slack offers no idempotency key: an attempt whose answer was lost posts again when it is retried.
"""

from typing import Annotated

import msgspec

from vespid_runtime.connectors.call import call, failed
from vespid_runtime.connectors.contract import (
    Action,
    ActionContext,
    ActionInput,
    Connector,
    ConnectorError,
    invalid_input,
)

DEFAULT_BASE_URL = "https://slack.com/api"
BASE_URL_KEY = "slackApiBaseUrl"

_SERVICE = "SLACK"
# Slack answers 200 and says these in the body; a later try may pass.
_PASSING = frozenset(
    {"ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable", "request_timeout"}
)


class MessagePostInput(ActionInput, frozen=True):
    channel: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    text: Annotated[str, msgspec.Meta(max_length=40_000)] = ""
    blocks: Annotated[list[dict[str, object]], msgspec.Meta(max_length=50)] | None = None
    thread_ts: str | None = None


class _Answer(msgspec.Struct, frozen=True):
    ok: bool
    error: str = ""
    channel: str | None = None
    ts: str | None = None


async def message_post(input: MessagePostInput, secret: str | None, context: ActionContext) -> object:
    if not input.text and not input.blocks:
        raise invalid_input("text", "text or blocks is needed")
    content: dict[str, object] = {"channel": input.channel, "text": input.text}
    content |= {"blocks": input.blocks} if input.blocks else {}
    content |= {"thread_ts": input.thread_ts} if input.thread_ts else {}
    operator = context.operator_base_urls.get(BASE_URL_KEY)
    base = (operator or context.request_base_urls.get(BASE_URL_KEY) or DEFAULT_BASE_URL).rstrip("/")
    reply = await call(
        context,
        _SERVICE,
        "POST",
        f"{base}/chat.postMessage",
        headers={"Authorization": f"Bearer {secret}", "Content-Type": "application/json; charset=utf-8"},
        body=msgspec.json.encode(content),
        operator_base=operator,
    )
    if reply.status != 200:
        raise failed(_SERVICE, reply, retryable=False)
    try:
        answer = msgspec.json.decode(reply.body, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as odd:
        raise ConnectorError("SLACK_REQUEST_FAILED", "answered something that is not Slack's JSON") from odd
    if not answer.ok:
        reason = answer.error[:100]
        message = f"Slack refused: {reason}"
        raise ConnectorError(f"SLACK_REQUEST_FAILED:{reason}", message, retryable=answer.error in _PASSING)
    return {"channel": answer.channel, "ts": answer.ts}


connector = Connector(
    id="slack",
    display_name="Slack",
    requires_secret=True,
    actions=(Action("message.post", MessagePostInput, message_post, "Post a message to a Slack channel."),),
)
