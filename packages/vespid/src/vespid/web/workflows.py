"""Workflows: listed, begun, edited, published, started."""

from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from vespid.web.account import form_of
from vespid.web.api import ApiRefused
from vespid.web.definition import definition_text
from vespid.web.drawing import Drawing, draw
from vespid.web.examples import STARTS
from vespid.web.language import Language
from vespid.web.node_form import field_names, node_form
from vespid.web.refusal import mend_of
from vespid.web.visitor import PageRequest, Visitor

_NO_VALUES: Mapping[str, str] = {}
# How many revisions a workflow's page names; the rest are on their own page.
_REVISIONS_SHOWN = 8


@get("/workflows")
async def list_workflows(request: PageRequest, visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Each workflow's newest revision."""
    query = request.query_params
    filters = {name: query[name] for name in ("name", "status") if query.get(name)}
    cursor = query.get("cursor")
    found = await visitor.api.get("workflows", newest="true", cursor=cursor, **filters)
    return visitor.page(
        "workflows/list.html",
        workflows=found["workflows"],
        cursor=found["nextCursor"],
        filters=filters,
        is_first=not cursor,
    )


@get("/workflows/new")
async def new_workflow(request: PageRequest, visitor: NamedDependency[Visitor]) -> Response[Any]:
    """What to begin with."""
    visitor.require_sign_in()
    start = request.query_params.get("start", "shell")
    return _new(visitor, {"name": "", "start": start if start in STARTS else "shell"})


@post("/workflows", status_code=200)
async def create_workflow(request: PageRequest, visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Begin a workflow, and edit it."""
    given = await form_of(request)
    dsl = STARTS.get(given.get("start", ""), STARTS["blank"])
    try:
        made = await visitor.api.post("workflows", {"name": given.get("name", ""), "dsl": dsl})
    except ApiRefused as refused:
        return _new(visitor, {"name": "", "start": "blank", **given}, refused)
    return visitor.go_to(f"/workflows/{made['workflow']['id']}")


@get("/workflows/{workflow_id:str}")
async def workflow_page(visitor: NamedDependency[Visitor], workflow_id: FromPath[str]) -> Response[Any]:
    """A draft in the editor, for those who may edit; else what there is to see, and to start."""
    workflow = (await visitor.api.get(f"workflows/{workflow_id}"))["workflow"]
    return await _show(visitor, workflow)


@post("/workflows/check", status_code=200)
async def check_workflow(request: PageRequest, visitor: NamedDependency[Visitor]) -> Response[Any]:
    """What is wrong with a definition as it is being written, and its graph."""
    given = await form_of(request)
    drawing, refused = None, None
    try:
        drawing = await _drawing(visitor, _definition(given))
    except ApiRefused as found:
        refused = found
    return visitor.page("workflows/check.html", drawing=drawing, refused=refused)


@post("/workflows/{workflow_id:str}", status_code=200)
async def save_workflow(
    request: PageRequest, visitor: NamedDependency[Visitor], workflow_id: FromPath[str]
) -> Response[Any]:
    """Keep the draft. What is not valid is not kept, and told."""
    given = await form_of(request)
    try:
        saved = await _save(visitor, workflow_id, given)
        drawing = await _drawing(visitor, saved["dsl"])
    except ApiRefused as refused:
        if not visitor.is_htmx or not refused.fields:
            raise
        return visitor.page("workflows/check.html", status=refused.status, drawing=None, refused=refused)
    if not visitor.is_htmx:
        return visitor.go_to(f"/workflows/{workflow_id}")
    visitor.tell("workflow.saved")
    return visitor.page("workflows/check.html", drawing=drawing, refused=None, version=saved["version"])


@post("/workflows/{workflow_id:str}/publish", status_code=200)
async def publish_workflow(
    request: PageRequest, visitor: NamedDependency[Visitor], workflow_id: FromPath[str]
) -> Response[Any]:
    """Keep the draft as it is written and publish it. The token of a webhook is shown in the answer and never again."""
    given = await form_of(request)
    if given.get("dsl"):
        await _save(visitor, workflow_id, given)
    published = await visitor.api.post(f"workflows/{workflow_id}/publish")
    if "webhook" not in published:
        return visitor.go_to(f"/workflows/{workflow_id}")
    return visitor.page("workflows/webhook.html", workflow=published["workflow"], webhook=published["webhook"])


@post("/workflows/{workflow_id:str}/webhook", status_code=200)
async def rotate_webhook(visitor: NamedDependency[Visitor], workflow_id: FromPath[str]) -> Response[Any]:
    """A new token for the webhook, shown once."""
    webhook = (await visitor.api.post(f"workflows/{workflow_id}/rotate-webhook"))["webhook"]
    workflow = (await visitor.api.get(f"workflows/{workflow_id}"))["workflow"]
    return visitor.page("workflows/webhook.html", workflow=workflow, webhook=webhook)


@post("/workflows/{workflow_id:str}/drafts", status_code=200)
async def create_draft(visitor: NamedDependency[Visitor], workflow_id: FromPath[str]) -> Response[Any]:
    """A new revision with the content of this one, to be edited."""
    made = await visitor.api.post(f"workflows/{workflow_id}/drafts")
    return visitor.go_to(f"/workflows/{made['workflow']['id']}")


@post("/workflows/{workflow_id:str}/runs", status_code=200)
async def start_run(
    request: PageRequest, visitor: NamedDependency[Visitor], workflow_id: FromPath[str]
) -> Response[Any]:
    """Start a run with this input, and watch it."""
    given = await form_of(request)
    try:
        read = _json(given.get("input", ""), "input")
        run = (await visitor.api.post(f"workflows/{workflow_id}/runs", {"input": read}))["run"]
    except ApiRefused as refused:
        workflow = (await visitor.api.get(f"workflows/{workflow_id}"))["workflow"]
        return await _show(visitor, workflow, given, refused)
    return visitor.go_to(f"/runs/{run['id']}")


async def _save(visitor: Visitor, workflow_id: str, given: Mapping[str, str]) -> Any:
    change = {"name": given.get("name", ""), "dsl": _definition(given)}
    if given.get("version"):
        # What somebody else has saved since the page was loaded is not overwritten.
        change["version"] = _json(given["version"], "version")
    return (await visitor.api.put(f"workflows/{workflow_id}", change))["workflow"]


async def _show(
    visitor: Visitor,
    workflow: Mapping[str, Any],
    given: Mapping[str, str] = _NO_VALUES,
    refused: ApiRefused | None = None,
) -> Response[Any]:
    revisions = await visitor.api.get(f"workflows/{workflow['id']}/revisions", limit=_REVISIONS_SHOWN)
    context: dict[str, Any] = {
        "workflow": workflow,
        "definition": definition_text(workflow["dsl"]),
        "drawing": draw((await visitor.api.get(f"workflows/{workflow['id']}/graph"))["graph"]),
        "revisions": revisions["workflows"],
        "has_more_revisions": revisions["nextCursor"] is not None,
        "given": given,
        "refused": refused,
        "mend": mend_of(visitor, refused) if refused else "",
        "status": refused.status if refused else 200,
    }
    if workflow["status"] == "draft" and visitor.has_role("admin"):
        return visitor.page("workflows/editor.html", **context, form=await _form_data(visitor))
    return visitor.page("workflows/show.html", **context)


async def _form_data(visitor: Visitor) -> Mapping[str, Any]:
    """What the editor's script makes its form of: fields, their names in the visitor's language, what can be chosen."""
    texts = visitor.language
    connectors = (await visitor.api.get("/v1/meta/connectors"))["connectors"]
    engines = (await visitor.api.get("/v1/agent/engines"))["engines"]
    secrets = (await visitor.api.get("secrets", limit=200))["secrets"]
    return {
        **node_form(),
        "names": {name: texts.text(f"node_fields.{name}") for name in field_names()},
        "words": _below(texts, "editor.") | {f"type_{key}": text for key, text in _below(texts, "node_types.").items()},
        "engines": [[engine["id"], engine["displayName"]] for engine in engines],
        "connectors": {connector["id"]: [action["id"] for action in connector["actions"]] for connector in connectors},
        "secrets": [[secret["id"], f"{secret['connectorId']} · {secret['name']}"] for secret in secrets],
    }


def _below(texts: Language, table: str) -> dict[str, str]:
    return {key.removeprefix(table): text for key, text in texts.texts.items() if key.startswith(table)}


async def _drawing(visitor: Visitor, dsl: Any) -> Drawing:
    return draw((await visitor.api.post("workflows/validate", {"dsl": dsl}))["graph"])


def _definition(given: Mapping[str, str]) -> Any:
    return _json(given.get("dsl", "") or "null", "dsl")


def _json(text: str, field: str) -> Any:
    """What a visitor wrote as JSON; nothing is null. Raises `ApiRefused` as the API does for a body."""
    if not text.strip():
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        wrong = {"fieldErrors": {field: [str(error)]}}
        raise ApiRefused(400, "BAD_REQUEST", "This is not JSON.", wrong) from None


def _new(visitor: Visitor, given: Mapping[str, str], refused: ApiRefused | None = None) -> Response[Any]:
    mend = mend_of(visitor, refused) if refused else ""
    status = refused.status if refused else 200
    return visitor.page(
        "workflows/new.html", status=status, given=given, refused=refused, mend=mend, starts=list(STARTS)
    )


routes = [
    list_workflows,
    new_workflow,
    create_workflow,
    workflow_page,
    check_workflow,
    save_workflow,
    publish_workflow,
    rotate_webhook,
    create_draft,
    start_run,
]
