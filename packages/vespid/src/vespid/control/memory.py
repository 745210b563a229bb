"""What sessions and workflows remember: looked through, searched, and fetched from the host where a session lives.

Turns bring their changes with their answers; `sync` is for what changed on the host beside them.
"""

from typing import Annotated
from uuid import UUID

import asyncpg
import msgspec
from litestar import get, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import Meta

from vespid.bus.memory_push import ROUTE, KnownDocument, PushAsked, Pushed
from vespid.control.context import TenantContext, org_member, row_id
from vespid.control.deps import Deps
from vespid.control.openapi import errors
from vespid.control.pagination import Page, provide_page
from vespid.control.wire import iso
from vespid.errors import ApiError, bad_request, conflict, not_found
from vespid.store import memory as rows
from vespid.store.sessions import SessionRow, find_session, read_session
from vespid.store.workflows import read_workflow
from vespid_protocol.ids import ExecutorId, OrgId, SessionId, is_uuid
from vespid_protocol.text import clean_text
from vespid_runtime.memory import workflow_key

SESSION_KEY_MAX = 2000
QUERY_MAX = 1000
RESULTS_MAX = 50

_SessionKey = Annotated[
    str | None,
    QueryParameter(name="sessionKey", min_length=1, max_length=SESSION_KEY_MAX, description="The session's memory."),
]
_WorkflowId = Annotated[
    str | None,
    QueryParameter(name="workflowId", max_length=64, description="The workflow's memory, by any of its revisions."),
]


class SessionNamed(msgspec.Struct, frozen=True, rename="camel"):
    """A session, by its id or by its key."""

    session_id: str | None = None
    session_key: Annotated[str, Meta(max_length=SESSION_KEY_MAX)] | None = None


class ChangedDoc(msgspec.Struct, frozen=True):
    """A document that the host had changed."""

    path: str
    version: int
    sha256: str
    deleted: bool


class Synced(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What the host had that was not known; why some of it is not taken."""

    ok: bool = True
    session_id: UUID
    session_key: str
    memory_version: int
    changed: list[ChangedDoc]
    left_out: list[str]


class FoundPassage(msgspec.Struct, frozen=True, rename="camel"):
    """Some lines of a document, numbered from 1, both ends included. The best of a search has score 1."""

    doc_id: UUID
    path: str
    session_key: str
    score: float
    snippet: str
    line_start: int
    line_end: int


class FoundPassages(msgspec.Struct, frozen=True):
    """The best first."""

    results: list[FoundPassage]


class ListedDoc(msgspec.Struct, frozen=True, rename="camel"):
    """A document without its text."""

    id: UUID
    organization_id: UUID
    session_key: str
    path: str
    version: int
    sha256: str
    created_at: str
    updated_at: str


class Doc(msgspec.Struct, frozen=True, rename="camel"):
    """A document."""

    id: UUID
    organization_id: UUID
    session_key: str
    path: str
    version: int
    sha256: str
    content: str
    created_at: str
    updated_at: str


class DocAnswer(msgspec.Struct, frozen=True):
    """One document."""

    doc: Doc


class DocPage(msgspec.Struct, frozen=True, rename="camel"):
    """By path."""

    docs: list[ListedDoc]
    next_cursor: str | None


@post(
    "/v1/orgs/{org_id:str}/memory/sync",
    guards=[org_member],
    status_code=200,
    responses=errors(404, 409, 503),
    operation_id="syncMemory",
    tags=["memory"],
)
async def sync_memory(
    data: JSONBody[SessionNamed], tenant: NamedDependency[TenantContext], deps: NamedDependency[Deps]
) -> Synced:
    """Fetch from the host where the session lives what has changed there."""
    org = UUID(tenant.org_id)
    async with tenant.transaction() as connection:
        session = await _named_session(connection, org, data)
        known = await rows.list_changed(connection, org, session.session_key, 0)
    pushed = await _push(deps, session, known)
    async with tenant.transaction() as connection:
        changed = await rows.list_changed(connection, org, session.session_key, session.memory_version)
    return Synced(
        session_id=session.id,
        session_key=session.session_key,
        memory_version=pushed.memory_version,
        changed=[ChangedDoc(doc.path, doc.version, doc.sha256, doc.deleted) for doc in changed],
        left_out=pushed.left_out,
    )


@get(
    "/v1/orgs/{org_id:str}/memory/search",
    guards=[org_member],
    responses=errors(404),
    operation_id="searchMemory",
    tags=["memory"],
)
async def search_memory(
    tenant: NamedDependency[TenantContext],
    deps: NamedDependency[Deps],
    q: Annotated[str, QueryParameter(min_length=1, max_length=QUERY_MAX, description="Words, or a phrase in quotes.")],
    session_key: _SessionKey = None,
    workflow_id: _WorkflowId = None,
    limit: Annotated[int, QueryParameter(ge=1, le=RESULTS_MAX, description="How many at most.")] = 10,
) -> FoundPassages:
    """The passages of the memory of a session or a workflow that answer best, in any language."""
    key = await _key(tenant, session_key, workflow_id)
    found = await deps.memory_search.search(tenant, key, q, limit)
    return FoundPassages(
        [
            FoundPassage(doc_id, hit.path, key, hit.score, hit.snippet, hit.line_start, hit.line_end)
            for doc_id, hit in found
        ]
    )


@get(
    "/v1/orgs/{org_id:str}/memory/docs",
    guards=[org_member],
    dependencies={"page": Provide(provide_page, sync_to_thread=False)},
    responses=errors(404),
    operation_id="listMemoryDocs",
    tags=["memory"],
)
async def list_memory_docs(
    tenant: NamedDependency[TenantContext],
    page: NamedDependency[Page],
    session_key: _SessionKey = None,
    workflow_id: _WorkflowId = None,
) -> DocPage:
    """The documents of the memory of a session or a workflow, without their texts."""
    key = await _key(tenant, session_key, workflow_id)
    async with tenant.transaction() as connection:
        found = await rows.list_docs(connection, UUID(tenant.org_id), key, page.after_id(), page.fetch)
    shown, next_cursor = page.cut(found, key=lambda doc: doc.id)
    return DocPage([_listed(doc) for doc in shown], next_cursor)


@get(
    "/v1/orgs/{org_id:str}/memory/docs/{doc_id:str}",
    guards=[org_member],
    operation_id="getMemoryDoc",
    tags=["memory"],
)
async def get_memory_doc(doc_id: FromPath[str], tenant: NamedDependency[TenantContext]) -> DocAnswer:
    """One document. 404 where it was deleted."""
    async with tenant.transaction() as connection:
        doc = await rows.read_doc(connection, UUID(tenant.org_id), row_id(doc_id))
    if doc is None:
        raise not_found()
    return DocAnswer(
        Doc(
            id=doc.id,
            organization_id=doc.organization_id,
            session_key=doc.session_key,
            path=doc.path,
            version=doc.version,
            sha256=doc.sha256,
            content=doc.content,
            created_at=iso(doc.created_at),
            updated_at=iso(doc.updated_at),
        )
    )


async def _key(tenant: TenantContext, session_key: str | None, workflow_id: str | None) -> str:
    """Whose memory. Raises ApiError: 400 unless one of the two is named, 404 where there is no such workflow."""
    if (session_key is None) == (workflow_id is None):
        raise bad_request("Name whose memory: sessionKey or workflowId, one of the two.", field="sessionKey")
    if session_key is not None:
        return clean_text(session_key)[0]
    async with tenant.transaction() as connection:
        workflow = await read_workflow(connection, row_id(workflow_id or ""))
    if workflow is None:
        raise not_found()
    return workflow_key(str(workflow.family_id))


async def _push(deps: Deps, session: SessionRow, known: list[rows.ChangedRow]) -> Pushed:
    """Raises ApiError 409 for a session that never had a host, 503 where its host cannot answer."""
    if session.pinned_executor_id is None:
        raise conflict("The session has no host yet; send it a message first.")
    if deps.gateways is None:
        raise ApiError(503, "GATEWAY_NOT_CONFIGURED", "This server was given no way to the gateways.")
    asked = PushAsked(
        OrgId(str(session.organization_id)),
        SessionId(str(session.id)),
        session.session_key,
        ExecutorId(str(session.pinned_executor_id)),
        tuple(KnownDocument(doc.path, doc.version, doc.sha256) for doc in known if not doc.deleted),
    )
    answer = await deps.gateways.ask(ROUTE, asked)
    if answer is None:
        raise ApiError(503, "PINNED_AGENT_OFFLINE", "The session's host is not connected.")
    return msgspec.json.decode(answer, type=Pushed)


def _listed(doc: rows.DocRow) -> ListedDoc:
    return ListedDoc(
        id=doc.id,
        organization_id=doc.organization_id,
        session_key=doc.session_key,
        path=doc.path,
        version=doc.version,
        sha256=doc.sha256,
        created_at=iso(doc.created_at),
        updated_at=iso(doc.updated_at),
    )


async def _named_session(connection: asyncpg.Connection, org: UUID, named: SessionNamed) -> SessionRow:
    """Raises ApiError: 400 where none is named, 404 where there is none."""
    if named.session_id is None and named.session_key is None:
        raise bad_request("Name the session, by sessionId or sessionKey.", field="sessionId")
    session: SessionRow | None = None
    if named.session_id is not None:
        if is_uuid(named.session_id):
            session = await read_session(connection, org, UUID(named.session_id))
        if session is not None and named.session_key not in (None, session.session_key):
            raise bad_request("This is the key of another session.", field="sessionKey")
    elif named.session_key is not None:
        session = await find_session(connection, org, clean_text(named.session_key)[0])
    if session is None:
        raise not_found("SESSION_NOT_FOUND", "There is no such session here.")
    return session


routes = [sync_memory, search_memory, list_memory_docs, get_memory_doc]
