"""One call of the API: credential, organization, tries, and the answer as a type or the error as an exception.

A 401 is met with one renewal of the login and one more try.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from vespid_client.authentication import Credential
from vespid_client.comeback import LineWatch
from vespid_client.errors import AnswerNotUnderstood, ApiError, ConnectionFailed, NotFound, NotSignedIn, error_of
from vespid_client.http import Answer, Http
from vespid_client.models.accounts import Me
from vespid_client.retries import Repeat, Retries, pause_before_next
from vespid_client.route import Route, get

T = TypeVar("T")

ME = get("/v1/me", Me)


class Api:
    """Calls as one caller, about one organization."""

    def __init__(
        self,
        http: Http,
        credential: Credential,
        org: str | None,
        retries: Retries,
        watch: LineWatch | None = None,
    ) -> None:
        self.http = http
        self.credential = credential
        self.retries = retries
        # Told of lost connections of what is followed.
        self.watch = watch
        self._org = org
        self._org_id: str | None = None

    async def call(
        self,
        route: Route[T],
        *,
        body: object = None,
        query: Mapping[str, object] | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        path: Mapping[str, str] | None = None,
    ) -> T:
        """The answer of a route. `key`: an Idempotency-Key of the caller's own. Raises ApiError, ConnectionFailed."""
        answer = await self.answer(route, body=body, query=query, key=key, headers=headers, path=path)
        try:
            return msgspec.json.decode(answer.body or b"null", type=route.answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise AnswerNotUnderstood(f"{route.method} {route.path}: {error}") from error

    async def answer(
        self,
        route: Route[Any],
        *,
        body: object = None,
        query: Mapping[str, object] | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        path: Mapping[str, str] | None = None,
    ) -> Answer:
        """As `call`, undecoded."""
        sent = dict(headers or {})
        if route.repeat is Repeat.KEYED or key is not None:
            sent["Idempotency-Key"] = key or str(uuid.uuid4())
        data = None
        if body is not None:
            data = msgspec.json.encode(body)
            sent["Content-Type"] = "application/json"
        filled = await self._filled(route, path, sent) + _query(query)
        return await self._tried(route, filled, data, sent)

    @contextlib.asynccontextmanager
    async def stream(
        self, route: Route[Any], *, path: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that goes on; its lines are the caller's to read. Not tried again, but for a login that ran out."""
        sent = {"Accept": "text/event-stream", **(headers or {})}
        filled = await self._filled(route, path, sent)
        for may_renew in (True, False):
            token = await self.credential.token()
            async with self.http.stream(filled, {**sent, "Authorization": f"Bearer {token}"}) as answer:
                if answer.status < 300:
                    yield answer
                    return
                error = error_of(answer.status, answer.headers, await answer.read())
            if not (may_renew and isinstance(error, NotSignedIn) and await self.credential.renew(token)):
                raise error

    async def org_id(self) -> str:
        """The id of the organization that calls are about."""
        if self._org_id is None:
            self._org_id = await self._find_org()
        return self._org_id

    def forget_org(self) -> None:
        """Somebody else calls now: find the organization again."""
        self._org_id = None

    async def _find_org(self) -> str:
        if self._org is None and (own := self.credential.org_id) is not None:
            return own
        if self._org is not None and _is_uuid(self._org):
            return self._org.lower()
        me = await self.call(ME)
        if self._org is None:
            if me.default_org_id is None:
                raise NotFound(404, "NOT_FOUND", "You are in no organization: make one, or have yourself invited.")
            return me.default_org_id
        for org in me.orgs:
            if org.slug == self._org:
                return org.id
        raise NotFound(404, "NOT_FOUND", f"You are in no organization with the slug {self._org!r}.")

    async def _filled(self, route: Route[Any], path: Mapping[str, str] | None, headers: dict[str, str]) -> str:
        values = {name: quote(value, safe="") for name, value in (path or {}).items()}
        if route.is_of_org:
            values["org_id"] = headers["X-Org-Id"] = await self.org_id()
        return route.path.format(**values)

    async def _tried(self, route: Route[Any], path: str, data: bytes | None, headers: Mapping[str, str]) -> Answer:
        pauses = self.retries.pauses()
        is_repeat = False
        while True:
            try:
                return await self._shown(route, path, data, headers)
            except (ApiError, ConnectionFailed) as error:
                if is_repeat and route.method == "DELETE" and isinstance(error, NotFound):
                    # The try whose answer was lost has deleted it.
                    return Answer(200, {}, b'{"ok":true}', {})
                bound = next(pauses, None)
                pause = None if bound is None else pause_before_next(error, route.repeat, bound, self.retries)
                if pause is None:
                    raise
            await asyncio.sleep(pause)
            is_repeat = True

    async def _shown(self, route: Route[Any], path: str, data: bytes | None, headers: Mapping[str, str]) -> Answer:
        """One try, with the credential; two where that was renewed."""
        if route.is_open:
            return _successful(await self.http.send(route.method, path, headers, data))
        token = await self.credential.token()
        answer = await self.http.send(route.method, path, {**headers, "Authorization": f"Bearer {token}"}, data)
        if answer.status == 401 and await self.credential.renew(token):
            token = await self.credential.token()
            answer = await self.http.send(route.method, path, {**headers, "Authorization": f"Bearer {token}"}, data)
        return _successful(answer)


def _successful(answer: Answer) -> Answer:
    if not answer.is_ok:
        raise error_of(answer.status, answer.headers, answer.body)
    return answer


def _query(query: Mapping[str, object] | None) -> str:
    given = ((name, value) for name, value in (query or {}).items() if value is not None)
    pairs = [f"{quote(name)}={quote(str(value), safe='')}" for name, value in given]
    return f"?{'&'.join(pairs)}" if pairs else ""


def _is_uuid(text: str) -> bool:
    try:
        return len(text) == 36 and bool(uuid.UUID(text))
    except ValueError:
        return False
