"""Webhooks: whoever has a workflow's token starts it, once per delivery that names itself."""

import hashlib
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec
from litestar import Request, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from vespid.control.deps import Deps
from vespid.control.openapi import errors
from vespid.control.rate_limit import FAILURES_LIMITED, failures_limited, subjects_of
from vespid.control.run_view import Run, run_of, shown_run
from vespid.control.runs import accept_run, require_created, wake
from vespid.errors import not_found
from vespid.store import runs, webhooks
from vespid_protocol.ids import OrgId, RunId, hash_token, new_id
from vespid_protocol.text import clean_json, clean_text

# Headers by which senders name a delivery; the first that is there counts.
DELIVERY_HEADERS = ("idempotency-key", "webhook-id", "x-github-delivery")
# These say who the sender is towards us, and would lie in the run for all members to read.
_PRIVATE_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie"})


class HookAnswer(msgspec.Struct, frozen=True):
    """The run that the delivery started, now or when it came first."""

    run: Run


@post(
    "/v1/hooks/{token:str}",
    status_code=202,
    opt=FAILURES_LIMITED,
    responses=errors(404, 413),
    operation_id="deliverWebhook",
    tags=["hooks"],
)
async def deliver_webhook(
    token: FromPath[str], deps: NamedDependency[Deps], request: Request[Any, Any, Any]
) -> HookAnswer:
    """Start a webhook-triggered workflow. `run.input` is `{headers, query, body}`; the body may be anything."""
    async with failures_limited(deps, "hook", subjects_of(request), valid_always_passes=True):
        async with deps.database.system() as connection:
            webhook = await webhooks.find_webhook(connection, hash_token(token))
        if webhook is None:
            raise not_found(message="There is no such webhook.")
    run = runs.NewRun(
        org=OrgId(str(webhook.organization_id)),
        id=RunId(new_id()),
        workflow_id=str(webhook.workflow_id),
        trigger_type="webhook",
        max_attempts=deps.settings.retry_attempts,
        user_id=None if webhook.published_by_user_id is None else str(webhook.published_by_user_id),
        input=msgspec.Raw(await _input_of(request)),
    )
    delivery = _delivery_of(request.headers)
    if delivery is not None:
        return HookAnswer(await _accept_once(deps, webhook, run, delivery))
    created = await accept_run(deps, run)
    return HookAnswer(shown_run(run, created.created_at))


async def _accept_once(deps: Deps, webhook: webhooks.Webhook, run: runs.NewRun, delivery: bytes) -> Run:
    """The delivery and its run are one commit: neither is there without the other."""
    async with deps.database.tenant(run.org) as connection:
        owner = await webhooks.remember_delivery(connection, webhook, delivery, UUID(run.id))
        if str(owner) == run.id:
            created = (await runs.create_runs(connection, [run]))[0]
            require_created(created)
            earlier = None
        else:
            earlier = await runs.read_any_run(connection, webhook.organization_id, owner)
    if earlier is not None:
        return await run_of(deps, earlier, [], {})
    if str(owner) != run.id:
        raise not_found(message="The run of this delivery is no longer kept.")
    wake(deps, run.org, run.id)
    return shown_run(run, created.created_at)


def _delivery_of(headers: Mapping[str, str]) -> bytes | None:
    for name in DELIVERY_HEADERS:
        value = headers.get(name)
        if value:
            return hashlib.sha256(f"{name}:{value}".encode("utf-8", "surrogatepass")).digest()
    return None


async def _input_of(request: Request[Any, Any, Any]) -> bytes:
    headers = {
        name.lower(): clean_text(value)[0]
        for name, value in request.headers.items()
        if name.lower() not in _PRIVATE_HEADERS
    }
    query: dict[str, str | list[str]] = {}
    for name, values in request.query_params.dict().items():
        texts = [clean_text(value)[0] for value in values]
        query[clean_text(name)[0]] = texts[0] if len(texts) == 1 else texts
    return msgspec.json.encode({"headers": headers, "query": query, "body": _body_of(await request.body())})


def _body_of(body: bytes) -> object:
    """The decoded JSON, else the text, else nothing."""
    if not body:
        return None
    try:
        return msgspec.json.decode(clean_json(body)[0])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return clean_text(body.decode("utf-8", "replace"))[0]


routes = [deliver_webhook]
