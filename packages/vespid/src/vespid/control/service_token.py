"""Who calls the internal routes: another process of ours, by the token that they share."""

import hmac

from litestar.handlers.base import BaseRouteHandler

from vespid.control.deps import Deps
from vespid.control.principal import Connection
from vespid.errors import unauthorized

HEADERS = ("x-service-token", "x-gateway-token")


async def service_caller(connection: Connection, _handler: BaseRouteHandler) -> None:
    """Lets in who has the service token. Without a token configured, nobody."""
    deps: Deps = connection.app.state.deps
    expected = deps.settings.internal_service_token.encode()
    given = next((value for name in HEADERS if (value := connection.headers.get(name))), "")
    # Compared in constant time, and also where there is nothing to compare with.
    if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected) or not expected:
        raise unauthorized("The service token is not valid.")
