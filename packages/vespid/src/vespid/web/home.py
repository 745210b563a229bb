"""The way in: where a visitor is sent first."""

from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency

from vespid.web.visitor import Visitor


@get("/")
async def home(visitor: NamedDependency[Visitor]) -> Response[Any]:
    """To the sign-in, or to what there is to see."""
    visitor.require_sign_in()
    return visitor.page("home.html")


routes = [home]
