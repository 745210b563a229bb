"""The client side of a gateway as one service."""

from aiohttp import web

from vespid.bus.messages import TextSoFar
from vespid.dispatch.callers import Callers
from vespid.dispatch.conversation import Conversation, Place
from vespid.dispatch.feed import ControlFeed
from vespid.dispatch.house import House, epoch_ms
from vespid.gateway.client.admission import Admission
from vespid.gateway.client.session_view import ViewDesk
from vespid.gateway.client.socket import ClientSockets
from vespid.gateway.client.views import SessionViews
from vespid.gateway.edge.wheel import Wheel
from vespid.security.access_tokens import AccessTokens
from vespid.service import Stack
from vespid.settings import GatewaySettings
from vespid.store.auth_sessions import Authorizer
from vespid.store.session_reads import SessionReader
from vespid.store.sessions import MessageSender
from vespid.tasks import Tasks

TASKS_DRAIN_S = 5.0


class ClientService:
    """A Service, over a house that somebody else starts. `place` is this process's placing of turns, if it has one."""

    def __init__(
        self, house: House, settings: GatewaySettings, feed: ControlFeed, wheel: Wheel, place: Place | None
    ) -> None:
        self._tasks = Tasks("gateway clients")
        authorizer = Authorizer(house.db)
        access_tokens = AccessTokens(settings.auth_token_secret)
        callers = Callers(house.db, authorizer, access_tokens, settings.allowed_origins, epoch_ms)
        messages = MessageSender(house.db)
        conversation = Conversation(house.db, messages, house.mail, house.fanout, place)
        self.admission = Admission(callers, self._tasks)
        reader = SessionReader(house.db)
        self.views = SessionViews(ViewDesk(house.db, reader, house.fanout, house.mail, house.process_id, self._tasks))
        self.sockets = ClientSockets(settings, self.admission, self.views, conversation, wheel, self._tasks)
        feed.listen(self.admission.read)
        feed.listen(conversation.bindings.read)
        house.inbox.handle(TextSoFar, self.views.text_came)
        self._stack = Stack([authorizer, messages, reader, self.views])

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/ws/client", self.sockets.handle)

    async def start(self) -> None:
        self._tasks.open()
        await self._stack.start()

    async def drain(self) -> None:
        """Close the sockets; their clients join elsewhere."""
        await self.sockets.drain()

    async def stop(self) -> None:
        await self._tasks.close(TASKS_DRAIN_S)
        await self._stack.stop()
