"""Who looks at a page: signed in or not, in which organization, in which language, and what they are shown it with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from litestar import Request, Response
from litestar.datastructures import Cookie
from litestar.response import Redirect

from vespid.web import render
from vespid.web.api import Api, ApiRefused, NoOrganization
from vespid.web.language import Language, choose_language

# The API's own; pages only look whether it is there.
SESSION_COOKIE = "vespid_session"
ORG_COOKIE = "vespid_org"
LANGUAGE_COOKIE = "vespid_language"
THEME_COOKIE = "vespid_theme"
THEMES = ("auto", "light", "dark")
_VISITOR = "vespid_visitor"
_YEAR_S = 365 * 24 * 3600
_ROLES = ("member", "admin", "owner")

PageRequest = Request[Any, Any, Any]


@dataclass(slots=True)
class Visitor:
    """One request for a page. Its `api` acts in the organization that was chosen last, where there is one."""

    request: PageRequest
    api: Api
    language: Language
    theme: str
    # The answer of /v1/me; None: nobody is signed in.
    me: Mapping[str, Any] | None = None
    # One of `me.orgs`.
    org: Mapping[str, Any] | None = None
    notices: list[str] = field(default_factory=list)

    def require_sign_in(self) -> None:
        """Raises `NoOrganization` where nobody is signed in. What asks the API need not ask this."""
        if self.me is None:
            raise NoOrganization

    @property
    def org_id(self) -> str:
        """The id of the organization. Raises `NoOrganization` where there is none."""
        if self.org is None:
            raise NoOrganization
        org_id: str = self.org["id"]
        return org_id

    def has_role(self, role: str) -> bool:
        """Whether the visitor may do here what takes this role; for what is shown, the API decides what is done."""
        return self.org is not None and _ROLES.index(self.org["roleKey"]) >= _ROLES.index(role)

    def tell(self, key: str, **values: object) -> None:
        """Have a notice shown beside the answer."""
        self.notices.append(self.language.text(key, **values))

    @property
    def is_htmx(self) -> bool:
        """Whether a part of a page asks, not a person's navigation."""
        return self.request.headers.get("hx-request") == "true" and self.request.headers.get("hx-boosted") != "true"

    def page(self, template: str, *, status: int = 200, **context: Any) -> Response[bytes]:
        """A page; or one block of it, where HTMX asks for the element whose id is the block's name."""
        block = self.request.headers.get("hx-target", "").replace("-", "_") if self.is_htmx else ""
        html = render.html(template, block, {"visitor": self, "t": self.language.text, **context})
        headers = render.page_headers(self.request)
        if self.notices:
            headers["HX-Trigger"] = render.header_json({"notice": self.notices})
        return Response(html, status_code=status, media_type="text/html", headers=headers)

    def go_to(self, path: str) -> Response[Any]:
        """Send the visitor to another page of ours."""
        if self.is_htmx:
            return Response(b"", status_code=200, headers={"HX-Redirect": path})
        return Redirect(path, status_code=303)


async def provide_visitor(request: PageRequest) -> Visitor:
    """`visitor`: of every page."""
    language = choose_language(request.cookies.get(LANGUAGE_COOKIE), request.headers.get("accept-language"))
    theme = request.cookies.get(THEME_COOKIE, "auto")
    visitor = Visitor(request, Api(request), language, theme if theme in THEMES else "auto")
    request.scope["state"][_VISITOR] = visitor
    if SESSION_COOKIE not in request.cookies:
        return visitor
    try:
        visitor.me = await visitor.api.get("/v1/me")
    except ApiRefused as refused:
        if refused.status != 401:
            raise
        return visitor
    orgs = visitor.me["orgs"]
    wanted = request.query_params.get("org") or request.cookies.get(ORG_COOKIE)
    visitor.org = next((org for org in orgs if org["id"] == wanted), orgs[0] if orgs else None)
    if visitor.org is not None:
        visitor.api = visitor.api.within(visitor.org["id"])
    return visitor


def visitor_of(request: PageRequest) -> Visitor:
    """The visitor of a request that got as far as having one."""
    visitor: Visitor = request.scope["state"][_VISITOR]
    return visitor


def preference(name: str, value: str, request: PageRequest) -> Cookie:
    """A cookie that keeps a visitor's choice for a year. It holds nothing secret."""
    return Cookie(
        key=name,
        value=value,
        path="/",
        max_age=_YEAR_S,
        samesite="lax",
        httponly=True,
        secure=request.scope["scheme"] == "https",
    )


def own_path(path: str | None, otherwise: str = "/") -> str:
    """A path of ours out of what a visitor brings along; never another host's."""
    if not path or not path.startswith("/") or path.startswith(("//", "/\\")):
        return otherwise
    parts = urlsplit(path)
    return otherwise if parts.scheme or parts.netloc or not path.isprintable() else path


def origin_of(request: PageRequest) -> str:
    """The address that the visitor's browser has for these pages: what a link for somebody else begins with.

    Told by the `Origin` of a write, which the API has allowed; what a proxy made of the request's own is no guide.
    """
    return request.headers["origin"]


def sign_in_path(request: PageRequest) -> str:
    """Where to sign in, and come back from to this page."""
    # A part of a page comes back to the page.
    wanted = request.headers.get("hx-current-url")
    here = urlsplit(wanted) if wanted else None
    path = (here.path + (f"?{here.query}" if here.query else "")) if here else request.url.path
    if not here and request.method == "GET" and request.url.query:
        path += f"?{request.url.query}"
    return "/signin" if path in ("/", "/signin") else f"/signin?next={quote(path, safe='/')}"
