"""The client: one installation, one caller, one organization.

async with AsyncClient("https://vespid.example.com", api_key=key) as client:
    run = await client.runs.start(workflow_id, {"name": "Ann"})
    async for event in run.follow():
        print(event.event_type)
"""

import os
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

from vespid_client.api import ME, Api
from vespid_client.authentication import Bearer, Credential, LoginSession
from vespid_client.comeback import LineWatch
from vespid_client.credentials import LoginStore, MemoryStore
from vespid_client.http import Http
from vespid_client.models.accounts import Me
from vespid_client.models.overview import Hint, Overview
from vespid_client.resources import overview
from vespid_client.resources.agents import Agents
from vespid_client.resources.approvals import Approvals
from vespid_client.resources.auth import Auth
from vespid_client.resources.bindings import Bindings
from vespid_client.resources.hooks import Hooks
from vespid_client.resources.memory import Memory
from vespid_client.resources.meta import Meta
from vespid_client.resources.orgs import ApiKeys, Audit, Invitations, Members, Orgs, Settings
from vespid_client.resources.overview import Window
from vespid_client.resources.runs import Runs
from vespid_client.resources.secrets import Secrets
from vespid_client.resources.sessions import Sessions
from vespid_client.resources.usage import Usage
from vespid_client.resources.workflows import Workflows
from vespid_client.retries import Repeat, Retries
from vespid_client.route import Route


class AsyncClient:
    """See the module. Usable in one event loop.

    `api_key` or `access_token`: shown as they are. Else `credentials` keeps the login that `auth.login` gives, or has
    one already; without it the login lives as long as the client. `org`: id or slug; without it the key's own, or the
    caller's first. `timeout`: seconds per try. `retries`: how often and how patiently.
    `ca_file`: a certificate authority to trust beside `ssl`. `gateway_ws_url`: the client socket, where it is not to be
    asked for. `watch`: is told when the connection of what is followed is lost, and back.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        access_token: str | None = None,
        credentials: LoginStore | None = None,
        org: str | None = None,
        timeout: float = 30.0,
        retries: Retries | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        ssl: ssl.SSLContext | None = None,
        user_agent: str | None = None,
        gateway_ws_url: str | None = None,
        watch: LineWatch | None = None,
    ) -> None:
        agent = user_agent or f"vespid-client/{version('vespid-client')}"
        http = Http(base_url, timeout_s=timeout, tls=_trusting(ca_file, ssl), user_agent=agent)
        bearer = api_key or access_token
        credential: Credential = Bearer(bearer) if bearer else LoginSession(http, credentials or MemoryStore())
        self._api = Api(http, credential, org, retries or Retries(), watch)
        self.auth = Auth(self._api)
        self.orgs = Orgs(self._api)
        self.members = Members(self._api)
        self.invitations = Invitations(self._api)
        self.api_keys = ApiKeys(self._api)
        self.settings = Settings(self._api)
        self.audit = Audit(self._api)
        self.agents = Agents(self._api)
        self.secrets = Secrets(self._api)
        self.workflows = Workflows(self._api)
        self.runs = Runs(self._api)
        self.sessions = Sessions(self._api, gateway_ws_url)
        self.bindings = Bindings(self._api)
        self.approvals = Approvals(self._api)
        self.usage = Usage(self._api)
        self.memory = Memory(self._api)
        self.hooks = Hooks(self._api)
        self.meta = Meta(self._api)

    @property
    def base_url(self) -> str:
        """Where the installation is."""
        return self._api.http.base_url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self._api.http.close()

    async def me(self) -> Me:
        """Who I am, and my organizations."""
        return await self._api.call(ME)

    async def org_id(self) -> str:
        """The id of the organization that calls are about. Raises NotFound for a slug that is none of mine."""
        return await self._api.org_id()

    async def overview(self, window: Window = "1h") -> Overview:
        """Fleet, queue, and what the last hour, day or week was like."""
        return await overview.overview(self._api, window)

    async def changes(self) -> AsyncGenerator[Hint, None]:
        """Hints that something has changed, without end. Each `hello` says that some may have been missed before it."""
        async with aclosing(overview.changes(self._api)) as hints:
            async for hint in hints:
                yield hint

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        query: Mapping[str, object] | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """Any route, decoded but not typed; `{org_id}` in the path is filled in.

        Repeated where it cannot do anything twice: a POST with an `idempotency_key` only.
        """
        is_safe = method in ("GET", "PUT", "DELETE") or idempotency_key is not None
        route: Route[Any] = Route(method, path, Any, Repeat.SAFE if is_safe else Repeat.NEVER)
        return await self._api.call(route, body=body, query=query, key=idempotency_key)


def _trusting(ca_file: str | os.PathLike[str] | None, context: ssl.SSLContext | None) -> ssl.SSLContext | None:
    if ca_file is None:
        return context
    context = context or ssl.create_default_context()
    context.load_verify_locations(cafile=os.fspath(ca_file))
    return context
