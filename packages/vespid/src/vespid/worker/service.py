"""The worker as one service."""

import structlog

from vespid.bus.channels import CLOUD_QUEUE
from vespid.bus.messages import CancelOrder
from vespid.dispatch.feed import ControlFeed
from vespid.dispatch.house import House, own_or_borrowed
from vespid.dispatch.tool_calls import ToolCalls
from vespid.security.envelope import Keyring
from vespid.service import Service, Stack
from vespid.settings import WorkerSettings
from vespid.store.secrets import SecretResolver
from vespid.worker.agent_run import AgentRuns
from vespid.worker.cloud import Cloud
from vespid.worker.cloud_queue import CloudQueue
from vespid.worker.continuations import Continuations
from vespid.worker.engine_runner import EngineRunner
from vespid.worker.health import HealthServer
from vespid.worker.schedules import Schedules
from vespid.worker.sweeper import Sweeper
from vespid.worker.tool_source import ToolSource
from vespid_runtime.connectors import registry
from vespid_runtime.egress import EgressGuard, EgressPolicy, GuardedHttp

log = structlog.get_logger("vespid.worker.service")

CLOUD_CONCURRENCY = 100


class WorkerService:
    """A Service. With a `house` it stands on another service's, which starts and stops it."""

    def __init__(self, settings: WorkerSettings, house: House | None = None) -> None:
        if not settings.has_gateway:
            log.warning("gateway_not_configured", effect="remote nodes fail at once with GATEWAY_NOT_CONFIGURED")
        self.house = house or House(settings, "worker", remote_nodes=settings.has_gateway)
        keyring = (
            Keyring.parse(settings.secrets_kek_id, settings.secrets_kek_base64, settings.secrets_kek_previous)
            if settings.has_kek
            else None
        )
        connectors = registry()
        http = GuardedHttp(EgressGuard(EgressPolicy.cloud(",".join(settings.egress_allow))))
        base_urls = {"githubApiBaseUrl": settings.github_api_base_url}
        calls = ToolCalls(self.house)
        runner = EngineRunner(
            settings.engine_runner_base_url,
            settings.engine_runner_token,
            max_timeout_ms=settings.engine_runner_timeout_ms,
        )
        self.cloud = cloud = Cloud(
            self.house,
            connectors,
            http,
            SecretResolver(self.house.db, keyring),
            AgentRuns(
                self.house,
                runner,
                ToolSource(self.house.db, connectors, http, calls, operator_base_urls=base_urls),
                payload_max_chars=settings.remote_event_payload_max_chars,
            ),
            concurrency=CLOUD_CONCURRENCY,
            operator_base_urls=base_urls,
        )
        self.house.run_cloud_with(cloud)
        self.house.inbox.handle(CancelOrder, cloud.stop_one)
        continuations = Continuations(
            self.house.stepper,
            self.house.steps,
            self.house.mail,
            queue=settings.continuation_queue_name,
            concurrency=settings.continuation_concurrency,
        )
        schedules = Schedules(self.house, max_attempts=settings.retry_attempts)
        # Whose house it borrows, their feed tells it too.
        feeds: list[Service] = []
        if house is None:
            feed = ControlFeed(self.house.db, self.house.fanout)
            feed.listen(self.house.organizations.read)
            feeds = [feed]
        self._stack = Stack(
            [
                own_or_borrowed(self.house, borrowed=house is not None),
                *feeds,
                runner,
                calls,
                cloud,
                CloudQueue(self.house.mail, cloud, CLOUD_QUEUE),
                continuations,
                Sweeper(
                    self.house,
                    continuations,
                    cloud.claim,
                    schedules.fire_due,
                    every_ms=settings.continuation_poll_ms,
                    agent_lease_ms=settings.agent_lease_ms,
                ),
                HealthServer(self.house, settings.host, settings.port),
            ]
        )

    async def start(self) -> None:
        await self._stack.start()

    async def stop(self) -> None:
        await self._stack.stop()
