"""Sessions: the list, a new one, and the conversation, which goes over the gateway's client socket (`chat.js`)."""

from secrets import token_hex
from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from vespid.web.account import form_of
from vespid.web.api import ApiRefused
from vespid.web.render import client_socket_url
from vespid.web.visitor import PageRequest, Visitor

# Of these one person can have as many as they like, by the channel.
NEW_SCOPE = "per-channel-peer"
SCOPES = ("main", "per-peer", "per-channel-peer", "per-account-channel-peer")


@get("/sessions")
async def sessions_page(visitor: NamedDependency[Visitor]) -> Response[Any]:
    """The list, the newest first."""
    query = visitor.request.query_params
    text = query.get("q", "")
    found = await visitor.api.get("sessions", cursor=query.get("cursor"), q=text)
    return visitor.page(
        "sessions/list.html", sessions=found["sessions"], next_cursor=found["nextCursor"], filters={"q": text}
    )


@get("/sessions/new")
async def new_session_page(visitor: NamedDependency[Visitor]) -> Response[Any]:
    """The form."""
    return await _form(visitor)


@post("/sessions/new", status_code=200)
async def new_session(request: PageRequest, visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Begin a session, or go to the one that has the same key."""
    given = await form_of(request)
    try:
        made = await visitor.api.post("sessions", _asked(given))
    except ApiRefused as refused:
        return await _form(visitor, given, refused)
    return visitor.go_to(f"/sessions/{made['session']['id']}")


@get("/sessions/{session_id:str}")
async def session_page(visitor: NamedDependency[Visitor], session_id: FromPath[str]) -> Response[Any]:
    """The conversation."""
    session = (await visitor.api.get(f"sessions/{session_id}"))["session"]
    hosts: dict[str, str] = {}
    if visitor.has_role("admin"):
        hosts = {agent["id"]: agent["name"] for agent in (await visitor.api.get("agents"))["agents"]}
    return visitor.page(
        "sessions/chat.html",
        hosts=hosts,
        session=session,
        socket_url=client_socket_url(visitor.request),
        said={
            key.removeprefix("sessions.chat."): text
            for key, text in visitor.language.texts.items()
            if key.startswith("sessions.chat.")
        },
    )


@post("/sessions/{session_id:str}/title", status_code=200)
async def retitle(request: PageRequest, visitor: NamedDependency[Visitor], session_id: FromPath[str]) -> Response[Any]:
    """Give it another title, or none."""
    given = await form_of(request)
    await visitor.api.patch(f"sessions/{session_id}", {"title": given.get("title") or None})
    return visitor.go_to(f"/sessions/{session_id}")


def _asked(given: dict[str, str]) -> dict[str, Any]:
    """The body of POST …/sessions; what was left empty is left out."""
    asked: dict[str, Any] = {name: given[name] for name in ("title", "scope", "peer", "channel") if given.get(name)}
    asked["executionMode"] = "pinned-node-host"
    if given.get("scope", NEW_SCOPE) == NEW_SCOPE and not given.get("channel"):
        # Whoever asks for a new one wants one of its own, and not that of the last time.
        asked |= {"scope": NEW_SCOPE, "channel": f"pages-{token_hex(4)}"}
    if given.get("engineId"):
        engine: dict[str, Any] = {"id": given["engineId"]}
        engine |= {name: given[name] for name in ("provider", "model") if given.get(name)}
        if given.get("secretId"):
            engine["auth"] = {"secretId": given["secretId"]}
        asked["engine"] = engine
    if given.get("instructions"):
        asked["prompt"] = {"instructions": given["instructions"]}
    tools = given.get("tools", "").replace(",", " ").split()
    if tools:
        asked["tools"] = {"allow": tools}
    selector = {name: given[name] for name in ("pool", "tag", "executorId") if given.get(name)}
    if selector:
        asked["executorSelector"] = selector
    return asked


async def _form(
    visitor: Visitor, given: dict[str, str] | None = None, refused: ApiRefused | None = None
) -> Response[Any]:
    visitor.require_sign_in()
    engines = (await visitor.api.get("/v1/agent/engines"))["engines"]
    agents: list[Any] = []
    secrets: list[Any] = []
    if visitor.has_role("admin"):
        agents = [one for one in (await visitor.api.get("agents"))["agents"] if one["status"] != "revoked"]
        secrets = (await visitor.api.get("secrets", limit=100))["secrets"]
    return visitor.page(
        "sessions/new.html",
        status=refused.status if refused else 200,
        engines=engines,
        agents=agents,
        secrets=secrets,
        scopes=SCOPES,
        new_scope=NEW_SCOPE,
        given=given or {},
        refused=refused,
    )


routes = [sessions_page, new_session_page, new_session, session_page, retitle]
