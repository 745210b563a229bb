"""From a template to an answer: HTML that escapes everything, pages or single blocks of them, and a page's headers."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from litestar import Request

from vespid.web import shown
from vespid.web.assets import asset_path
from vespid.web.navigation import NAVIGATION

# Nothing from other hosts, nothing inline. Pages talk to the API they come from and to the gateway's client socket.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'{sockets}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@cache
def environment() -> Environment:
    """The templates of this package. A name that a template does not have is an error, not an empty text."""
    made = Environment(
        loader=PackageLoader("vespid.web"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(asset=asset_path, navigation=NAVIGATION)
    made.filters.update(shown.FILTERS)
    # A block that is rendered alone does not see what its template imports; so nothing is imported.
    made.globals["ui"] = made.get_template("parts.html").module
    return made


def html(template: str, block: str, context: Mapping[str, Any]) -> bytes:
    """The page, or only this block of it. A page without such a block is given whole."""
    found = environment().get_template(template)
    if block and block in found.blocks:
        inner = found.blocks[block](found.new_context(dict(context)))
        return "".join(inner).encode()
    return found.render(context).encode()


def page_headers(request: Request[Any, Any, Any]) -> dict[str, str]:
    """What goes with every page: it is one visitor's, and nothing else may run in it or frame it."""
    return {
        "Content-Security-Policy": _POLICY.format(sockets=_sockets(request)),
        "Cache-Control": "no-store",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Vary": "HX-Request, HX-Target",
    }


def header_json(value: Any) -> str:
    """JSON fit for a header: ASCII."""
    return json.dumps(value)


def client_socket_url(request: Request[Any, Any, Any]) -> str:
    """Where the gateway's client socket is, as the control plane's settings say."""
    told: str = request.app.state.deps.settings.client_ws_url
    return told


def _sockets(request: Request[Any, Any, Any]) -> str:
    parts = urlsplit(client_socket_url(request))
    return f" {parts.scheme}://{parts.netloc}" if parts.netloc else ""
