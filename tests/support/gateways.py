"""Gateways in this process, on free ports, over a real Postgres and Redis; and callers of their internal HTTP."""

from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import msgspec
import pytest_asyncio
from redis.asyncio import Redis
from tests.support.executor import Frame, ScriptedExecutor
from tests.support.ground import Executor, Ground
from tests.support.organization import until
from tests.support.processes import free_port

from vespid.gateway.service import GatewayService
from vespid.security.envelope import Keyring
from vespid.settings import GatewaySettings, WorkerSettings
from vespid.worker.service import WorkerService
from vespid_protocol.ids import OrgId, new_id

TOKEN = "service-token-of-the-tests"
KEK = b64encode(b"k" * 32).decode()


class Answer(msgspec.Struct):
    status: int
    body: Any
    headers: Any

    @property
    def code(self) -> str:
        return str(self.body["code"])


class Gateway:
    """One running gateway."""

    def __init__(self, service: GatewayService, url: str, http: aiohttp.ClientSession) -> None:
        self.service = service
        self.url = url
        self._http = http

    async def call(self, method: str, path: str, body: object = None, *, token: str | None = TOKEN) -> Answer:
        headers = {} if token is None else {"X-Gateway-Token": token}
        data = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        async with self._http.request(method, self.url + path, data=data, headers=headers) as response:
            raw = await response.read()
            return Answer(response.status, msgspec.json.decode(raw) if raw else None, response.headers)

    async def dispatch(self, body: Frame, **how: Any) -> Answer:
        return await self.call("POST", "/internal/v1/dispatch", body, **how)

    async def dispatch_async(self, body: Frame, **how: Any) -> Answer:
        return await self.call("POST", "/internal/v1/dispatch-async", body, **how)

    async def result(self, request_id: str) -> Answer:
        return await self.call("GET", f"/internal/v1/results/{request_id}")

    async def cancel(self, request_id: str) -> Answer:
        return await self.call("POST", f"/internal/v1/requests/{request_id}/cancel")

    async def finished(self, request_id: str) -> Frame:
        async def there() -> Any:
            answer = await self.result(request_id)
            return answer.body if answer.status == 200 else None

        return dict(await until(there, f"{request_id} has a result", 15.0))


class Fleet:
    """Gateways and executors of one test."""

    def __init__(
        self, database_url: str, redis_url: str, redis: "Redis", ground: Ground, http: aiohttp.ClientSession
    ) -> None:
        self._database_url = database_url
        self._redis_url = redis_url
        self.redis = redis
        self.ground = ground
        self.http = http
        self._gateways: list[Gateway] = []
        self._executors: list[ScriptedExecutor] = []
        self._workers: list[WorkerService] = []

    async def gateway(self, **settings: Any) -> Gateway:
        port = free_port()
        defaults: dict[str, Any] = {
            "env": "test",
            "database_url": self._database_url,
            "redis_url": self._redis_url,
            "host": "127.0.0.1",
            "port": port,
            "gateway_service_token": TOKEN,
            "secrets_kek_id": "test",
            "secrets_kek_base64": KEK,
            "database_pool_size": 4,
        }
        service = GatewayService(GatewaySettings(**(defaults | settings)))
        await service.start()
        gateway = Gateway(service, f"http://127.0.0.1:{port}", self.http)
        self._gateways.append(gateway)
        return gateway

    async def worker(self, **settings: Any) -> WorkerService:
        """A worker that looks often, and judges soon."""
        defaults: dict[str, Any] = {
            "env": "test",
            "database_url": self._database_url,
            "redis_url": self._redis_url,
            "gateway_http_url": "http://127.0.0.1:1",
            "gateway_service_token": TOKEN,
            "secrets_kek_id": "test",
            "secrets_kek_base64": KEK,
            "database_pool_size": 4,
            "continuation_poll_ms": 50,
            "agent_lease_ms": 500,
            "retry_backoff_ms": 0,
        }
        worker = WorkerService(WorkerSettings(**(defaults | settings)))
        await worker.start()
        self._workers.append(worker)
        return worker

    async def finished_run(self, run_id: str, within_s: float = 15.0) -> "asyncpg.Record":
        """The run once it is terminal."""

        async def over() -> Any:
            row = await self.ground.run_row(run_id)
            return row if row["finished_at"] is not None else None

        row: asyncpg.Record = await until(over, f"run {run_id} is terminal", within_s)
        return row

    async def stop(self, gateway: Gateway) -> None:
        self._gateways.remove(gateway)
        await gateway.service.stop()

    def scripted(self, gateway: Gateway, executor: Executor, *, base: bool = False, **can: Any) -> ScriptedExecutor:
        scripted = ScriptedExecutor(self.http, gateway.url, executor.token, base=base)
        scripted.capabilities = can
        self._executors.append(scripted)
        return scripted

    async def join(self, gateway: Gateway, executor: Executor, *, base: bool = False, **can: Any) -> ScriptedExecutor:
        """Connected, and known to Redis."""
        scripted = self.scripted(gateway, executor, base=base, **can)
        await scripted.connect()
        await self.routed(executor)
        return scripted

    async def routed(self, executor: Executor, *, is_routable: bool = True) -> None:
        """Wait until Redis has been told of the executor's present connection."""
        key = f"{{o:{executor.org_id}}}:x:{executor.id}" if executor.org_id else f"{{m:0}}:x:{executor.id}"
        partition = key.partition(":x:")[0]

        async def told() -> bool:
            epoch, routable = await self.redis.hmget(key, "c", "r")
            newest = await self.ground.sql.fetchval(
                "select connection_epoch from executors where id = $1", UUID(executor.id)
            )
            warm = await self.redis.hexists(f"{partition}:meta", "gen")
            return bool(warm) and epoch == str(newest).encode() and (routable == b"1") == is_routable

        await until(told, f"executor {executor.id} is known", 10.0)

    async def reserved(self, org_id: OrgId) -> int:
        """Requests that count against the organization's quota."""
        return int(await self.redis.scard(f"{{o:{org_id}}}:fl"))

    async def given_back(self, org_id: OrgId) -> None:
        async def none() -> bool:
            return await self.reserved(org_id) == 0

        await until(none, "everything that was reserved is given back", 10.0)

    async def secret(self, org_id: OrgId, value: str) -> str:
        """A stored secret; answers its id."""
        secret_id = new_id()
        sealed = Keyring.parse("test", KEK).seal(org_id, secret_id, value)
        await self.ground.sql.execute(
            """insert into secrets (id, organization_id, connector_id, name, kek_id, wrapped_dek, dek_nonce,
                                    value_ciphertext, value_nonce)
               values ($1, $2, 'c', $3, $4, $5, $6, $7, $8)""",
            UUID(secret_id),
            UUID(org_id),
            secret_id,
            sealed.dek.kek_id,
            sealed.dek.wrapped_dek,
            sealed.dek.dek_nonce,
            sealed.value_ciphertext,
            sealed.value_nonce,
        )
        return secret_id

    async def close(self) -> None:
        for executor in self._executors:
            await executor.drop()
        for worker in self._workers:
            await worker.stop()
        for gateway in reversed(self._gateways):
            await gateway.service.stop()


def dispatch_body(org_id: str, **others: Any) -> Frame:
    """The body of a dispatch of new work."""
    body = {
        "organizationId": org_id,
        "requestedByUserId": new_id(),
        "runId": new_id(),
        "workflowId": new_id(),
        "nodeId": "n1",
        "nodeType": "agent.execute",
        "attemptCount": 1,
        "kind": "agent.execute",
        "payload": {"nodeId": "n1"},
    }
    return body | others


def request_id(body: Frame) -> str:
    return f"{body['runId']}:{body['nodeId']}:{body['attemptCount']}"


@pytest_asyncio.fixture
async def fleet(database_url: str, redis_url: str, superuser: "asyncpg.Connection") -> AsyncIterator[Fleet]:
    redis = Redis.from_url(redis_url)
    async with aiohttp.ClientSession() as http:
        fleet = Fleet(database_url, redis_url, redis, Ground(superuser), http)
        try:
            yield fleet
        finally:
            await fleet.close()
            await redis.aclose()
