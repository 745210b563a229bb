"""One whole installation for all tests of the client, with an agent; people sign up in it as they come."""

import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from tests.support.forward import Line, line_to
from tests.support.organization import until
from tests.support.processes import SCRIPTED_AGENT, Processes, server_env
from tests.support.servers import EmbeddedServers, PostgresServer

from vespid_client import AsyncClient, Chat, MemoryStore

PASSWORD = "correct horse battery"
QUICK = {"VESPID_PROCESS_LEASE_MS": "2000", "VESPID_PROCESS_RENEW_MS": "500", "WORKFLOW_RETRY_BACKOFF_MS": "100"}


@dataclass(frozen=True)
class Installed:
    """What runs, and the owner whose organization has the agent."""

    processes: Processes
    email: str
    store: MemoryStore
    agent_id: str

    @property
    def url(self) -> str:
        return self.processes.api_url

    @property
    def api_port(self) -> int:
        return int(self.processes.env["API_PORT"])

    @property
    def gateway_port(self) -> int:
        return int(self.processes.env["GATEWAY_PORT"])


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def installed(
    postgres_server: PostgresServer,
    migrated_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Installed]:
    """An API, a gateway, a worker, and an agent that has the scripted engine."""
    # A Redis of its own: this installation outlives single tests, and its worker would take the wakes of theirs.
    servers = EmbeddedServers()
    redis_url = (await servers.valkey()).url
    database = await postgres_server.clone(migrated_template)
    processes = Processes(
        tmp_path_factory.mktemp("client"), server_env(postgres_server.url(database), redis_url) | QUICK
    )
    try:
        for command in ("api", "gateway", "worker"):
            await processes.start(command, ready=False)
        for command in ("api", "gateway", "worker"):
            await processes.running(command)[0].is_ready()
        email, store = new_email(), MemoryStore()
        async with AsyncClient(processes.api_url, credentials=store) as client:
            await client.auth.signup(email, PASSWORD)
            token = (await client.agents.pairing_token()).token
            await processes.start_agent(
                *("connect", "--pairing-token", token, "--api-base", processes.api_url, "--name", "own"),
                program=SCRIPTED_AGENT,
            )

            async def online() -> str | None:
                return next((agent.id for agent in await client.agents.list().all() if agent.status == "online"), None)

            agent_id = str(await until(online, "the agent is online"))
        yield Installed(processes, email, store, agent_id)
    finally:
        await processes.stop()
        await postgres_server.drop(database)
        await servers.stop()


@pytest_asyncio.fixture
async def client(installed: Installed) -> AsyncIterator[AsyncClient]:
    """The owner of the organization that has the agent."""
    async with AsyncClient(installed.url, credentials=installed.store) as signed_in:
        yield signed_in


@pytest_asyncio.fixture
async def newcomer(installed: Installed) -> AsyncIterator[AsyncClient]:
    """Somebody with an organization of their own and nothing in it."""
    async with AsyncClient(installed.url) as signed_in:
        await signed_in.auth.signup(new_email(), PASSWORD)
        yield signed_in


@contextlib.asynccontextmanager
async def over_a_line(installed: Installed, **options: Any) -> AsyncIterator[tuple[AsyncClient, Line]]:
    """The owner's client, whose calls go over a line that can be cut."""
    options = {"credentials": installed.store} | options
    async with line_to(installed.api_port) as line, AsyncClient(f"http://127.0.0.1:{line.port}", **options) as far:
        yield far, line


@contextlib.asynccontextmanager
async def talk_over_a_line(installed: Installed, session_id: str, **options: Any) -> AsyncIterator[tuple[Chat, Line]]:
    """The owner's chat, whose socket goes over a line that can be cut."""
    async with line_to(installed.gateway_port) as line:
        url = f"ws://127.0.0.1:{line.port}/ws/client"
        async with (
            AsyncClient(installed.url, credentials=installed.store, gateway_ws_url=url) as far,
            far.sessions.chat(session_id, **options) as chat,
        ):
            yield chat, line


def new_email() -> str:
    return f"{secrets.token_hex(6)}@example.com"
