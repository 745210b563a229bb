"""What a visitor is shown when the API refuses, or when nobody is signed in."""

from typing import Any

from litestar import Response

from vespid.web import render
from vespid.web.api import ApiRefused
from vespid.web.visitor import PageRequest, Visitor, sign_in_path, visitor_of


def answer_refused(request: PageRequest, refused: ApiRefused) -> Response[Any]:
    """A page with the cause and the mend; a notice where a part of a page asked."""
    if refused.status == 401:
        return answer_no_organization(request, refused)
    visitor = visitor_of(request)
    if visitor.is_htmx:
        return _notice(visitor, refused)
    return visitor.page("refused.html", status=refused.status, refused=refused, mend=mend_of(visitor, refused))


def answer_no_organization(request: PageRequest, _reason: Exception) -> Response[Any]:
    """Off to the sign-in, and back afterwards; who is signed in already makes an organization."""
    visitor = visitor_of(request)
    return visitor.go_to("/organizations/new" if visitor.me is not None else sign_in_path(request))


def mend_of(visitor: Visitor, refused: ApiRefused) -> str:
    """What can be done about an error: by its code, else by its status."""
    by_code = visitor.language.optional(f"mends.{refused.code}")
    return by_code or visitor.language.optional(f"mends.{refused.status}") or visitor.language.text("mends.other")


def _notice(visitor: Visitor, refused: ApiRefused) -> Response[bytes]:
    fields = [f"{name}: {' '.join(wrong)}" for name, wrong in refused.fields.items()]
    html = render.html(
        "notice.html",
        "",
        {"t": visitor.language.text, "refused": refused, "fields": fields, "mend": mend_of(visitor, refused)},
    )
    headers = {**render.page_headers(visitor.request), "HX-Retarget": "#notices", "HX-Reswap": "beforeend"}
    return Response(html, status_code=refused.status, media_type="text/html", headers=headers)
