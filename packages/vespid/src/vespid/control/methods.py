"""Which methods a path answers to.

The framework keeps several routes of one path where their handlers came one by one, and knows in each only its own.
"""

from litestar import Litestar
from litestar.routes import HTTPRoute


def allow_header(app: Litestar, path: str) -> str:
    """The value of `Allow` for a path, over all routes of it."""
    parts = [part for part in path.split("/") if part]
    leading = [route for route in app.routes if isinstance(route, HTTPRoute) and _leads_to(route, parts)]
    # Where a word and a parameter both fit, the word is meant, as it is where the request is routed.
    meant = max((_words_of(route) for route in leading), default=0)
    methods = {str(method) for route in leading if _words_of(route) == meant for method in route.methods}
    return ", ".join(sorted(methods))


def _leads_to(route: HTTPRoute, parts: list[str]) -> bool:
    components = route.path_components
    return len(components) == len(parts) and all(
        component == part or not isinstance(component, str) for component, part in zip(components, parts, strict=True)
    )


def _words_of(route: HTTPRoute) -> int:
    return sum(isinstance(component, str) for component in route.path_components)
