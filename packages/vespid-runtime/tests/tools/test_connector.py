"""Actions of connectors as tools, against a real server on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import msgspec
import pytest
from aiohttp import web

from vespid_runtime.connectors import ActionContext, ActionInput, Connector, Registry, registry
from vespid_runtime.connectors.contract import Action
from vespid_runtime.egress import EgressGuard, EgressPolicy, GuardedHttp
from vespid_runtime.tools.connector import connector_tools
from vespid_runtime.tools.tool import Tool, ToolError, ToolUse
from vespid_runtime.tools.toolbox import Toolbox

USE = ToolUse(n=3, key="run-1:n1:tool:3", timeout_ms=10_000)
TOKEN = "ghp_canary_5f0d2a7c91"

Tools = Callable[..., dict[str, Tool]]


class Other:
    """The other side: what it was asked, and what it shall answer."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answer: object = {"id": 7, "number": 2, "html_url": "https://github.example/o/r/2", "body": ""}
        self.status = 201
        self.origin = ""

    async def handle(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((request.path, headers, await request.read()))
        listing = request.method == "GET" and self.status < 400
        return web.json_response([] if listing else self.answer, status=200 if listing else self.status)


@pytest.fixture
async def other() -> AsyncIterator[Other]:
    made = Other()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.origin = f"http://server.local.example:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


async def _to_loopback(host: str, port: int) -> Sequence[str]:
    return ["127.0.0.1"]


@pytest.fixture
async def tools(other: Other) -> AsyncIterator[Tools]:
    async with GuardedHttp(EgressGuard(EgressPolicy.cloud("*.local.example"), _to_loopback)) as http:

        def make(known: Registry | None = None, **more: object) -> dict[str, Tool]:
            given: dict[str, object] = {
                "request_id": "run-1:n1:1",
                "secrets": {"github": TOKEN},
                "request_base_urls": {"githubApiBaseUrl": other.origin},
                **more,
            }
            made = connector_tools(known or registry(()), http, **given)  # type: ignore[arg-type]
            return {tool.id: tool for tool in made}

        yield make


async def refusal(tool: Tool, arguments: dict[str, object]) -> ToolError:
    with pytest.raises(ToolError) as refused:
        await tool.call(arguments, USE)
    return refused.value


def test_every_action_is_a_tool_with_its_schema_and_what_it_does(tools: Tools) -> None:
    made = tools()
    assert set(made) == {
        "connector.http.request",
        "connector.github.issue.get",
        "connector.github.issue.create",
        "connector.github.issue.comment",
        "connector.slack.message.post",
        "connector.postgres.query",
        "connector.smtp.send",
    }
    for tool in made.values():
        assert (tool.input_schema["type"], bool(tool.description)) == ("object", True)
    assert made["connector.github.issue.create"].input_schema["required"] == ["repo", "title"]


def test_only_what_is_allowed_is_made(tools: Tools) -> None:
    assert set(tools(allow=["connector.github.*", "connector.http.request", "memory.search"])) == {
        "connector.github.issue.get",
        "connector.github.issue.create",
        "connector.github.issue.comment",
        "connector.http.request",
    }


async def test_action_is_done_with_the_secret_of_its_connector_under_the_key_of_the_call(
    tools: Tools, other: Other
) -> None:
    answer = await tools()["connector.github.issue.create"].call({"repo": "o/r", "title": "It broke"}, USE)
    assert isinstance(answer, dict)
    assert answer["issueNumber"] == 2
    assert [headers["authorization"] for _, headers, _ in other.requests] == [f"Bearer {TOKEN}"] * 2
    await tools()["connector.http.request"].call({"url": f"{other.origin}/x", "method": "POST"}, USE)
    path, headers, _ = other.requests[-1]
    assert (path, headers["idempotency-key"], "authorization" in headers) == ("/x", USE.key, False)


async def test_base_url_of_the_operator_is_taken_before_that_of_the_request(tools: Tools, other: Other) -> None:
    made = tools(
        operator_base_urls={"githubApiBaseUrl": f"{other.origin.replace('server.local.example', '127.0.0.1')}/ghe"},
        request_base_urls={"githubApiBaseUrl": "http://elsewhere.local.example:9"},
    )
    await made["connector.github.issue.comment"].call({"repo": "o/r", "issueNumber": 2, "body": "Seen."}, USE)
    assert other.requests[0][0].startswith("/ghe/repos/o/r/")


async def test_connector_without_its_secret_says_where_it_is_named_and_asks_nobody(tools: Tools, other: Other) -> None:
    for secrets in ({}, {"github": ""}, {"slack": TOKEN}):
        tool = tools(secrets=secrets)["connector.github.issue.create"]
        refused = await refusal(tool, {"repo": "o/r", "title": "It broke"})
        assert (refused.code, "tools.auth.github.secretId" in refused.message) == ("SECRET_REQUIRED", True)
    assert not other.requests


async def test_failure_has_the_code_of_the_connector(tools: Tools, other: Other) -> None:
    other.status, other.answer = 404, {"message": "Not Found"}
    made = tools()
    refused = await refusal(made["connector.github.issue.create"], {"repo": "o/r", "title": "It broke"})
    assert refused.code == "GITHUB_REQUEST_FAILED:404"
    refused = await refusal(made["connector.github.issue.create"], {"repo": "o/r"})
    assert (refused.code, "title" in refused.message) == ("INVALID_ACTION_INPUT", True)


async def test_guard_holds_for_what_a_model_asks(tools: Tools) -> None:
    tool = tools()["connector.http.request"]
    assert (await refusal(tool, {"url": "http://169.254.169.254/latest/meta-data"})).code == "EGRESS_DENIED"


async def test_template_that_a_model_wrote_is_not_filled(tools: Tools, other: Other) -> None:
    tool = tools(secrets={"http": TOKEN})["connector.http.request"]
    await tool.call({"url": f"{other.origin}/x", "method": "POST", "body": "{{secrets.github}}"}, USE)
    assert other.requests[-1][2] == b"{{secrets.github}}"


async def test_secret_is_masked_where_the_other_side_sends_it_back(tools: Tools, other: Other) -> None:
    other.status, other.answer = 200, {"you sent": f"Bearer {TOKEN}"}
    box = Toolbox(tools(secrets={"http": TOKEN}).values())
    answer = await box.call("connector.http.request", {"url": f"{other.origin}/x", "method": "POST"}, USE)
    assert (TOKEN in answer.content, "***" in answer.content) == (False, True)
    assert TOKEN not in repr(tools()["connector.github.issue.create"])


async def test_action_has_no_more_time_than_its_call_and_no_more_than_its_limit(tools: Tools) -> None:
    asked: list[ActionContext] = []

    async def look(input: ActionInput, secret: str | None, context: ActionContext) -> object:
        asked.append(context)
        return {"secret": secret}

    class Nothing(ActionInput, frozen=True):
        pass

    acme = Connector("acme", "Acme", requires_secret=False, actions=(Action("look", Nothing, look),))
    made = tools(Registry({"acme": acme}, ()))
    assert (list(made), made["connector.acme.look"].description) == (["connector.acme.look"], "Acme: look")
    for timeout_ms in (700, 900_000):
        answer = await made["connector.acme.look"].call({}, replace(USE, timeout_ms=timeout_ms))
        assert msgspec.json.encode(answer) == b'{"secret":null}'
    assert [(each.limits.timeout_ms, each.idempotency_key, each.request_id) for each in asked] == [
        (700, USE.key, "run-1:n1:1"),
        (60_000, USE.key, "run-1:n1:1"),
    ]
