"""Tokens of webhooks: one per family of workflows, shown when it is made, stored as a hash."""

import secrets
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from litestar import Request, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from vespid.control.audit import AuditAction, audit
from vespid.control.context import TenantContext, org_admin, row_id
from vespid.control.openapi import errors
from vespid.errors import conflict, not_found
from vespid.store import webhooks as rows
from vespid.store import workflows
from vespid_protocol.ids import hash_token

TOKEN_BYTES = 16


class Webhook(msgspec.Struct, frozen=True):
    """Where to send; the token is all that a sender needs, and is not shown again."""

    token: str
    url: str


class WebhookAnswer(msgspec.Struct, frozen=True):
    """A new token; the one of before is unknown from now on."""

    webhook: Webhook


async def first_webhook(
    connection: asyncpg.Connection, organization_id: UUID, family_id: UUID, request: Request[Any, Any, Any]
) -> Webhook | None:
    """The family's token, if it had none; None where it has one, which nobody can show again."""
    webhook = _new_webhook(request)
    made = await rows.create_webhook_token(connection, organization_id, family_id, hash_token(webhook.token))
    return webhook if made else None


@post(
    "/v1/orgs/{org_id:str}/workflows/{workflow_id:str}/rotate-webhook",
    guards=[org_admin],
    status_code=200,
    responses=errors(409),
    operation_id="rotateWebhook",
    tags=["workflows"],
)
async def rotate_webhook(
    workflow_id: FromPath[str], tenant: NamedDependency[TenantContext], request: Request[Any, Any, Any]
) -> WebhookAnswer:
    """Replace the token of a webhook-triggered workflow; the old one stops working at once."""
    row = row_id(workflow_id)
    webhook = _new_webhook(request)
    async with tenant.transaction() as connection:
        workflow = await workflows.read_workflow(connection, row)
        if workflow is None:
            raise not_found()
        if not await rows.rotate_webhook_token(connection, workflow.family_id, hash_token(webhook.token)):
            raise conflict("No revision of this workflow with a webhook trigger was ever published.")
        await audit(connection, tenant, AuditAction.WEBHOOK_ROTATED, workflow.family_id)
    return WebhookAnswer(webhook)


def _new_webhook(request: Request[Any, Any, Any]) -> Webhook:
    token = secrets.token_urlsafe(TOKEN_BYTES)
    return Webhook(token, f"{str(request.base_url).rstrip('/')}/v1/hooks/{token}")


routes = [rotate_webhook]
