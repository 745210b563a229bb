"""What a visitor is shown when the API refuses, or when nobody is signed in."""

from typing import Any

import structlog
from litestar import Response
from litestar.exceptions import HTTPException

from vespid.web import render
from vespid.web.api import ApiRefused
from vespid.web.visitor import PageRequest, Visitor, sign_in_path, visitor_of

log = structlog.get_logger("vespid.web")


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


def answer_unforeseen(request: PageRequest, error: Exception) -> Response[Any]:
    """What the framework refuses, or what nobody thought of: the log has it under the id that is shown."""
    if isinstance(error, HTTPException):
        code = "BAD_REQUEST" if error.status_code == 400 else "NOT_FOUND"
        return answer_refused(request, ApiRefused(error.status_code, code, error.detail))
    log.error("page_failed", path=request.scope["path"], exc_info=error)
    request_id = structlog.contextvars.get_contextvars().get("request_id", "")
    message = visitor_of(request).language.text("refused.unforeseen", request_id=request_id)
    return answer_refused(request, ApiRefused(500, "INTERNAL_ERROR", message))


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
