"""The gateway as one service: `edge` (sockets), `brain` (dispatches), or `all` of it in one process."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import structlog
from aiohttp import web

from vespid.bus.messages import Offer, OfferAnswered, OfferRefused, ResultReady, TextWanted, Withdrawn
from vespid.dispatch.feed import ControlFeed
from vespid.dispatch.house import House, own_or_borrowed
from vespid.dispatch.waiters import Waiters
from vespid.gateway.brain.dispatch import Dispatcher
from vespid.gateway.brain.placing import Placing
from vespid.gateway.brain.secret_courier import SecretCourier
from vespid.gateway.client.service import ClientService
from vespid.gateway.edge.desk import EdgeDesk
from vespid.gateway.edge.grants import Grants
from vespid.gateway.edge.handover import Handover
from vespid.gateway.edge.memory import HostMemory
from vespid.gateway.edge.orders import Orders
from vespid.gateway.edge.registry import Registry
from vespid.gateway.edge.reservations import Reservations
from vespid.gateway.edge.results import Results
from vespid.gateway.edge.socket import ExecutorSockets
from vespid.gateway.edge.streams import Streams
from vespid.gateway.edge.tokens import Tokens
from vespid.gateway.edge.turn_hosts import is_turn
from vespid.gateway.edge.turns import Turns
from vespid.gateway.edge.wheel import Wheel
from vespid.gateway.internal import BODY_MAX_BYTES, InternalHttp, envelope
from vespid.security.envelope import Keyring
from vespid.service import Stack
from vespid.settings import GatewaySettings
from vespid.store.secrets import SecretResolver
from vespid.store.turns import TurnStore
from vespid.tasks import Tasks

log = structlog.get_logger("vespid.gateway.service")

TASKS_DRAIN_S = 10.0


class GatewayService:
    """A Service. With a `house` it stands on another service's, which starts and stops it."""

    def __init__(self, settings: GatewaySettings, house: House | None = None) -> None:
        self.house = house or House(settings, "gateway", address=own_address(settings))
        keyring = (
            Keyring.parse(settings.secrets_kek_id, settings.secrets_kek_base64, settings.secrets_kek_previous)
            if settings.has_kek
            else None
        )
        self._settings = settings
        self._tasks = Tasks("gateway")
        keep_ms = settings.results_ttl_sec * 1000
        handover = Handover()
        self._wheel = Wheel()
        self.registry = Registry(
            self.house.db,
            self.house.capacity,
            self.house.scheduler,
            self.house.fanout,
            self.house.partitions,
            self.house.process_id,
            self._tasks,
        )
        streams = Streams(self.house, self._tasks, payload_max_chars=settings.remote_event_payload_max_chars)
        results = Results(self.house, streams, self._tasks, push=settings.continuation_push, keep_ms=keep_ms)
        resolver = SecretResolver(self.house.db, keyring)
        reservations = Reservations(self.house, self._tasks)
        grants = Grants(self.house, self.registry, results, reservations, resolver, handover, self._tasks)
        self._turn_store = TurnStore(self.house.db)
        self._turns = Turns(
            self.house,
            self.registry,
            self._turn_store,
            results,
            reservations,
            resolver,
            self._tasks,
            payload_max_chars=settings.remote_event_payload_max_chars,
            managed_tools=settings.session_managed_tools,
        )
        memory = HostMemory(self.registry, self._turn_store, Path(settings.session_memory_root))
        desk = EdgeDesk(self.house, settings, self.registry, grants, results, streams, self._turns, memory, self._tasks)
        tokens = Tokens(self.house.db, self.registry, self._tasks)
        self._sockets = ExecutorSockets(self.house, settings, self.registry, desk, tokens, self._wheel)
        self._orders = Orders(self.house, self.registry, tokens, self._turns, self._tasks)
        self._waiters = Waiters(self.house.executions)
        self._courier = SecretCourier(self.house, handover, settings.gateway_service_token)
        dispatcher = Dispatcher(self.house, self._waiters, self._courier, keep_ms=keep_ms)
        self._internal = InternalHttp(
            self.house, dispatcher, handover, self.registry, memory, settings.gateway_service_token
        )
        self._feed = ControlFeed(self.house.db, self.house.fanout, poll_s=settings.feed_poll_ms / 1000)
        self._feed.listen(self._orders.read)
        self._feed.listen(self.house.organizations.read)
        placing = Placing(self.house, self._turn_store) if settings.role in ("brain", "all") else None
        place = None if placing is None else placing.place
        self._clients = (
            ClientService(self.house, settings, self._feed, self._wheel, place) if self.has_sockets else None
        )
        inbox = self.house.inbox
        inbox.handle(Offer, lambda offer: (self._turns if is_turn(offer.request_id) else grants).offered(offer))
        inbox.handle(TextWanted, self._turns.text_wanted)
        inbox.handle(Withdrawn, self.registry.withdrawn)
        inbox.handle(OfferRefused, self._waiters.refused)
        inbox.handle(OfferAnswered, self._waiters.answered)
        inbox.handle(ResultReady, self._waiters.result)
        self.house.lease.when_lost(self._sockets.drop_all)
        self._stack = Stack(
            [
                own_or_borrowed(self.house, borrowed=house is not None),
                self._turn_store,
                self._feed,
                self._orders,
                self._turns.hosts,
                self._wheel,
                self._waiters,
                self._courier,
                *([] if placing is None else [placing]),
                *([] if self._clients is None else [self._clients]),
                _Http(settings, self._app),
            ]
        )

    @property
    def has_sockets(self) -> bool:
        """Whether executors and clients connect here."""
        return self._settings.role in ("edge", "all")

    async def start(self) -> None:
        self._tasks.open()
        await self._stack.start()

    async def stop(self) -> None:
        """Ask agents and clients to connect elsewhere, settle what is being committed, then close."""
        self._sockets.begin_drain()
        async with asyncio.TaskGroup() as ends:
            ends.create_task(self._sockets.end_all())
            if self._clients is not None:
                ends.create_task(self._clients.drain())
        await self._tasks.close(TASKS_DRAIN_S)
        await self._stack.stop()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[envelope], client_max_size=BODY_MAX_BYTES)
        self._internal.add_routes(app)
        if self.has_sockets:
            app.router.add_get("/ws/executor", self._sockets.handle)
            app.router.add_get("/ws", self._sockets.handle)
        if self._clients is not None:
            self._clients.add_routes(app)
        return app


class _Http:
    """The listening socket. A Service."""

    def __init__(self, settings: GatewaySettings, make_app: Callable[[], web.Application]) -> None:
        self._settings = settings
        self._make_app = make_app
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        if self._runner is not None:
            return
        self._runner = web.AppRunner(self._make_app(), access_log=None, handle_signals=False, shutdown_timeout=5.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._settings.host, self._settings.port).start()
        log.info("gateway_listening", host=self._settings.host, port=self._settings.port, role=self._settings.role)

    async def stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()


def own_address(settings: GatewaySettings) -> str:
    """Where other gateways reach this very process; GATEWAY_HTTP_URL may name a load balancer before several."""
    host = settings.host
    if host in ("0.0.0.0", "::", ""):  # noqa: S104
        host = socket.gethostname()
    return f"http://{host}:{settings.port}"
