"""The engine-runner as a service."""

from __future__ import annotations

from aiohttp import web

from vespid.engine_runner.app import create_app
from vespid.engine_runner.calls import Calls
from vespid.engine_runner.turnstile import Turnstile
from vespid.observe.log import get_logger
from vespid.settings import EngineRunnerSettings
from vespid_runtime.egress import EgressGuard, EgressPolicy, GuardedHttp
from vespid_runtime.models.calls import Models
from vespid_runtime.models.registry import Configured, Providers

log = get_logger("vespid.engine_runner")

# Streams hold a connection for minutes; what bounds them is the turnstile.
_MAX_CONNECTIONS = 1_000


class EngineRunnerService:
    """Listens on ENGINE_RUNNER_HOST and ENGINE_RUNNER_PORT."""

    def __init__(self, settings: EngineRunnerSettings) -> None:
        self._settings = settings
        policy = EgressPolicy.cloud(",".join(settings.egress_allow))
        self._http = GuardedHttp(EgressGuard(policy), max_connections=_MAX_CONNECTIONS)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen."""
        if self._runner is not None:
            return
        settings = self._settings
        models = Models(Providers(self._http, configured_providers(settings)))
        calls = Calls(models, Turnstile(settings.max_concurrent), settings.engine_runner_timeout_ms)
        runner = web.AppRunner(
            create_app(settings.engine_runner_token, calls),
            access_log=None,
            # Who hangs up does not want the answer: the provider's call ends, and costs no more.
            handler_cancellation=True,
            shutdown_timeout=settings.shutdown_grace_ms / 1000,
        )
        await self._http.start()
        try:
            await runner.setup()
            await web.TCPSite(runner, settings.host, settings.port).start()
        except BaseException:
            await runner.cleanup()
            await self._http.stop()
            raise
        self._runner = runner
        log.info("listening", host=settings.host, port=self.port)

    async def stop(self) -> None:
        """Stop listening; calls in progress may finish within the grace, and are then broken off."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()
            await self._http.stop()

    @property
    def port(self) -> int:
        """The port that is listened on, once started."""
        if self._runner is None:
            raise RuntimeError("the engine-runner is not started")
        port: int = self._runner.addresses[0][1]
        return port


def configured_providers(settings: EngineRunnerSettings) -> dict[str, Configured]:
    """Where the operator wants providers to be called. Keys come with each request: this process has none."""
    urls = {
        "openai": settings.openai_base_url,
        "anthropic": settings.anthropic_base_url,
        "gemini": settings.gemini_base_url,
        "openrouter": settings.openrouter_base_url,
        "openai-compatible": settings.openai_compatible_base_url,
    }
    return {provider: Configured(base_url=url) for provider, url in urls.items() if url}
