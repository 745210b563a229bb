"""What sessions remember, over HTTP: searched, listed, read, and fetched from the host where a session lives."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from tests.support.control import Caller, Control, api_settings
from tests.support.executor import Frame, ScriptedExecutor
from tests.support.gateways import TOKEN, Fleet, fleet
from tests.support.ground import Executor

from vespid.control.app import ControlPlane
from vespid.dispatch import memory_search
from vespid.dispatch.memory_search import MemorySearch
from vespid.domain.session_options import EngineChoice
from vespid.store import sessions
from vespid.store.sessions import NewSession
from vespid.store.turns import ChangedDocument, TurnStore
from vespid.worker.memory import WorkflowMemory
from vespid_protocol.ids import OrgId, SessionId, UserId, new_id
from vespid_runtime.memory import DELETED_SHA256, content_sha256, workflow_key
from vespid_runtime.memory.tools import WriteInput

__all__ = ["fleet"]

REQUIREMENT = msgspec.Raw(b'{"kind":"agent.run","engine":"vespid.echo.v1"}')


class Remembered:
    """A session that remembers, on a paired executor that may be connected or not."""

    def __init__(self, plane: ControlPlane, fleet: Fleet, owner: Caller, executor: Executor) -> None:
        self.plane, self.fleet, self.owner, self.executor = plane, fleet, owner, executor
        self.org = OrgId(owner.org_id or "")
        self.key = f"agent:main:org:{self.org}:scope:main"
        self.session = SessionId("")

    async def create(self, key: str | None = None) -> SessionId:
        self.key = key or self.key
        new = NewSession(
            org=self.org,
            id=SessionId(new_id()),
            user_id=UserId(self.owner.user_id),
            session_key=self.key,
            scope="main",
            requirement=REQUIREMENT,
            engine=EngineChoice(id="vespid.echo.v1"),
            turn_timeout_ms=60_000,
        )
        async with self.plane.deps.database.tenant(self.org) as connection:
            row, _ = await sessions.create_session(connection, new)
        self.session = SessionId(str(row.id))
        return self.session

    async def pin(self) -> None:
        await self.fleet.ground.sql.execute(
            "update sessions set pinned_executor_id = $1, pinned_pool = 'byon' where id = $2",
            UUID(self.executor.id),
            UUID(self.session),
        )

    async def put(self, **documents: str | None) -> None:
        """`MEMORY="…"`, `notes="…"` (memory/notes.md); None: deleted."""
        await self.pin()
        docs = [
            ChangedDocument(
                "MEMORY.md" if name == "MEMORY" else f"memory/{name}.md",
                DELETED_SHA256 if text is None else content_sha256(text),
                text,
            )
            for name, text in documents.items()
        ]
        store = TurnStore(self.plane.deps.database)
        assert await store.put_memory(self.org, self.session, self.executor.id, docs) is not None

    async def search(self, q: str, who: Caller | None = None, **others: Any) -> list[Frame]:
        query = {"q": q, "sessionKey": self.key, **others}
        answer = await (who or self.owner).get("/v1/orgs/{org}/memory/search?" + encoded(query))
        assert answer.status == 200, answer.body
        return list(answer.body["results"])

    async def docs(self) -> dict[str, Frame]:
        answer = await self.owner.get("/v1/orgs/{org}/memory/docs?" + encoded({"sessionKey": self.key}))
        assert answer.status == 200, answer.body
        return {doc["path"]: doc for doc in answer.body["docs"]}

    async def sync_with(self, host: ScriptedExecutor, **result: Any) -> tuple[Any, Frame]:
        """A sync that the host answers so; the answer, and what the host was asked."""
        syncing = asyncio.create_task(self.owner.post("/v1/orgs/{org}/memory/sync", {"sessionId": self.session}))
        asked = await host.next("memory_sync")
        body = {"requestId": asked["requestId"], "sessionId": asked["sessionId"], "status": "ok", **result}
        await host.send({"type": "memory_sync_result", **body})
        return await syncing, asked


def encoded(query: dict[str, Any]) -> str:
    from urllib.parse import urlencode

    return urlencode(query)


def told(path: str, content: str | None, sha256: str = "") -> Frame:
    return {"path": path, "sha256": sha256, "content": content}


@pytest_asyncio.fixture
async def plane(database_url: str, redis_url: str) -> AsyncIterator[Control]:
    """A control plane that knows the gateways' token."""
    plane = ControlPlane(api_settings(database_url, redis_url, gateway_service_token=TOKEN))
    await plane.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{plane.port}", cookie_jar=aiohttp.DummyCookieJar()) as http:
            yield Control(plane, http)
    finally:
        await plane.stop()


@pytest_asyncio.fixture
async def memory(plane: Control, fleet: Fleet) -> Remembered:
    owner = await plane.sign_up()
    remembered = Remembered(plane.plane, fleet, owner, await fleet.ground.executor(OrgId(owner.org_id or "")))
    await remembered.create()
    return remembered


# --- searched, listed, read ------------------------------------------------------------------------------------------


async def test_search_answers_passages_in_any_language(memory: Remembered) -> None:
    await memory.put(MEMORY="# Likes\n\nGreen tea.\n我喜欢喝绿茶。\n", notes="Die Größe ist 42.\n")
    (tea,) = await memory.search("tea")
    doc = (await memory.docs())["MEMORY.md"]
    assert tea == {
        "docId": doc["id"],
        "path": "MEMORY.md",
        "sessionKey": memory.key,
        "score": 1.0,
        "snippet": "Green tea.",
        "lineStart": 3,
        "lineEnd": 3,
    }
    assert [found["snippet"] for found in await memory.search("绿茶")] == ["我喜欢喝绿茶。"]
    assert [found["path"] for found in await memory.search("grösse")] == ["memory/notes.md"]
    assert len(await memory.search("tea 42 喜欢", limit=1)) == 1


@pytest.mark.promise("P5")
async def test_memory_of_a_workflow_is_looked_through_by_any_of_its_revisions(plane: Control, fleet: Fleet) -> None:
    owner, stranger = await plane.sign_up(), await plane.sign_up()
    org = OrgId(owner.org_id or "")
    family = await fleet.ground.workflow(org)
    revision = new_id()
    await fleet.ground.sql.execute(
        "insert into workflows (id, organization_id, family_id, revision, name, status, dsl)"
        " select $1, organization_id, family_id, 2, name, 'draft', dsl from workflows where id = $2",
        UUID(revision),
        UUID(family),
    )
    remembered = WorkflowMemory(plane.plane.deps.database, MemorySearch(), org, workflow_key(family))
    await remembered.write(WriteInput(path="MEMORY.md", content="Green tea."), "r:n:tool:0")
    for workflow_id in (family, revision):
        query = encoded({"q": "tea", "workflowId": workflow_id})
        (found,) = (await owner.get(f"/v1/orgs/{{org}}/memory/search?{query}")).body["results"]
        (listed,) = (await owner.get(f"/v1/orgs/{{org}}/memory/docs?workflowId={workflow_id}")).body["docs"]
        assert (found["snippet"], found["sessionKey"]) == ("Green tea.", f"workflow:{family}")
        doc = (await owner.get(f"/v1/orgs/{{org}}/memory/docs/{listed['id']}")).body["doc"]
        assert (doc["content"], doc["version"]) == ("Green tea.", 1)
    answer = await stranger.get(f"/v1/orgs/{{org}}/memory/docs?workflowId={family}")
    assert answer.status == 404
    for query in ("", f"sessionKey=x&workflowId={family}"):
        assert (await owner.get(f"/v1/orgs/{{org}}/memory/docs?{query}")).status == 400


async def test_search_sees_what_changed_since_the_last_one(memory: Remembered, monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[int] = []
    fill = memory_search._fill
    monkeypatch.setattr(memory_search, "_fill", lambda held, texts: (filled.append(len(texts)), fill(held, texts)))
    await memory.put(MEMORY="apples", notes="pears")
    assert len(await memory.search("apples")) == 1
    assert len(await memory.search("pears")) == 1
    assert filled == [2]
    await memory.put(MEMORY="plums", notes=None)
    assert await memory.search("apples") == []
    assert await memory.search("pears") == []
    assert len(await memory.search("plums")) == 1
    assert filled == [2, 1]


async def test_search_of_a_key_that_nobody_has_finds_nothing(memory: Remembered) -> None:
    assert await memory.search("x", sessionKey="agent:nobody") == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"sessionKey": "k"}, "q"),
        ({"q": "", "sessionKey": "k"}, "q"),
        ({"q": "x"}, "sessionKey"),
        ({"q": "x", "sessionKey": ""}, "sessionKey"),
        ({"q": "x", "sessionKey": "k", "limit": 0}, "limit"),
        ({"q": "x", "sessionKey": "k", "limit": 51}, "limit"),
        ({"q": "x" * 1001, "sessionKey": "k"}, "q"),
    ],
)
async def test_search_that_is_not_one_is_refused_by_field(
    memory: Remembered, query: dict[str, Any], field: str
) -> None:
    answer = await memory.owner.get("/v1/orgs/{org}/memory/search?" + encoded(query))
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    assert list(answer.body["details"]["fieldErrors"]) == [field]


@pytest.mark.parametrize("q", ['"', "a OR b", "NEAR(", "\x00", "title:x*", "'; drop table"])
async def test_query_is_never_syntax(memory: Remembered, q: str) -> None:
    await memory.put(MEMORY="x")
    await memory.search(q)


async def test_documents_are_listed_by_path_page_by_page(memory: Remembered) -> None:
    await memory.put(**{name: name for name in ("MEMORY", "b", "a", "c", "gone")})
    await memory.put(gone=None)
    query = encoded({"sessionKey": memory.key, "limit": 2})
    first = await memory.owner.get(f"/v1/orgs/{{org}}/memory/docs?{query}")
    await memory.put(aa="between", b=None)  # what the cursor stands behind is deleted meanwhile
    second = await memory.owner.get(f"/v1/orgs/{{org}}/memory/docs?{query}&cursor={first.body['nextCursor']}")
    paths = [doc["path"] for page in (first, second) for doc in page.body["docs"]]
    assert paths == ["MEMORY.md", "memory/a.md", "memory/aa.md", "memory/c.md"]
    assert second.body["nextCursor"] is None
    assert "content" not in first.body["docs"][0]


async def test_document_is_read_whole_until_it_is_deleted(memory: Remembered) -> None:
    await memory.put(MEMORY="one\n")
    listed = (await memory.docs())["MEMORY.md"]
    answer = await memory.owner.get(f"/v1/orgs/{{org}}/memory/docs/{listed['id']}")
    assert answer.body["doc"] == {**listed, "content": "one\n"}
    assert (listed["organizationId"], listed["sessionKey"], listed["version"]) == (memory.org, memory.key, 1)
    assert listed["sha256"] == content_sha256("one\n")
    await memory.put(MEMORY=None)
    assert (await memory.owner.get(f"/v1/orgs/{{org}}/memory/docs/{listed['id']}")).status == 404


@pytest.mark.promise("P5")
async def test_memory_of_another_organization_is_not_there(memory: Remembered, plane: Control) -> None:
    await memory.put(MEMORY="secret")
    doc_id = (await memory.docs())["MEMORY.md"]["id"]
    stranger = await plane.sign_up()
    assert (await stranger.get(f"/v1/orgs/{{org}}/memory/docs/{doc_id}")).status == 404
    assert await memory.search("secret", stranger) == []
    listed = await stranger.get("/v1/orgs/{org}/memory/docs?" + encoded({"sessionKey": memory.key}))
    assert listed.body["docs"] == []
    for named in ({"sessionId": memory.session}, {"sessionKey": memory.key}):
        answer = await stranger.post("/v1/orgs/{org}/memory/sync", named)
        assert (answer.status, answer.code) == (404, "SESSION_NOT_FOUND")
    theirs = await stranger.get(f"/v1/orgs/{memory.org}/memory/docs/{doc_id}", headers={"X-Org-Id": memory.org})
    assert (theirs.status, theirs.code) == (403, "ORG_ACCESS_DENIED")


async def test_indexes_are_bounded_and_the_longest_unused_goes(memory: Remembered) -> None:
    object.__setattr__(memory.plane.deps, "memory_search", MemorySearch(most=2))
    keys = [f"key-{number}" for number in range(3)]
    for key in keys:
        await memory.create(key)
        await memory.put(MEMORY=f"words of {key}")
        assert len(await memory.search("words")) == 1
    assert len(memory.plane.deps.memory_search) == 2
    memory.key = keys[0]
    assert [found["snippet"] for found in await memory.search("words")] == ["words of key-0"]


async def test_indexes_are_bounded_by_the_texts_they_are_made_of(memory: Remembered) -> None:
    object.__setattr__(memory.plane.deps, "memory_search", MemorySearch(most_chars=20))
    for key in ("key-0", "key-1"):
        await memory.create(key)
        await memory.put(MEMORY=f"words of {key}")
        assert len(await memory.search("words")) == 1
    assert len(memory.plane.deps.memory_search) == 1


# --- fetched from the host -------------------------------------------------------------------------------------------


async def test_sync_takes_what_the_host_has_changed(memory: Remembered) -> None:
    await memory.put(MEMORY="old", kept="kept", gone="gone")
    host = await memory.fleet.join(await memory.fleet.gateway(), memory.executor)
    documents = [
        told("MEMORY.md", "new\x00"),
        told("memory/gone.md", None),
        told("memory/kept.md", "kept"),
        told("memory/more.md", "first"),
        told("memory/more.md", "second"),
        told("../../etc/passwd", "x"),
        told("memory/big.md", "x" * 300_000),
    ]
    answer, asked = await memory.sync_with(host, details={"documents": documents})
    assert answer.status == 200, answer.body
    assert asked["direction"] == "pull"
    assert (asked["sessionKey"], asked["organizationId"], asked["provider"]) == (memory.key, memory.org, "builtin")
    assert {doc["path"]: doc["sha256"] for doc in asked["documents"]} == {
        "MEMORY.md": content_sha256("old"),
        "memory/gone.md": content_sha256("gone"),
        "memory/kept.md": content_sha256("kept"),
    }
    assert answer.body == {
        "ok": True,
        "sessionId": memory.session,
        "sessionKey": memory.key,
        "memoryVersion": 2,
        "changed": [
            {"path": "MEMORY.md", "version": 2, "sha256": content_sha256("new\ufffd"), "deleted": False},
            {"path": "memory/gone.md", "version": 2, "sha256": DELETED_SHA256, "deleted": True},
            {"path": "memory/more.md", "version": 2, "sha256": content_sha256("second"), "deleted": False},
        ],
        "leftOut": ["path: contains '..'", "content: memory/big.md is larger than 262144 bytes"],
    }
    assert set(await memory.docs()) == {"MEMORY.md", "memory/kept.md", "memory/more.md"}
    assert [found["snippet"] for found in await memory.search("second")] == ["second"]


async def test_sync_reaches_the_gateway_that_has_the_socket(memory: Remembered) -> None:
    await memory.pin()
    for _ in range(2):
        await memory.fleet.gateway(role="edge")
    host = await memory.fleet.join(await memory.fleet.gateway(), memory.executor)
    answer, _ = await memory.sync_with(host, details={"documents": [told("MEMORY.md", "x")]})
    assert [doc["path"] for doc in answer.body["changed"]] == ["MEMORY.md"]


async def test_base_peer_is_asked_in_base_words_and_may_say_nothing(memory: Remembered) -> None:
    await memory.pin()
    host = await memory.fleet.join(await memory.fleet.gateway(), memory.executor, base=True)
    answer, asked = await memory.sync_with(host, details={"synced": 3})
    assert (answer.status, answer.body["changed"]) == (200, [])
    assert asked.keys().isdisjoint({"direction", "documents"})
    assert memory.org in asked["workspaceDir"]


async def test_host_that_has_lost_its_disk_takes_nothing_away(memory: Remembered) -> None:
    await memory.put(MEMORY="m", a="a")
    host = await memory.fleet.join(await memory.fleet.gateway(), memory.executor)
    gone = [told("MEMORY.md", None), told("memory/a.md", None)]
    answer, _ = await memory.sync_with(host, details={"documents": gone})
    assert (answer.status, answer.body["changed"]) == (200, [])
    assert answer.body["leftOut"] == ["documents: the host has none of them; what is known was kept"]
    assert set(await memory.docs()) == {"MEMORY.md", "memory/a.md"}


async def test_session_without_a_host_cannot_sync(memory: Remembered) -> None:
    answer = await memory.owner.post("/v1/orgs/{org}/memory/sync", {"sessionKey": memory.key})
    assert (answer.status, answer.code) == (409, "CONFLICT")


async def test_session_whose_host_is_away_cannot_sync(memory: Remembered) -> None:
    await memory.pin()
    nobody = await memory.owner.post("/v1/orgs/{org}/memory/sync", {"sessionId": memory.session})
    assert (nobody.status, nobody.code) == (503, "PINNED_AGENT_OFFLINE")
    await memory.fleet.gateway()
    await memory.fleet.ground.process()  # a gateway that died and whose lease has not passed
    away = await memory.owner.post("/v1/orgs/{org}/memory/sync", {"sessionId": memory.session})
    assert (away.status, away.code) == (503, "PINNED_AGENT_OFFLINE")


async def test_host_that_goes_away_meanwhile_is_not_waited_for(memory: Remembered) -> None:
    await memory.pin()
    host = await memory.fleet.join(await memory.fleet.gateway(), memory.executor)
    syncing = asyncio.create_task(memory.owner.post("/v1/orgs/{org}/memory/sync", {"sessionId": memory.session}))
    await host.next("memory_sync")
    await host.drop()
    answer = await asyncio.wait_for(syncing, 10)
    assert (answer.status, answer.code) == (503, "PINNED_AGENT_OFFLINE")


@pytest.mark.parametrize(
    ("result", "code"),
    [
        ({"status": "failed", "error": "ENGINE_UNAVAILABLE"}, "ENGINE_UNAVAILABLE"),
        ({"status": "failed", "error": "anything"}, "NODE_EXECUTION_FAILED"),
        ({"details": {"documents": [{"path": 1}]}}, "GATEWAY_RESPONSE_INVALID"),
        ({"details": {"documents": [told(f"memory/{number}.md", "x") for number in range(500)]}}, "RESULT_TOO_LARGE"),
        ({"details": {"documents": [told("memory/a.md", "x"), told("memory/A.md", "y")]}}, "RESULT_TOO_LARGE"),
    ],
)
async def test_host_that_cannot_answer_changes_nothing(memory: Remembered, result: Frame, code: str) -> None:
    await memory.put(MEMORY="m")
    host = await memory.fleet.join(await memory.fleet.gateway(), memory.executor)
    answer, _ = await memory.sync_with(host, **result)
    assert (answer.status, answer.code) == (503, code)
    assert (await memory.docs())["MEMORY.md"]["version"] == 1


@pytest.mark.promise("P5")
async def test_another_executor_cannot_answer_in_its_place(memory: Remembered) -> None:
    await memory.pin()
    gateway = await memory.fleet.gateway()
    host = await memory.fleet.join(gateway, memory.executor)
    other = await memory.fleet.join(gateway, await memory.fleet.ground.executor(memory.org))
    syncing = asyncio.create_task(memory.owner.post("/v1/orgs/{org}/memory/sync", {"sessionId": memory.session}))
    asked = await host.next("memory_sync")
    forged = {"requestId": asked["requestId"], "sessionId": memory.session, "status": "ok"}
    documents = {"documents": [told("MEMORY.md", "forged")]}
    await other.send({"type": "memory_sync_result", **forged, "details": documents})
    await other.settled()
    await host.send({"type": "memory_sync_result", **forged, "details": {"documents": [told("MEMORY.md", "true")]}})
    assert (await syncing).status == 200
    assert [found["snippet"] for found in await memory.search("true forged")] == ["true"]


async def test_session_must_be_named(memory: Remembered) -> None:
    answer = await memory.owner.post("/v1/orgs/{org}/memory/sync", {})
    assert (answer.status, list(answer.body["details"]["fieldErrors"])) == (400, ["sessionId"])
    both = {"sessionId": memory.session, "sessionKey": "another"}
    answer = await memory.owner.post("/v1/orgs/{org}/memory/sync", both)
    assert (answer.status, list(answer.body["details"]["fieldErrors"])) == (400, ["sessionKey"])


async def test_without_a_token_for_gateways_sync_says_so(control: Control, fleet: Fleet) -> None:
    owner = await control.sign_up()
    executor = await fleet.ground.executor(OrgId(owner.org_id or ""))
    memory = Remembered(control.plane, fleet, owner, executor)
    await memory.create()
    await memory.pin()
    answer = await owner.post("/v1/orgs/{org}/memory/sync", {"sessionId": memory.session})
    assert (answer.status, answer.code) == (503, "GATEWAY_NOT_CONFIGURED")
