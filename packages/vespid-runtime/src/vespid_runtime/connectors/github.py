"""GitHub issues: read one, create one, comment on one. The secret is a token for issues of the repository.

GitHub has no idempotency key for these calls, so each body ends with an invisible marker made from ours, and before
anything is created the newest entries are searched for it: a repeated attempt finds the first one's work.
"""

import hashlib
import re
from typing import Annotated, TypeVar
from urllib.parse import urlencode

import msgspec

from vespid_runtime.connectors.call import call, failed
from vespid_runtime.connectors.contract import Action, ActionContext, ActionInput, Connector, ConnectorError
from vespid_runtime.egress import HttpReply

DEFAULT_BASE_URL = "https://api.github.com"
BASE_URL_KEY = "githubApiBaseUrl"

T = TypeVar("T")

_SERVICE = "GITHUB"
_PAGE = 100
# Of an issue that is read: more may be larger than an answer may be.
_COMMENTS = 30
_NEXT = re.compile(r'<[^>]+>;\s*rel="next"')

# A segment of dots alone would climb out of /repos/.
Repo = Annotated[str, msgspec.Meta(pattern=r"^(?!\.{1,2}/)[A-Za-z0-9._-]{1,100}/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}$")]
Body = Annotated[str, msgspec.Meta(max_length=60_000)]


class IssueCreateInput(ActionInput, frozen=True):
    repo: Repo
    title: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    body: Body = ""
    labels: Annotated[list[str], msgspec.Meta(max_length=100)] = msgspec.field(default_factory=list)
    assignees: Annotated[list[str], msgspec.Meta(max_length=10)] = msgspec.field(default_factory=list)


class IssueCommentInput(ActionInput, frozen=True):
    repo: Repo
    issue_number: Annotated[int, msgspec.Meta(ge=1)]
    body: Annotated[str, msgspec.Meta(min_length=1, max_length=60_000)]


class IssueGetInput(ActionInput, frozen=True):
    repo: Repo
    issue_number: Annotated[int, msgspec.Meta(ge=1)]


class _Entry(msgspec.Struct, frozen=True):
    """What we read of an issue or a comment."""

    id: int
    html_url: str
    number: int = 0
    body: str | None = None


class _User(msgspec.Struct, frozen=True):
    login: str


class _Label(msgspec.Struct, frozen=True):
    name: str = ""


class _Issue(_Entry, frozen=True):
    """What people see of an issue."""

    title: str = ""
    state: str = ""
    user: _User | None = None
    # Old ones are plain text.
    labels: tuple[_Label | str, ...] = ()
    assignees: tuple[_User, ...] = ()
    comments: int = 0
    created_at: str | None = None
    updated_at: str | None = None


class _Comment(_Entry, frozen=True):
    user: _User | None = None
    created_at: str | None = None


async def issue_get(input: IssueGetInput, secret: str | None, context: ActionContext) -> object:
    """The issue, and the last page of its comments."""
    github = _GitHub(context, secret or "")
    path = f"/repos/{input.repo}/issues/{input.issue_number}"
    issue = await github.read(path, _Issue)
    comments: list[_Comment] = []
    if issue.comments:
        last_page = -(-issue.comments // _COMMENTS)
        comments = await github.read(f"{path}/comments?per_page={_COMMENTS}&page={last_page}", list[_Comment])
    return {
        "issueNumber": issue.number,
        "id": issue.id,
        "url": issue.html_url,
        "title": issue.title,
        "body": issue.body or "",
        "state": issue.state,
        "author": _login(issue.user),
        "labels": [label if isinstance(label, str) else label.name for label in issue.labels],
        "assignees": [user.login for user in issue.assignees],
        "createdAt": issue.created_at,
        "updatedAt": issue.updated_at,
        "commentCount": issue.comments,
        "comments": [
            {"id": each.id, "author": _login(each.user), "body": each.body or "", "createdAt": each.created_at}
            for each in comments
        ],
    }


def _login(user: _User | None) -> str | None:
    return None if user is None else user.login


async def issue_create(input: IssueCreateInput, secret: str | None, context: ActionContext) -> object:
    github = _GitHub(context, secret or "")
    path = f"/repos/{input.repo}/issues"
    marker = _marker(context)
    newest = f"{path}?{urlencode({'state': 'all', 'sort': 'created', 'direction': 'desc', 'per_page': _PAGE})}"
    made = await github.find(newest, marker)
    created = made is None
    if made is None:
        content: dict[str, object] = {"title": input.title, "body": _marked(input.body, marker)}
        content |= {"labels": input.labels} if input.labels else {}
        content |= {"assignees": input.assignees} if input.assignees else {}
        made = await github.create(path, content)
    return {"issueNumber": made.number, "url": made.html_url, "id": made.id, "created": created}


async def issue_comment(input: IssueCommentInput, secret: str | None, context: ActionContext) -> object:
    github = _GitHub(context, secret or "")
    path = f"/repos/{input.repo}/issues/{input.issue_number}/comments"
    marker = _marker(context)
    # Comments of an issue come oldest first and cannot be turned round: ours is on the last page.
    made = await github.find(f"{path}?per_page={_PAGE}", marker, last_page=True)
    created = made is None
    if made is None:
        made = await github.create(path, {"body": _marked(input.body, marker)})
    return {"commentId": made.id, "url": made.html_url, "issueNumber": input.issue_number, "created": created}


def _marker(context: ActionContext) -> str:
    digest = hashlib.sha256(context.idempotency_key.encode()).hexdigest()[:32]
    return f"<!-- vespid:{digest} -->"


def _marked(body: str, marker: str) -> str:
    return f"{body}\n\n{marker}" if body else marker


class _GitHub:
    """The few calls we make, for one action."""

    def __init__(self, context: ActionContext, token: str) -> None:
        self._context = context
        operator = context.operator_base_urls.get(BASE_URL_KEY)
        asked = context.request_base_urls.get(BASE_URL_KEY)
        self._operator_base = operator
        self._base = (operator or asked or DEFAULT_BASE_URL).rstrip("/")
        self._headers = {
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {token}",
            "X-GitHub-Api-Version": "2022-11-28",
        }

    async def read(self, path: str, shape: type[T]) -> T:
        reply = await self._send("GET", path)
        if reply.status != 200:
            raise failed(_SERVICE, reply, retryable=False, reason=_reason(reply))
        return _decoded(reply, shape)

    async def find(self, path: str, marker: str, *, last_page: bool = False) -> _Entry | None:
        """The entry that bears the marker. A server without this list (a proxy) is taken to have none."""
        reply = await self._send("GET", path)
        if last_page and _NEXT.search(reply.headers.get("link", "")):
            last = re.search(r'[?&]page=(\d+)[^>]*>;\s*rel="last"', reply.headers["link"])
            if last:
                reply = await self._send("GET", f"{path}&page={last[1]}")
        if reply.status != 200:
            return None
        entries = _decoded(reply, list[_Entry])
        return next((entry for entry in entries if entry.body and marker in entry.body), None)

    async def create(self, path: str, content: dict[str, object]) -> _Entry:
        reply = await self._send("POST", path, msgspec.json.encode(content))
        if reply.status not in (200, 201):
            raise failed(_SERVICE, reply, retryable=False, reason=_reason(reply))
        return _decoded(reply, _Entry)

    async def _send(self, method: str, path: str, body: bytes | None = None) -> HttpReply:
        headers = self._headers | ({"Content-Type": "application/json"} if body is not None else {})
        reply = await call(
            self._context,
            _SERVICE,
            method,
            self._base + path,
            headers=headers,
            body=body,
            operator_base=self._operator_base,
        )
        # Rate limits come as 403 too, then with one of these headers.
        limited = reply.headers.get("x-ratelimit-remaining") == "0" or "retry-after" in reply.headers
        if reply.status == 403 and limited:
            raise failed(_SERVICE, reply, retryable=True, reason="rate limited")
        return reply


def _reason(reply: HttpReply) -> str:
    try:
        message = msgspec.json.decode(reply.body, type=dict[str, object]).get("message")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return message if isinstance(message, str) else ""


def _decoded(reply: HttpReply, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(reply.body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as odd:
        code = f"{_SERVICE}_REQUEST_FAILED"
        raise ConnectorError(code, "answered something that is not GitHub's JSON", retryable=False) from odd


connector = Connector(
    id="github",
    display_name="GitHub",
    requires_secret=True,
    actions=(
        Action("issue.get", IssueGetInput, issue_get, "Read an issue of a GitHub repository with its newest comments."),
        Action("issue.create", IssueCreateInput, issue_create, "Open an issue in a GitHub repository (owner/name)."),
        Action("issue.comment", IssueCommentInput, issue_comment, "Comment on an issue of a GitHub repository."),
    ),
)
