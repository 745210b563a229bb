"""Secrets: named, replaced, deleted. A value goes in and is never shown."""

from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from vespid.web.account import form_of
from vespid.web.api import ApiRefused
from vespid.web.visitor import PageRequest, Visitor

# Whose secrets are keys of model providers; connectors tell theirs themselves.
_MODEL_PROVIDERS = ("openai", "anthropic", "gemini", "openrouter", "openai-compatible")


@get("/secrets")
async def secrets_page(visitor: NamedDependency[Visitor]) -> Response[Any]:
    """The list, and the form for one more."""
    return await _list(visitor)


@post("/secrets", status_code=200)
async def create_secret(request: PageRequest, visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Seal a value."""
    given = await form_of(request)
    made = {"connectorId": given.get("connectorId", ""), "name": given.get("name", ""), "value": given.get("value", "")}
    try:
        await visitor.api.post("secrets", made)
    except ApiRefused as refused:
        return await _list(visitor, given={**given, "value": ""}, refused=refused)
    visitor.tell("secrets.made", name=given["name"])
    return await _list(visitor)


@post("/secrets/{secret_id:str}/value", status_code=200)
async def replace_secret(
    request: PageRequest, visitor: NamedDependency[Visitor], secret_id: FromPath[str]
) -> Response[Any]:
    """Seal another value in its place."""
    given = await form_of(request)
    await visitor.api.put(f"secrets/{secret_id}", {"value": given.get("value", "")})
    visitor.tell("secrets.replaced")
    return await _list(visitor)


@post("/secrets/{secret_id:str}/delete", status_code=200)
async def delete_secret(visitor: NamedDependency[Visitor], secret_id: FromPath[str]) -> Response[Any]:
    """Forget a secret for good."""
    await visitor.api.delete(f"secrets/{secret_id}")
    visitor.tell("secrets.deleted")
    return await _list(visitor)


async def _list(
    visitor: Visitor, *, given: dict[str, str] | None = None, refused: ApiRefused | None = None
) -> Response[Any]:
    query = visitor.request.query_params
    connector = query.get("connectorId", "")
    found = await visitor.api.get("secrets", cursor=query.get("cursor"), connectorId=connector)
    connectors = await visitor.api.get("/v1/meta/connectors")
    needing = [known["id"] for known in connectors["connectors"] if known["requiresSecret"]]
    return visitor.page(
        "secrets/list.html",
        status=refused.status if refused else 200,
        secrets=found["secrets"],
        next_cursor=found["nextCursor"],
        kinds=sorted({*needing, *_MODEL_PROVIDERS}),
        filters={"connectorId": connector},
        given=given or {},
        refused=refused,
    )


routes = [secrets_page, create_secret, replace_secret, delete_secret]
