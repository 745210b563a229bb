"""Pages for people, served beside the API by the same process.

They are a client of the API and nothing more: what a page shows and does it asks of the API, in the same process, with
the visitor's own cookie (`api.py`). So there is one place where rights are checked, and nothing that only pages can do.

    request → visitor.py (who looks, in which organization and language) → a noun's module → templates/<noun>/…

A noun's module exports `routes`. `docs/pages.md` says how a page is made.
"""

from importlib import import_module
from typing import Any

from litestar import Router
from litestar.di import Provide

from vespid.web.api import ApiRefused, NoOrganization
from vespid.web.refusal import answer_no_organization, answer_refused, answer_unforeseen
from vespid.web.visitor import provide_visitor

# Modules of `vespid.web` with routes.
NOUNS = (
    "account",
    "agents",
    "api_keys",
    "approvals",
    "assets",
    "audit_log",
    "home",
    "members",
    "preferences",
    "revisions",
    "runs",
    "secrets",
    "sessions",
    "settings",
    "usage",
    "workflows",
)


def pages() -> list[Any]:
    """What the control plane serves for people."""
    routes = [route for noun in NOUNS for route in import_module(f"vespid.web.{noun}").routes]
    return [
        Router(
            path="/",
            route_handlers=routes,
            dependencies={"visitor": Provide(provide_visitor)},
            exception_handlers={
                ApiRefused: answer_refused,
                NoOrganization: answer_no_organization,
                Exception: answer_unforeseen,
            },
            include_in_schema=False,
        )
    ]
