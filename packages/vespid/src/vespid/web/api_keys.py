"""API keys: credentials of machines."""

from datetime import UTC, datetime, timedelta
from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from vespid.web.account import form_of
from vespid.web.api import ApiRefused
from vespid.web.visitor import PageRequest, Visitor

# The lives that are offered, in days; 0: until it is revoked.
LIVES = (30, 90, 365, 0)


@get("/api-keys")
async def api_keys_page(visitor: NamedDependency[Visitor]) -> Response[Any]:
    """The list, and the form for one more."""
    return await _list(visitor)


@post("/api-keys", status_code=200)
async def create_api_key(request: PageRequest, visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Make a key; its value is shown this once."""
    given = await form_of(request)
    asked: dict[str, Any] = {"name": given.get("name", ""), "role": given.get("role", "")}
    days = given.get("days", "")
    if days in map(str, LIVES) and days != "0":
        asked["expiresAt"] = (datetime.now(UTC) + timedelta(days=int(days))).isoformat()
    try:
        made = await visitor.api.post("api-keys", asked)
    except ApiRefused as refused:
        return await _list(visitor, given=given, refused=refused)
    return await _list(visitor, made={"name": made["apiKey"]["name"], "value": made["value"]})


@post("/api-keys/{key_id:str}/revoke", status_code=200)
async def revoke_api_key(visitor: NamedDependency[Visitor], key_id: FromPath[str]) -> Response[Any]:
    """Have a key stop at once."""
    await visitor.api.delete(f"api-keys/{key_id}")
    visitor.tell("api_keys.revoked")
    return await _list(visitor)


async def _list(
    visitor: Visitor,
    *,
    given: dict[str, str] | None = None,
    refused: ApiRefused | None = None,
    made: dict[str, str] | None = None,
) -> Response[Any]:
    query = visitor.request.query_params
    text = query.get("q", "")
    found = await visitor.api.get("api-keys", cursor=query.get("cursor"), q=text)
    return visitor.page(
        "api_keys/list.html",
        status=refused.status if refused else 200,
        keys=found["apiKeys"],
        next_cursor=found["nextCursor"],
        lives=LIVES,
        filters={"q": text},
        given=given or {},
        refused=refused,
        made=made,
    )


routes = [api_keys_page, create_api_key, revoke_api_key]
