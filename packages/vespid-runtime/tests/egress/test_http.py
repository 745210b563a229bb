"""Requests under the guard, against a real server on loopback and a resolver that lies."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from aiohttp import web

from vespid_runtime.egress import (
    EgressDenied,
    EgressGuard,
    EgressInvalid,
    EgressPolicy,
    GuardedHttp,
    TooManyRedirects,
)


class Site:
    """A local server that redirects where it is told and remembers what it was sent."""

    def __init__(self) -> None:
        self.seen: list[web.Request] = []
        self.port = 0

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/to", self._redirect)
        app.router.add_route("*", "/loop", self._loop)
        app.router.add_get("/long", self._long)
        app.router.add_route("*", "/{tail:.*}", self._here)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        return runner

    async def _here(self, request: web.Request) -> web.Response:
        self.seen.append(request)
        return web.Response(text=f"{request.method} {request.path} {await request.text()}")

    async def _redirect(self, request: web.Request) -> web.Response:
        self.seen.append(request)
        return web.Response(status=int(request.query.get("status", "302")), headers={"Location": request.query["url"]})

    async def _loop(self, request: web.Request) -> web.Response:
        raise web.HTTPFound("/loop")

    async def _long(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            for _ in range(1000):
                await response.write(b"x" * 10_000)
        except ConnectionError:
            pass  # the client has what it wanted
        return response


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    runner = await made.start()
    yield made
    await runner.cleanup()


class Names:
    """A resolver from a table; each name answers its lists one after the other and stays at the last."""

    def __init__(self, **answers: list[Sequence[str]]) -> None:
        self._answers = answers
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        left = self._answers[host.partition(".")[0]]
        return left.pop(0) if len(left) > 1 else left[0]


def guarded(names: Names, allow: str = "") -> GuardedHttp:
    return GuardedHttp(EgressGuard(EgressPolicy.cloud(allow), names))


async def test_allowed_name_is_reached_at_its_checked_address(site: Site) -> None:
    async with guarded(Names(good=[["127.0.0.1"]]), allow="good.example") as http:
        reply = await http.fetch("GET", f"http://good.example:{site.port}/x", max_bytes=1000)
    assert (reply.status, reply.body) == (200, b"GET /x ")
    assert site.seen[0].host == f"good.example:{site.port}"


@pytest.mark.promise("P10")
@pytest.mark.parametrize("answer", [["127.0.0.1"], ["1.1.1.1", "127.0.0.1"], ["::ffff:127.0.0.1"], ["169.254.169.254"]])
async def test_name_with_an_inner_address_is_refused_even_beside_a_public_one(site: Site, answer: list[str]) -> None:
    async with guarded(Names(evil=[answer])) as http:
        with pytest.raises(EgressDenied):
            await http.fetch("GET", f"http://evil.example:{site.port}/", max_bytes=1000)
    assert site.seen == []


@pytest.mark.promise("P10")
async def test_rebinding_name_is_resolved_once_and_connected_to_what_was_checked(site: Site) -> None:
    # First answer passes (allowed by address), every later one would be an address that is refused.
    names = Names(rebind=[["127.0.0.1"], ["169.254.169.254"]])
    async with guarded(names, allow=f"127.0.0.1:{site.port}") as http:
        reply = await http.fetch("GET", f"http://rebind.example:{site.port}/one", max_bytes=1000)
        assert reply.status == 200
        assert names.asked == ["rebind.example"]


@pytest.mark.promise("P10")
async def test_name_that_turns_inward_between_two_hops_is_refused(site: Site) -> None:
    names = Names(rebind=[["127.0.0.1"], ["127.0.0.2"]])
    async with guarded(names, allow=f"127.0.0.1:{site.port}") as http:
        url = f"http://rebind.example:{site.port}/to?url=http://rebind.example:{site.port + 1}/"
        with pytest.raises(EgressDenied):
            await http.fetch("GET", url, max_bytes=1000)


@pytest.mark.promise("P10")
@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("http://127.0.0.2/", EgressDenied),
        ("http://inner.example/", EgressDenied),
        ("http://[::1]/", EgressDenied),
        ("http://0x7f.1/", EgressInvalid),
        ("file:///etc/passwd", EgressInvalid),
        ("http://a:b@good.example/", EgressInvalid),
        ("//inner.example/", EgressDenied),
    ],
)
async def test_redirect_is_checked_like_the_first_hop(site: Site, target: str, error: type[Exception]) -> None:
    names = Names(good=[["127.0.0.1"]], inner=[["10.0.0.1"]])
    async with guarded(names, allow="good.example") as http:
        with pytest.raises(error):
            await http.fetch("GET", f"http://good.example:{site.port}/to?url={target}", max_bytes=1000)


async def test_redirect_chain_within_the_limit_is_followed_and_a_loop_is_not(site: Site) -> None:
    async with guarded(Names(good=[["127.0.0.1"]]), allow="good.example") as http:
        reply = await http.fetch("GET", f"http://good.example:{site.port}/to?url=/end", max_bytes=1000)
        assert reply.body == b"GET /end "
        with pytest.raises(TooManyRedirects):
            await http.fetch("GET", f"http://good.example:{site.port}/loop", max_bytes=1000)


@pytest.mark.parametrize(("status", "kept"), [(301, False), (302, False), (303, False), (307, True), (308, True)])
async def test_body_survives_only_redirects_that_keep_the_method(site: Site, status: int, kept: bool) -> None:
    async with guarded(Names(good=[["127.0.0.1"]]), allow="good.example") as http:
        url = f"http://good.example:{site.port}/to?status={status}&url=/end"
        reply = await http.fetch("POST", url, body=b"data", headers={"Content-Type": "text/plain"}, max_bytes=1000)
    assert reply.body == (b"POST /end data" if kept else b"GET /end ")


@pytest.mark.promise("P7")
async def test_credentials_do_not_travel_to_another_origin(site: Site) -> None:
    names = Names(good=[["127.0.0.1"]], other=[["127.0.0.1"]])
    async with guarded(names, allow="good.example, other.example") as http:
        url = f"http://good.example:{site.port}/to?url=http://other.example:{site.port}/end"
        headers = {"Authorization": "Bearer t", "X-Api-Key": "k", "Cookie": "c=1", "X-Plain": "p"}
        await http.fetch("GET", url, headers=headers, max_bytes=1000, private_headers=frozenset({"x-api-key"}))
    first, second = (request.headers for request in site.seen)
    assert {"Authorization", "X-Api-Key", "Cookie", "X-Plain"} <= set(first)
    assert {"Authorization", "X-Api-Key", "Cookie"}.isdisjoint(second)
    assert second["X-Plain"] == "p"


async def test_operator_base_is_exempt_and_its_redirects_elsewhere_are_not(site: Site) -> None:
    base = f"http://127.0.0.1:{site.port}"
    async with guarded(Names()) as http:
        reply = await http.fetch("GET", f"{base}/to?url=/end", max_bytes=1000, operator_base=f"{base}/api")
        assert reply.status == 200
        with pytest.raises(EgressDenied):
            await http.fetch("GET", f"{base}/end", max_bytes=1000)
        away = f"{base}/to?url=http://127.0.0.1:{site.port + 1}/"
        with pytest.raises(EgressDenied):
            await http.fetch("GET", away, max_bytes=1000, operator_base=base)


async def test_long_body_is_cut_at_the_cap(site: Site) -> None:
    async with guarded(Names(good=[["127.0.0.1"]]), allow="good.example") as http:
        reply = await asyncio.wait_for(
            http.fetch("GET", f"http://good.example:{site.port}/long", max_bytes=15_000), timeout=10
        )
    assert (len(reply.body), reply.truncated) == (15_000, True)


async def test_name_without_address_is_an_os_error_and_not_a_refusal(site: Site) -> None:
    async def nothing(host: str, port: int) -> Sequence[str]:
        return []

    async with GuardedHttp(EgressGuard(EgressPolicy.cloud(), nothing)) as http:
        with pytest.raises(OSError):
            await http.fetch("GET", "http://gone.example/", max_bytes=1000)


async def test_service_may_be_started_and_stopped_twice() -> None:
    http = GuardedHttp(EgressGuard(EgressPolicy.agent()))
    await http.start()
    await http.start()
    await http.stop()
    await http.stop()
