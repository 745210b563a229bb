"""Settings of the organization."""

from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency

from vespid.web.account import form_of
from vespid.web.api import ApiRefused
from vespid.web.visitor import PageRequest, Visitor


@get("/settings")
async def settings_page(visitor: NamedDependency[Visitor]) -> Response[Any]:
    """What is set; admins can change it."""
    return await _show(visitor)


@post("/settings", status_code=200)
async def change_settings(request: PageRequest, visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Everything on the page at once."""
    given = await form_of(request)
    try:
        await visitor.api.put("settings", _asked(given))
    except ApiRefused as refused:
        return await _show(visitor, refused)
    visitor.tell("settings.saved")
    return await _show(visitor)


def _asked(given: dict[str, str]) -> dict[str, Any]:
    quota = given.get("maxExecutorInFlight", "")
    primary = {name: given.get(name) or None for name in ("provider", "model", "secretId")}
    return {
        "tools": {name: name in given for name in ("shellRunEnabled", "shellSecretsEnabled")},
        # What is no number goes as it is: the API says so at its field.
        "execution": {"quotas": {"maxExecutorInFlight": (int(quota) if quota.isdecimal() else quota) or None}},
        "llm": {"defaults": {"primary": primary}},
    }


async def _show(visitor: Visitor, refused: ApiRefused | None = None) -> Response[Any]:
    read = await visitor.api.get("settings")
    secrets: list[Any] = []
    if visitor.has_role("admin"):
        secrets = (await visitor.api.get("secrets", limit=100))["secrets"]
    return visitor.page(
        "settings/show.html",
        status=refused.status if refused else 200,
        settings=read["settings"],
        secrets=secrets,
        refused=refused,
    )


routes = [settings_page, change_settings]
