"""A visitor of the pages over real HTTP: keeps cookies, follows nothing by itself, reads HTML by ids and classes."""

import re
from collections.abc import AsyncIterator
from html import unescape
from typing import Any

import aiohttp
import msgspec
import pytest_asyncio
from tests.support.control import ORIGIN, Caller, Control, api_settings

from vespid.control.app import ControlPlane
from vespid.web import pages


class Page(msgspec.Struct):
    """What came back."""

    status: int
    html: str
    headers: Any

    @property
    def text(self) -> str:
        """What is read, without markup; runs of white space are one space."""
        return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", self.html)))


class Visit:
    """Somebody's browser, without its scripts."""

    def __init__(self, http: aiohttp.ClientSession, cookies: dict[str, str] | None = None) -> None:
        self._http = http
        self.cookies = dict(cookies or {})

    async def get(self, path: str, **headers: str) -> Page:
        """A page. `hx_target="agents"` asks for that block, as HTMX does."""
        return await self._ask("GET", path, None, headers)

    async def send(self, path: str, form: dict[str, str] | None = None, **headers: str) -> Page:
        """A form, from a page of ours unless `origin` says otherwise."""
        return await self._ask("POST", path, form or {}, {"origin": ORIGIN, "sec_fetch_site": "same-origin"} | headers)

    async def _ask(self, method: str, path: str, form: dict[str, str] | None, headers: dict[str, str]) -> Page:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if "hx-target" in sent:
            sent["hx-request"] = "true"
        sent["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        async with self._http.request(method, path, data=form, headers=sent, allow_redirects=False) as got:
            for name, cookie in got.cookies.items():
                self.cookies[name] = cookie.value
            return Page(got.status, (await got.read()).decode(), got.headers)


class Pages(Control):
    """A running control plane with its pages."""

    def visit(self, person: Caller | None = None, **cookies: str) -> Visit:
        """The browser of somebody who signed in, or of nobody."""
        own = {"vespid_session": person.cookie} if person is not None and person.cookie is not None else {}
        return Visit(self.http, own | cookies)


@pytest_asyncio.fixture
async def control(database_url: str, redis_url: str) -> AsyncIterator[Pages]:
    """A control plane of this test's own, with its pages."""
    plane = ControlPlane(api_settings(database_url, redis_url), pages=pages())
    await plane.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{plane.port}", cookie_jar=aiohttp.DummyCookieJar()) as http:
            yield Pages(plane, http)
    finally:
        await plane.stop()
