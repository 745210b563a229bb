"""`vespid doctor`: everything between here and a run, one line each, with the cause and the mend of what is wrong."""

import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from vespid.cli import exit_codes
from vespid.cli.caller import Json, ProfileName, operate
from vespid.cli.groups import OPERATOR, add
from vespid.cli.output import Output, status
from vespid.cli.problem import Problem

if TYPE_CHECKING:
    from vespid.cli.checks import Found
    from vespid.cli.profiles import Choice, ProfileFile
    from vespid_client import AsyncClient

ANSWER_WITHIN_S = 10.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "doctor", doctor, "vespid doctor --api-base https://vespid.example.com", rich_help_panel=OPERATOR)


def doctor(
    api_base: Annotated[
        str | None, typer.Option("--api-base", metavar="URL", help="Look at this server instead of the profile's.")
    ] = None,
    as_json: Json = False,
    profile: ProfileName = None,
) -> None:
    """Look at everything between here and a run. Ends with 1 where something is broken."""

    async def work(out: Output) -> int:
        from vespid.cli.profiles import ProfileFile, choose

        file = ProfileFile.of(os.environ, out.warn)
        env = dict(os.environ) | ({"VESPID_API_BASE": api_base} if api_base else {})
        choice = choose(file.read(), env, profile)
        found: list[Found] = []
        async for line in examine(file, choice):
            found.append(line)
            if not out.as_json:
                _say(out, line)
        broken = [line for line in found if line.state == "fail"]
        if out.as_json:
            out.document({"ok": not broken, "checks": [line.to_json() for line in found]})
        else:
            warnings = sum(line.state == "warn" for line in found)
            out.line("")
            out.line(f"{len(found) - len(broken) - warnings} ok, {warnings} to look at, {len(broken)} broken")
        return exit_codes.FAILED if broken else exit_codes.DONE

    operate(as_json, work)


async def examine(file: "ProfileFile", choice: "Choice") -> "AsyncIterator[Found]":
    """Every check that can be made, in the order in which things depend on each other."""
    from vespid.cli.checks import Found, Place, check_dns, check_proxy, check_tcp, check_tls, check_transport

    base = choice.profile.api_base
    place = Place.of(base)
    yield Found("profile", "ok", f"{choice.name}: {base} ({file.path})")
    yield check_proxy(place)
    yield check_transport(place)
    for check in (check_dns, check_tcp, lambda place: check_tls(place, os.environ)):
        line = await check(place)
        yield line
        if line.state == "fail":
            return
    async for line in _Server(file, choice).examine():
        yield line


@dataclass
class _Server:
    """What lies behind the socket: HTTP, then who we are there, then what works there."""

    file: "ProfileFile"
    choice: "Choice"
    # Told by the checks to those after them.
    _is_there: bool = False
    _socket_url: str = ""
    _org_id: str = ""
    _may_see_agents: bool = False
    _lines: "list[Found]" = field(default_factory=list)

    async def examine(self) -> "AsyncIterator[Found]":
        """The lines, one check after the other."""
        from vespid.cli.sign_in import client_of, user_agent
        from vespid_client import AsyncClient, Retries

        base = self.choice.profile.api_base
        async for line in self._http(base):
            yield line
        if not self._is_there:
            return
        # Nobody has to be signed in to be told what the server is.
        async with AsyncClient(base, user_agent=user_agent(), retries=Retries(tries=1)) as anybody:
            yield await self._guarded("versions", lambda: self._versions(anybody))
        try:
            async with client_of(self.file, self.choice) as client:
                yield await self._guarded("login", lambda: self._login(client))
                if self._org_id:
                    yield await self._guarded("gateway", lambda: self._gateway(client))
                    yield await self._guarded("agents", lambda: self._agents(client))
        except Problem as problem:
            yield _found("login", "fail", problem.cause, problem.mend)

    async def _guarded(self, check: str, look: Callable[[], "object"]) -> "Found":
        """The line of a check, also where the client raises."""
        from vespid.cli.refusals import problem_of
        from vespid_client import VespidError

        try:
            return await look()  # type: ignore[misc, no-any-return]
        except VespidError as error:
            problem = problem_of(error)
            return _found(check, "fail", problem.cause, problem.mend)

    async def _http(self, base: str) -> "AsyncIterator[Found]":
        import aiohttp

        from vespid.cli.checks import check_clock

        timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN_S)
        try:
            async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as http:
                async with http.get(f"{base}/healthz", allow_redirects=False) as answer:
                    said = await answer.text(errors="replace")
                    if answer.status != 200 or '"ok"' not in said:
                        told = f"GET /healthz answered {answer.status} {said[:80]!r}"
                        yield _found(
                            "api", "fail", told, "Is that the address of Vespid's API? Something else answers there"
                        )
                        return
                    self._is_there = True
                    yield check_clock(answer.headers.get("Date"), time.time())
                async with http.get(f"{base}/readyz", allow_redirects=False) as answer:
                    said = (await answer.text(errors="replace"))[:200]
                    if answer.status == 200:
                        yield _found("api", "ok", "lives, and its database and Redis answer")
                    else:
                        mend = "Are PostgreSQL and Redis up, and reachable from the API's machine?"
                        yield _found("api", "fail", f"lives, but is not ready: {said}", mend)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            yield _found(
                "api",
                "fail",
                f"no answer: {error or type(error).__name__}",
                "Does that port speak HTTP? Is it the API's?",
            )

    async def _versions(self, anybody: "AsyncClient") -> "Found":
        from importlib.metadata import version

        from vespid_client.chat import client_url_beside

        capabilities = await anybody.meta.capabilities()
        theirs, ours = capabilities.provider.version, version("vespid")
        self._socket_url = capabilities.client_ws_url or client_url_beside(self.choice.profile.api_base)
        if theirs.split(".")[:2] != ours.split(".")[:2]:
            mend = f"Install this program in the server's version: pip install vespid=={theirs}"
            return _found("versions", "warn", f"the server is {theirs}, this program {ours}", mend)
        return _found("versions", "ok", f"server {theirs}, this program {ours}")

    async def _login(self, client: "AsyncClient") -> "Found":
        self._org_id = await client.org_id()
        if self.choice.profile.api_key is not None:
            await client.settings.get()
            return _found("login", "ok", f"an API key of the organization {self._org_id}")
        me = await client.me()
        mine = next((org for org in me.orgs if org.id == self._org_id), None)
        if mine is None:
            self._org_id = ""
            told = f"{me.user.email}, who is no member of the organization that is chosen"
            return _found("login", "fail", told, "Choose another: vespid org ls, vespid org use")
        self._may_see_agents = mine.role_key in ("owner", "admin")
        return _found("login", "ok", f"{me.user.email}, {mine.role_key} of {mine.name} ({mine.slug})")

    async def _gateway(self, client: "AsyncClient") -> "Found":
        """Whether the socket of people's programs opens; agents have another on the same port."""
        import aiohttp

        token = self.choice.profile.api_key or await client.auth.access_token()
        headers = {"Authorization": f"Bearer {token}", "X-Org-Id": self._org_id}
        url = self._socket_url
        mend = "Is `vespid gateway` up, and its port open from here? Sessions and agents need it"
        try:
            async with aiohttp.ClientSession(trust_env=True) as http:
                timeout = aiohttp.ClientWSTimeout(ws_close=1.0)
                async with http.ws_connect(url, headers=headers, timeout=timeout):
                    return _found("gateway", "ok", f"the socket opens at {url}")
        except aiohttp.WSServerHandshakeError as refused:
            return _found("gateway", "fail", f"{url} refuses the socket: {refused.status} {refused.message}", mend)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return _found("gateway", "fail", f"{url}: {error or type(error).__name__}", mend)

    async def _agents(self, client: "AsyncClient") -> "Found":
        if not self._may_see_agents and self.choice.profile.api_key is None:
            return _found("agents", "ok", "seen by owners and admins alone")
        agents = [agent for agent in await client.agents.list().all() if agent.status != "revoked"]
        online = [agent for agent in agents if agent.status == "online"]
        ready = [agent for agent in online if not agent.cordoned]
        said = f"{len(online)} of {len(agents)} online"
        if not agents:
            return _found("agents", "warn", "there is none: nothing runs on machines of yours", "vespid agent pair")
        if not online:
            return _found("agents", "warn", said, "On its machine: vespid-agent status, vespid-agent doctor")
        if not ready:
            return _found("agents", "warn", f"{said}, all of them cordoned", "vespid agent uncordon <name>")
        full = all(agent.in_flight >= agent.max_in_flight for agent in ready)
        if full:
            return _found("agents", "warn", f"{said}, and each has all that it can take", "Wait, or pair another one")
        return _found("agents", "ok", said)


def _found(check: str, state: str, said: str, mend: str = "") -> "Found":
    from vespid.cli.checks import Found

    return Found(check, state, said, mend)  # type: ignore[arg-type]


def _say(out: Output, line: "Found") -> None:
    out.line(status(line.state), " " * (6 - len(line.state)), (line.check.ljust(10), "bold"), line.said)
    if line.mend and line.state != "ok":
        out.line(" " * 16, ("→ ", "cyan"), line.mend)
