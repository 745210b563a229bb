"""`POST /mcp`: the control plane as tools for a coding assistant, over the Model Context Protocol.

The caller is an API key, and the organization is the key's. Each request stands for itself: there is no session to
keep, so any process of many answers. The protocol is the official SDK's (`mcp_endpoint`), the tools are in `mcp_tools`.
"""

from typing import cast

from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import HTTPReceiveMessage, HTTPScope, Receive, Scope, Send

from vespid.control.body import MAX_BODY_BYTES
from vespid.control.context import key_holder
from vespid.control.deps import Deps
from vespid.errors import ApiError


@asgi("/mcp", guards=[key_holder], copy_scope=True)
async def mcp(scope: Scope, receive: Receive, send: Send) -> None:
    """One message of the protocol. Nothing is ever pushed, so a GET, which would listen for that, is refused."""
    if cast(HTTPScope, scope)["method"] != "POST":
        message = "This route takes POST alone; it streams nothing by itself."
        raise ApiError(405, "METHOD_NOT_ALLOWED", message, headers={"Allow": "POST"})
    body = await _whole_body(receive)
    deps: Deps = scope["litestar_app"].state.deps
    is_read = False

    async def again() -> HTTPReceiveMessage:
        nonlocal is_read
        if is_read:
            # Whether the caller is still there.
            return cast(HTTPReceiveMessage, await receive())
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    await deps.mcp.answer(scope, again, send)


async def _whole_body(receive: Receive) -> bytes:
    """Raises ApiError 413."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ApiError(400, "BAD_REQUEST", "The request ended before its body.")
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(413, "BODY_TOO_LARGE", "The body is larger than this route takes.")
        if not message.get("more_body"):
            return bytes(body)


routes: list[ASGIRouteHandler] = [mcp]
