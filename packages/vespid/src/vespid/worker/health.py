"""The worker's own small HTTP: does it live, can it work, and its figures. Off unless WORKER_PORT is set."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from vespid.dispatch.house import House


class HealthServer:
    """A Service."""

    def __init__(self, house: House, host: str, port: int) -> None:
        self._house = house
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        if self._port == 0 or self._runner is not None:
            return
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"ok": True})

    async def _readyz(self, _request: web.Request) -> web.Response:
        ready = await self._house.is_ready()
        if not ready:
            return web.json_response({"code": "NOT_READY", "message": "Postgres or Redis does not answer."}, status=503)
        return web.json_response({"ok": True})

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})
