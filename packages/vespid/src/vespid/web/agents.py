"""Agents: paired, seen, tagged, cordoned, given new tokens, revoked."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from vespid.web.account import form_of
from vespid.web.api import ApiRefused
from vespid.web.fleet import is_older, ways_to_pair
from vespid.web.visitor import PageRequest, Visitor, origin_of

STANDINGS = ("online", "offline", "cordoned", "revoked")
_PLATFORMS = ("darwin-arm64", "linux-x64", "windows-x64", "connect", "checkout")


@get("/agents")
async def agents_page(visitor: NamedDependency[Visitor]) -> Response[Any]:
    """The list, with its filters in the address."""
    query = visitor.request.query_params
    filters = {name: query.get(name, "") for name in ("status", "tag", "q")}
    cursor = query.get("cursor", "")
    found = await visitor.api.get("agents", cursor=cursor, **filters)
    given = {name: value for name, value in {**filters, "cursor": cursor}.items() if value}
    return visitor.page(
        "agents/list.html",
        agents=found["agents"],
        next_cursor=found["nextCursor"],
        standings=STANDINGS,
        tags=sorted({tag for agent in found["agents"] for tag in agent["tags"]}),
        filters=filters,
        here="/agents" + (f"?{urlencode(given)}" if given else ""),
        is_filtered=bool(given),
        outdated=await _outdated(visitor, found["agents"]),
    )


@post("/agents/pair", status_code=200)
async def pair(request: PageRequest, visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Make a pairing token, and show what to type with it."""
    token = await visitor.api.post("agents/pairing-tokens")
    installer = await _installer(visitor)
    ways = ways_to_pair(installer, token["token"], origin_of(request))
    return visitor.page(
        "agents/pairing.html",
        token=token,
        ways=sorted(ways, key=lambda way: _PLATFORMS.index(way.id)),
        installer=installer,
        agent=None,
        state=None,
    )


@get("/agents/pairing/{token_id:str}")
async def pairing_state(visitor: NamedDependency[Visitor], token_id: FromPath[str]) -> Response[Any]:
    """Whether somebody has come with the token."""
    state = (await visitor.api.get(f"agents/pairing-tokens/{token_id}"))["pairingToken"]
    agent = None
    if state["agentId"] is not None:
        agent = (await visitor.api.get(f"agents/{state['agentId']}"))["agent"]
    return visitor.page("agents/pairing_state.html", token=state, agent=agent, state=state)


@get("/agents/{agent_id:str}")
async def agent_page(visitor: NamedDependency[Visitor], agent_id: FromPath[str]) -> Response[Any]:
    """All there is to know of one."""
    return await _show(visitor, agent_id)


@post("/agents/{agent_id:str}/tags", status_code=200)
async def change_tags(
    request: PageRequest, visitor: NamedDependency[Visitor], agent_id: FromPath[str]
) -> Response[Any]:
    """Add tags (several with commas between them), or remove one."""
    given = await form_of(request)
    agent = (await visitor.api.get(f"agents/{agent_id}"))["agent"]
    added = [tag.strip() for tag in given.get("add", "").split(",") if tag.strip()]
    tags = [tag for tag in dict.fromkeys([*agent["tags"], *added]) if tag != given.get("remove")]
    refused = None
    try:
        agent["tags"] = (await visitor.api.put(f"agents/{agent_id}/tags", {"tags": tags}))["agent"]["tags"]
    except ApiRefused as error:
        if error.status != 400:
            raise
        refused = error
    status = refused.status if refused else 200
    return visitor.page("agents/tags.html", status=status, agent=agent, refused=refused, given=given)


@post("/agents/{agent_id:str}/cordon", status_code=200)
async def cordon(visitor: NamedDependency[Visitor], agent_id: FromPath[str]) -> Response[Any]:
    """Send it nothing new."""
    await visitor.api.post(f"agents/{agent_id}/cordon")
    visitor.tell("agents.cordoned_now")
    return await _show(visitor, agent_id)


@post("/agents/{agent_id:str}/uncordon", status_code=200)
async def uncordon(visitor: NamedDependency[Visitor], agent_id: FromPath[str]) -> Response[Any]:
    """Let it have work again."""
    await visitor.api.post(f"agents/{agent_id}/uncordon")
    visitor.tell("agents.uncordoned_now")
    return await _show(visitor, agent_id)


@post("/agents/{agent_id:str}/rotate", status_code=200)
async def rotate(visitor: NamedDependency[Visitor], agent_id: FromPath[str]) -> Response[Any]:
    """Give it another token, shown this once."""
    rotated = await visitor.api.post(f"agents/{agent_id}/rotate-token")
    return await _show(visitor, agent_id, new_token=rotated["agentToken"])


@post("/agents/{agent_id:str}/revoke", status_code=200)
async def revoke(request: PageRequest, visitor: NamedDependency[Visitor], agent_id: FromPath[str]) -> Response[Any]:
    """Shut it out for good, if its name was typed."""
    given = await form_of(request)
    agent = (await visitor.api.get(f"agents/{agent_id}"))["agent"]
    if given.get("name") != agent["name"].strip():
        wrong = visitor.language.text("agents.revoke_other_name")
        refused = ApiRefused(400, "BAD_REQUEST", wrong, {"fieldErrors": {"name": [wrong]}})
        return await _show(visitor, agent_id, refused=refused)
    await visitor.api.post(f"agents/{agent_id}/revoke")
    visitor.tell("agents.revoked_now", name=agent["name"])
    return await _show(visitor, agent_id)


async def _show(
    visitor: Visitor, agent_id: str, *, new_token: str | None = None, refused: ApiRefused | None = None
) -> Response[Any]:
    agent = (await visitor.api.get(f"agents/{agent_id}"))["agent"]
    return visitor.page(
        "agents/show.html",
        status=refused.status if refused else 200,
        agent=agent,
        outdated=await _outdated(visitor, [agent]),
        new_token=new_token,
        refused=None,
        not_revoked=refused,
        given={},
    )


async def _installer(visitor: Visitor) -> Any:
    """Where the downloads are; None: this installation offers none."""
    try:
        return await visitor.api.get("/v1/meta/agent-installer")
    except ApiRefused as refused:
        if refused.status != 503:
            raise
        return None


async def _outdated(visitor: Visitor, agents: Sequence[Any]) -> dict[str, str]:
    """The server's version, by the ids of agents that are older."""
    server = (await visitor.api.get("/v1/meta/capabilities"))["provider"]["version"]
    return {agent["id"]: server for agent in agents if is_older(agent["agentVersion"], server)}


routes = [agents_page, pair, pairing_state, agent_page, change_tags, cordon, uncordon, rotate, revoke]
