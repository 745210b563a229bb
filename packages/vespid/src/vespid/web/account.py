"""Signing up, in and out, and accepting an invitation."""

from collections.abc import Mapping
from http.cookies import SimpleCookie
from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from vespid.web.api import Answer, ApiRefused
from vespid.web.refusal import mend_of
from vespid.web.visitor import PageRequest, Visitor, own_path

_AS_GIVEN = ("password", "value")
_NO_VALUES: Mapping[str, str] = {}


@get("/signin")
async def sign_in_page(visitor: NamedDependency[Visitor]) -> Response[Any]:
    """The form, for those who are not signed in."""
    return _already_in(visitor) or _form(visitor, "signin.html")


@post("/signin", status_code=200)
async def sign_in(request: PageRequest, visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Sign in, and go where the visitor was going."""
    given = await form_of(request)
    return await _enter(visitor, "signin.html", "/v1/auth/login", given, ("email", "password"))


@get("/signup")
async def sign_up_page(visitor: NamedDependency[Visitor]) -> Response[Any]:
    """The form, for those who are not signed in."""
    return _already_in(visitor) or _form(visitor, "signup.html")


@post("/signup", status_code=200)
async def sign_up(request: PageRequest, visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Make an account with an organization of its own, and sign in."""
    given = await form_of(request)
    names = ("email", "password", "displayName") if given.get("displayName") else ("email", "password")
    return await _enter(visitor, "signup.html", "/v1/auth/signup", given, names)


@post("/signout", status_code=200)
async def sign_out(visitor: NamedDependency[Visitor]) -> Response[Any]:
    """End this login."""
    answer = await visitor.api.call("POST", "/v1/auth/logout")
    return _with_cookies(visitor.go_to("/signin"), answer)


@get("/invitations/{token:str}")
async def invitation_page(visitor: NamedDependency[Visitor], token: FromPath[str]) -> Response[Any]:
    """Asks whether to join; who is not signed in is told to, and comes back."""
    return visitor.page("invitation.html", token=token)


@post("/invitations/{token:str}", status_code=200)
async def accept_invitation(visitor: NamedDependency[Visitor], token: FromPath[str]) -> Response[Any]:
    """Join the organization that invites, and look at it."""
    answer = await visitor.api.post(f"/v1/invitations/{token}/accept")
    return visitor.go_to(f"/preferences/organization?to={answer['membership']['organizationId']}")


async def form_of(request: PageRequest) -> dict[str, str]:
    """The fields of a form, trimmed but for what is secret. A file counts as no field."""
    read = await request.form()
    texts = {name: value for name, value in read.items() if isinstance(value, str)}
    return {name: value if name in _AS_GIVEN else value.strip() for name, value in texts.items()}


async def _enter(
    visitor: Visitor, template: str, path: str, given: Mapping[str, str], names: tuple[str, ...]
) -> Response[Any]:
    # No other site's form may sign a visitor in as somebody else.
    if visitor.request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise ApiRefused(403, "FORBIDDEN", "This form was sent by another site.")
    try:
        answer = await visitor.api.call("POST", path, {name: given.get(name, "") for name in names})
    except ApiRefused as refused:
        return _form(visitor, template, given, refused)
    return _with_cookies(visitor.go_to(own_path(given.get("next"))), answer)


def _form(
    visitor: Visitor, template: str, given: Mapping[str, str] = _NO_VALUES, refused: ApiRefused | None = None
) -> Response[Any]:
    onward = own_path(given.get("next") or visitor.request.query_params.get("next"))
    return visitor.page(
        template,
        status=refused.status if refused else 200,
        given=given,
        refused=refused,
        mend=mend_of(visitor, refused) if refused else "",
        onward=onward,
    )


def _already_in(visitor: Visitor) -> Response[Any] | None:
    if visitor.me is None:
        return None
    return visitor.go_to(own_path(visitor.request.query_params.get("next")))


def _with_cookies(response: Response[Any], answer: Answer) -> Response[Any]:
    """The API's cookies, as it set them."""
    for line in answer.cookies:
        for name, set_ in SimpleCookie(line).items():
            response.set_cookie(
                name,
                set_.value,
                max_age=int(set_["max-age"]),
                path=set_["path"],
                secure=bool(set_["secure"]),
                httponly=bool(set_["httponly"]),
                samesite="lax",
            )
    return response


routes = [sign_in_page, sign_in, sign_up_page, sign_up, sign_out, invitation_page, accept_invitation]
