"""http, github and slack against a real local server that plays the other side."""

import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from aiohttp import web

from vespid_runtime.connectors import ActionLimits, ConnectorError, registry

from .conftest import MakeContext

CONNECTORS = registry(())


class Other:
    """The other side: what it was asked, and what it shall answer next."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.issues: list[dict[str, object]] = []
        # By path, of what is read.
        self.pages: dict[str, object] = {}
        self.answer: web.Response | None = None
        self.origin = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((request.method, request.path_qs, headers, body))
        if self.answer is not None:
            answer, self.answer = self.answer, None
            return answer
        if request.path.startswith("/gh/repos/o/r/issues"):
            return await self._github(request)
        return web.json_response({"hello": ["world"]})

    async def _github(self, request: web.Request) -> web.Response:
        if request.method == "GET" and request.path in self.pages:
            return web.json_response(self.pages[request.path])
        if request.method == "GET":
            return web.json_response(self.issues)
        content = await request.json()
        number = len(self.issues) + 1
        url = f"{self.origin}/o/r/{number}"
        self.issues.append({"id": 1000 + number, "number": number, "html_url": url, "body": content["body"]})
        return web.json_response(self.issues[-1], status=201)


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


async def http(context: object, **input: object) -> dict[str, object]:
    secret = input.pop("secret", None)
    output = await CONNECTORS.run("http", "request", input, secret, context)  # type: ignore[arg-type]
    assert isinstance(output, dict)
    return output


async def test_json_answer_is_decoded_for_the_conditions_of_a_workflow(other: Other, make_context: MakeContext) -> None:
    output = await http(make_context(), url=f"{other.origin}/x?y=1")
    assert output["status"] == 200
    assert (output["body"], output["bodyEncoding"], output["truncated"]) == ({"hello": ["world"]}, "json", False)
    assert other.requests[0][:2] == ("GET", "/x?y=1")


async def test_body_and_idempotency_key_are_sent(other: Other, make_context: MakeContext) -> None:
    await http(make_context(), url=f"{other.origin}/x", method="POST", body={"a": 1}, headers={"X-N": 5})
    _, _, headers, body = other.requests[0]
    assert body == b'{"a":1}'
    assert (headers["content-type"], headers["idempotency-key"], headers["x-n"]) == (
        "application/json",
        "run-1:n1",
        "5",
    )


@pytest.mark.parametrize(
    ("secret", "header", "value"),
    [
        ("tok-1", "authorization", "Bearer tok-1"),
        ("Basic dTpw", "authorization", "Basic dTpw"),
        ("X-Api-Key: k-1", "x-api-key", "k-1"),
    ],
)
async def test_secret_becomes_the_header_its_form_says(
    other: Other, make_context: MakeContext, secret: str, header: str, value: str
) -> None:
    await http(make_context(), url=other.origin, secret=secret)
    assert other.requests[0][2][header] == value


async def test_bytes_come_as_base64_and_long_text_is_cut(other: Other, make_context: MakeContext) -> None:
    other.answer = web.Response(body=b"\x00\xff", content_type="application/octet-stream")
    output = await http(make_context(), url=other.origin)
    assert (output["body"], output["bodyEncoding"]) == (base64.b64encode(b"\x00\xff").decode(), "base64")
    other.answer = web.json_response("x" * 30_000)
    output = await http(make_context(), url=other.origin)
    assert (len(str(output["body"])), output["bodyEncoding"], output["truncated"]) == (20_000, "text", True)


async def test_not_found_is_an_answer(other: Other, make_context: MakeContext) -> None:
    other.answer = web.Response(status=404, text="nope")
    assert (await http(make_context(), url=other.origin))["status"] == 404


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_busy_and_broken_servers_are_worth_a_retry(other: Other, make_context: MakeContext, status: int) -> None:
    other.answer = web.Response(status=status, headers={"Retry-After": "7"})
    with pytest.raises(ConnectorError) as failed:
        await http(make_context(), url=other.origin)
    assert failed.value.code == f"HTTP_REQUEST_FAILED:{status}"
    assert (failed.value.retryable, failed.value.retry_after_ms) == (True, 7000)


async def test_refused_connection_is_worth_a_retry_and_a_refused_address_is_not(make_context: MakeContext) -> None:
    with pytest.raises(ConnectorError) as failed:
        await http(make_context(), url="http://server.local.example:9/")
    assert (failed.value.code, failed.value.retryable) == ("HTTP_REQUEST_FAILED", True)
    with pytest.raises(ConnectorError) as denied:
        await http(make_context(guarded=True), url="http://server.local.example:9/")
    assert (denied.value.code, denied.value.retryable) == ("EGRESS_DENIED", False)


async def test_slow_server_is_a_timeout(other: Other, make_context: MakeContext) -> None:
    context = make_context()
    late = replace(context, deadline=context.monotonic() - timedelta(seconds=1).total_seconds())
    with pytest.raises(ConnectorError) as failed:
        await http(late, url=other.origin)
    assert (failed.value.code, failed.value.retryable) == ("NODE_EXECUTION_TIMEOUT", True)


@pytest.mark.promise("P10")
@pytest.mark.parametrize(
    ("input", "field"),
    [
        ({}, "url"),
        ({"url": "http://x", "method": "BREW"}, "method"),
        ({"url": "http://x", "headers": {"Host": "y"}}, "headers.Host"),
        ({"url": "http://x", "headers": {"a b": "y"}}, "headers"),
        ({"url": "http://x", "headers": {"A": "y\r\nB: z"}}, "headers.A"),
        ({"url": "http://x", "headers": {"Authorization": "y"}, "secret": "s"}, "headers.Authorization"),
        ({"url": "http://x", "secret": "a\nb"}, "auth.secretId"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"url": "http://x", "timeoutMs": 0}, "timeoutMs"),
        ({"url": "http://x.local.example", "body": "x" * 300}, "body"),
    ],
)
async def test_bad_requests_name_the_field(make_context: MakeContext, input: dict[str, object], field: str) -> None:
    with pytest.raises(ConnectorError) as refused:
        await http(make_context(limits=ActionLimits(request_max_bytes=200)), **input)
    assert (refused.value.code, refused.value.details) == ("INVALID_ACTION_INPUT", {"field": field})


async def github(make_context: MakeContext, other: Other, action: str, **input: object) -> dict[str, object]:
    # The origin is the operator's, so the guard that refuses every loopback address lets it pass.
    base = other.origin.replace("server.local.example", "127.0.0.1") + "/gh/"
    context = make_context(operator_base_urls={"githubApiBaseUrl": base}, guarded=True)
    output = await CONNECTORS.run("github", action, {"repo": "o/r"} | input, "ghp_token", context)
    assert isinstance(output, dict)
    return output


async def test_github_issue_is_created_once_per_idempotency_key(other: Other, make_context: MakeContext) -> None:
    first = await github(make_context, other, "issue.create", title="t", body="text", labels=["bug"])
    again = await github(make_context, other, "issue.create", title="t", body="text", labels=["bug"])
    assert (first["issueNumber"], first["created"]) == (1, True)
    assert (again["issueNumber"], again["created"], again["url"]) == (1, False, first["url"])
    assert len(other.issues) == 1
    assert str(other.issues[0]["body"]).startswith("text\n\n<!-- vespid:")
    assert all(headers["authorization"] == "Bearer ghp_token" for _, _, headers, _ in other.requests)


async def test_github_comment_of_a_lost_answer_is_found_on_the_last_page(
    other: Other, make_context: MakeContext
) -> None:
    first = await github(make_context, other, "issue.comment", issueNumber=7, body="done")
    link = f'<{other.origin}/x?per_page=100&page=2>; rel="next", <{other.origin}/x?per_page=100&page=3>; rel="last"'
    other.answer = web.json_response([], headers={"Link": link})
    again = await github(make_context, other, "issue.comment", issueNumber=7, body="done")
    assert (again["commentId"], again["created"]) == (first["commentId"], False)
    assert other.requests[-1][1].endswith("per_page=100&page=3")


async def test_github_issue_is_read_with_the_newest_of_its_comments(other: Other, make_context: MakeContext) -> None:
    people = {"user": {"login": "ada"}, "assignees": [{"login": "bob"}], "labels": [{"name": "bug"}, "old"]}
    issue = {"id": 9, "number": 7, "html_url": "u", "title": "Broken", "body": None, "state": "open", "comments": 61}
    path = "/gh/repos/o/r/issues/7"
    comment = {"id": 1, "html_url": "c", "body": "me too", "user": None, "created_at": "2026-01-02T03:04:05Z"}
    other.pages = {path: issue | people, f"{path}/comments": [comment]}
    read = await github(make_context, other, "issue.get", issueNumber=7)
    assert (read["title"], read["body"], read["author"], read["state"]) == ("Broken", "", "ada", "open")
    assert (read["labels"], read["assignees"]) == (["bug", "old"], ["bob"])
    assert read["comments"] == [{"id": 1, "author": None, "body": "me too", "createdAt": "2026-01-02T03:04:05Z"}]
    assert [method for method, *_ in other.requests] == ["GET", "GET"]
    assert other.requests[-1][1] == f"{path}/comments?per_page=30&page=3"


async def test_github_issue_without_comments_is_one_request(other: Other, make_context: MakeContext) -> None:
    other.pages = {"/gh/repos/o/r/issues/7": {"id": 9, "number": 7, "html_url": "u", "title": "Broken"}}
    assert (await github(make_context, other, "issue.get", issueNumber=7))["comments"] == []
    assert len(other.requests) == 1


async def test_github_issue_that_is_not_there_is_said(other: Other, make_context: MakeContext) -> None:
    other.answer = web.json_response({"message": "Not Found"}, status=404)
    with pytest.raises(ConnectorError) as failed:
        await github(make_context, other, "issue.get", issueNumber=7)
    assert (failed.value.code, failed.value.message) == ("GITHUB_REQUEST_FAILED:404", "answered 404: Not Found")


async def test_github_server_without_a_list_still_creates(other: Other, make_context: MakeContext) -> None:
    other.answer = web.Response(status=404)
    assert (await github(make_context, other, "issue.create", title="t"))["created"] is True


@pytest.mark.parametrize(
    ("status", "headers", "code", "retryable"),
    [
        (403, {"X-RateLimit-Remaining": "0"}, "GITHUB_REQUEST_FAILED:403", True),
        (502, {}, "GITHUB_REQUEST_FAILED:502", True),
    ],
)
async def test_github_limits_are_worth_a_retry(
    other: Other, make_context: MakeContext, status: int, headers: dict[str, str], code: str, retryable: bool
) -> None:
    other.answer = web.Response(status=status, headers=headers)
    with pytest.raises(ConnectorError) as failed:
        await github(make_context, other, "issue.create", title="t")
    assert (failed.value.code, failed.value.retryable) == (code, retryable)


@pytest.mark.promise("P10")
@pytest.mark.parametrize("repo", ["o", "o/r/x", "../r", "o/..", "o/r?x", "o /r", ""])
async def test_github_repo_that_is_not_owner_and_name_is_refused(
    other: Other, make_context: MakeContext, repo: str
) -> None:
    with pytest.raises(ConnectorError) as refused:
        await github(make_context, other, "issue.create", title="t", repo=repo)
    assert refused.value.details == {"field": "repo"}
    assert other.requests == []


async def test_request_base_url_stays_under_the_guard(other: Other, make_context: MakeContext) -> None:
    context = make_context(request_base_urls={"githubApiBaseUrl": f"{other.origin}/gh"}, guarded=True)
    with pytest.raises(ConnectorError) as denied:
        await CONNECTORS.run("github", "issue.create", {"repo": "o/r", "title": "t"}, "tok", context)
    assert denied.value.code == "EGRESS_DENIED"
    assert other.requests == []


async def slack(make_context: MakeContext, other: Other, **input: object) -> object:
    context = make_context(request_base_urls={"slackApiBaseUrl": f"{other.origin}/api"})
    return await CONNECTORS.run("slack", "message.post", input, "xoxb-1", context)


async def test_slack_message_is_posted(other: Other, make_context: MakeContext) -> None:
    other.answer = web.json_response({"ok": True, "channel": "C1", "ts": "1.2"})
    assert await slack(make_context, other, channel="#ops", text="hi", threadTs="1.1") == {"channel": "C1", "ts": "1.2"}
    method, path, headers, body = other.requests[0]
    assert (method, path, headers["authorization"]) == ("POST", "/api/chat.postMessage", "Bearer xoxb-1")
    assert body == b'{"channel":"#ops","text":"hi","thread_ts":"1.1"}'


@pytest.mark.parametrize(("error", "retryable"), [("channel_not_found", False), ("ratelimited", True)])
async def test_slack_refusal_in_a_good_answer_is_an_error(
    other: Other, make_context: MakeContext, error: str, retryable: bool
) -> None:
    other.answer = web.json_response({"ok": False, "error": error})
    with pytest.raises(ConnectorError) as failed:
        await slack(make_context, other, channel="C", text="x")
    assert (failed.value.code, failed.value.retryable) == (f"SLACK_REQUEST_FAILED:{error}", retryable)
