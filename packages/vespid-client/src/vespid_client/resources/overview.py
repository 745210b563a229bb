"""An organization at a glance, and the hints that it has changed."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal

from vespid_client.api import Api
from vespid_client.comeback import Comeback
from vespid_client.errors import ApiError, ConnectionFailed
from vespid_client.models.overview import Hint, Overview
from vespid_client.route import Route, get
from vespid_client.sse import EventParser, decoded

Window = Literal["1h", "24h", "7d"]

OVERVIEW = get("/v1/orgs/{org_id}/overview", Overview)
CHANGES: Route[None] = Route("GET", "/v1/orgs/{org_id}/stream", type(None))
# How long a listener tries to reach a server that does not answer.
PATIENCE_S = 300.0


async def overview(api: Api, window: Window) -> Overview:
    """Fleet, queue, and what the last hour, day or week was like."""
    return await api.call(OVERVIEW, query={"window": window})


async def changes(api: Api) -> AsyncGenerator[Hint, None]:
    """Hints that something has changed, without end. Each `hello` says that hints may have been missed before it."""
    comeback = Comeback(PATIENCE_S, api.watch)
    while True:
        failure: ApiError | ConnectionFailed | None = None
        try:
            async with aclosing(_connected(api, comeback)) as hints:
                async for hint in hints:
                    yield hint
        except (ApiError, ConnectionFailed) as error:
            failure = error
        await comeback.wait(failure)


async def _connected(api: Api, comeback: Comeback) -> AsyncGenerator[Hint, None]:
    parser = EventParser()
    async with api.stream(CHANGES) as answer:
        async for piece in answer.content.iter_any():
            comeback.heard()
            for event in parser.feed(piece):
                yield decoded(event, Hint)
