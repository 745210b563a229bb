"""What a visitor prefers, kept in cookies: organization, language, theme. And an organization more."""

from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromQuery

from vespid.web.account import form_of
from vespid.web.api import ApiRefused
from vespid.web.language import TAGS
from vespid.web.visitor import (
    LANGUAGE_COOKIE,
    ORG_COOKIE,
    THEME_COOKIE,
    THEMES,
    PageRequest,
    Visitor,
    own_path,
    preference,
)


@get("/preferences/organization")
async def choose_organization(
    request: PageRequest, visitor: NamedDependency[Visitor], to: FromQuery[str]
) -> Response[Any]:
    """Look at another organization of mine; one that is not mine changes nothing."""
    response = visitor.go_to("/")
    if visitor.me is not None and any(org["id"] == to for org in visitor.me["orgs"]):
        response.set_cookie(preference(ORG_COOKIE, to, request))
    return response


@post("/preferences", status_code=200)
async def choose(request: PageRequest, visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Language or theme; back to the page."""
    given = await form_of(request)
    response = visitor.go_to(own_path(given.get("next")))
    if given.get("language") in TAGS:
        response.set_cookie(preference(LANGUAGE_COOKIE, given["language"], request))
    if given.get("theme") in THEMES:
        response.set_cookie(preference(THEME_COOKIE, given["theme"], request))
    return response


@get("/organizations/new")
async def new_organization_page(visitor: NamedDependency[Visitor]) -> Response[Any]:
    """The form."""
    visitor.require_sign_in()
    return visitor.page("organization.html", given={}, refused=None)


@post("/organizations/new", status_code=200)
async def new_organization(request: PageRequest, visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Make an organization, and look at it."""
    given = await form_of(request)
    try:
        made = await visitor.api.post("/v1/orgs", {"name": given.get("name", ""), "slug": given.get("slug", "")})
    except ApiRefused as refused:
        return visitor.page("organization.html", status=refused.status, given=given, refused=refused)
    response = visitor.go_to("/")
    response.set_cookie(preference(ORG_COOKIE, made["organization"]["id"], request))
    return response


routes = [choose_organization, choose, new_organization_page, new_organization]
