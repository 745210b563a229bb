"""The engine-runner as a service."""

from aiohttp import web

from vespid.engine_runner.app import create_app
from vespid.observe.log import get_logger
from vespid.settings import EngineRunnerSettings

log = get_logger("vespid.engine_runner")


class EngineRunnerService:
    """Listens on ENGINE_RUNNER_HOST and ENGINE_RUNNER_PORT."""

    def __init__(self, settings: EngineRunnerSettings) -> None:
        self._settings = settings
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen."""
        if self._runner is not None:
            return
        runner = web.AppRunner(create_app(self._settings.engine_runner_token), access_log=None)
        await runner.setup()
        site = web.TCPSite(
            runner,
            self._settings.host,
            self._settings.port,
            shutdown_timeout=self._settings.shutdown_grace_ms / 1000,
        )
        try:
            await site.start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        log.info("listening", host=self._settings.host, port=self.port)

    async def stop(self) -> None:
        """Stop listening; requests in progress may finish within the grace."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    @property
    def port(self) -> int:
        """The port that is listened on, once started."""
        if self._runner is None:
            raise RuntimeError("the engine-runner is not started")
        port: int = self._runner.addresses[0][1]
        return port
