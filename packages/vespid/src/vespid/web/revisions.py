"""The revisions of a workflow, and what differs between two of them."""

from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from vespid.web.definition import compare, definition_text
from vespid.web.visitor import PageRequest, Visitor


@get("/workflows/{workflow_id:str}/revisions")
async def revisions_page(
    request: PageRequest, visitor: NamedDependency[Visitor], workflow_id: FromPath[str]
) -> Response[Any]:
    """All of them; `?old=&new=` (ids) compares two, without it the newest two."""
    query = request.query_params
    found = await visitor.api.get(f"workflows/{workflow_id}/revisions", cursor=query.get("cursor"))
    revisions = found["workflows"]
    old_id = query.get("old") or (revisions[1]["id"] if len(revisions) > 1 else None)
    new_id = query.get("new") or (revisions[0]["id"] if len(revisions) > 1 else None)
    old = new = None
    rows = None
    if old_id and new_id:
        old = (await visitor.api.get(f"workflows/{old_id}"))["workflow"]
        new = (await visitor.api.get(f"workflows/{new_id}"))["workflow"]
        rows = compare(definition_text(old["dsl"]), definition_text(new["dsl"]))
    return visitor.page(
        "workflows/revisions.html",
        workflow_id=workflow_id,
        revisions=revisions,
        cursor=found["nextCursor"],
        old=old,
        new=new,
        rows=rows,
    )


routes = [revisions_page]
