"""Offers of turns become leases, leases become `session_open` and `session_turn`.

As with executions: the lease is committed before the first byte is sent, and this edge is the last gate on its
executor's capacity. A turn that this executor may not have goes back to whoever places turns.
"""

import asyncio
from typing import NamedTuple

import msgspec
import structlog
from prometheus_client import Counter

from vespid.bus.channels import TURN_QUEUE, session_channel, session_item
from vespid.bus.choice import Held, Reserved
from vespid.bus.errors import BusError
from vespid.bus.messages import Offer
from vespid.bus.session_news import Moved, encode
from vespid.dispatch.house import House
from vespid.dispatch.turn_wanted import wanted
from vespid.domain.session_config import session_config
from vespid.domain.session_options import EngineChoice
from vespid.gateway.edge.connection import Connection
from vespid.gateway.edge.hosted_turn import HostedTurn
from vespid.gateway.edge.registry import Registry
from vespid.gateway.edge.reservations import Reservations
from vespid.gateway.edge.turn_frames import Past, open_frames, turn_frame
from vespid.security.envelope import EnvelopeError
from vespid.store.failure import STORE_AWAY, STORE_FAILED
from vespid.store.secrets import SecretResolver, SecretsNotConfigured
from vespid.store.turns import HostCopy, LeasedTurn, LeaseTurn, TurnStore
from vespid_protocol.codes import Code
from vespid_protocol.frames import HistoryEntry, MemoryDocument, SessionOpen
from vespid_protocol.ids import OrgId, SessionId, parse_turn_request_id
from vespid_runtime.redaction import Redactor
from vespid_runtime.tools.shell import SHELL

log = structlog.get_logger("vespid.gateway.edge.turn_leases")

LEASES = Counter("vespid_turn_leases_total", "Offers of turns taken up by this edge, by outcome", ["outcome"])

# What is asked for again at once would meet the same refusal.
REPLACE_AFTER_S = 0.2

_AWAY: tuple[type[Exception], ...] = (BusError, *STORE_AWAY)

_encode = msgspec.json.Encoder().encode


class KeyUnavailable(Exception):
    """The key of a managed session cannot be had; the message names its id, never a value."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Session(msgspec.Struct, frozen=True):
    """The row of `sessions` in a lease, as much of it as the host is told."""

    id: str
    organization_id: str
    session_key: str
    routed_agent_id: str | None
    engine: EngineChoice
    prompt_system: str | None
    prompt_instructions: str | None
    tools_allow: list[str]
    limits: msgspec.Raw
    generation: int
    last_turn_seq: int
    memory_version: int
    event_seq: int


class Taken(NamedTuple):
    """A turn that one of our hosts has now."""

    connection: Connection
    turn: HostedTurn
    leased: LeasedTurn
    session: _Session


_decode_session = msgspec.json.Decoder(_Session).decode
_decode_history = msgspec.json.Decoder(tuple[HistoryEntry, ...]).decode
_decode_memory = msgspec.json.Decoder(tuple[MemoryDocument, ...]).decode


class TurnLeases:
    """What this edge does with offers of turns."""

    def __init__(
        self,
        house: House,
        registry: Registry,
        turns: TurnStore,
        reservations: Reservations,
        resolver: SecretResolver,
        *,
        managed_tools: tuple[str, ...],
    ) -> None:
        self._house = house
        self._registry = registry
        self._turns = turns
        self._reservations = reservations
        self._resolver = resolver
        self._managed_tools = managed_tools

    async def take(self, offer: Offer) -> Taken | None:
        """Lease the offered turn; None where that is not to be, and whoever has to know has been told."""
        connection = self._registry.get(offer.executor_id)
        if connection is None or not self._has_room(connection, offer) or not await self._is_reserved(offer):
            await self._refuse(offer)
            return None
        attempt = parse_turn_request_id(offer.request_id)
        session_id = SessionId(attempt.session_id)
        connection.granting += 1
        try:
            answer = await self._turns.lease(
                LeaseTurn(
                    org=offer.org_id,
                    session=session_id,
                    seq=attempt.event_seq,
                    epoch=attempt.turn_epoch,
                    executor=offer.executor_id,
                    connection_epoch=offer.connection_epoch,
                    edge=self._house.process_id,
                    have=connection.copies.get(session_id),
                )
            )
        except STORE_AWAY as error:
            # Leased or not, the row knows: the next hello, or a deadline, settles it.
            log.warning("turn_lease_unsettled", request_id=offer.request_id, error=repr(error))
            return None
        finally:
            # What was leased is in `turns` before anybody else has his turn, so it is never counted twice.
            connection.granting -= 1
        if not isinstance(answer, LeasedTurn):
            LEASES.labels(answer.outcome).inc()
            await (self._refuse(offer) if answer.outcome == "refused" else self._reservations.give_back(offer))
            return None
        LEASES.labels("leased").inc()
        session = _decode_session(answer.session)
        turn = HostedTurn(
            request_id=offer.request_id,
            org_id=offer.org_id,
            session_id=session_id,
            seq=attempt.event_seq,
            epoch=attempt.turn_epoch,
            pool=connection.pool,
            generation=session.generation,
            memory_version=session.memory_version,
        )
        connection.turns[turn.request_id] = turn
        self._house.fanout.publish(session_channel(session_id), encode(Moved(session.event_seq)))
        self._reservations.confirm_later(
            turn.request_id,
            turn.org_id,
            connection.executor_id,
            turn.pool,
            lambda: connection.turns.get(turn.request_id) is turn,
        )
        return Taken(connection, turn, answer, session)

    async def frames(self, taken: Taken) -> list[SessionOpen]:
        """The `session_open` frames that the host needs, none where its copy is good; `turn.frame` is what follows.

        Raises KeyUnavailable.
        """
        connection, turn, leased, session = taken
        key = None
        if connection.pool == "managed" and session.engine.secret_id is not None:
            key = await self._key(turn.org_id, session.engine.secret_id)
            turn.redactor = Redactor([key])
            turn.begin_anew()
        head = SessionOpen(
            request_id=turn.request_id,
            organization_id=turn.org_id,
            session_id=turn.session_id,
            session_key=session.session_key,
            routed_agent_id=session.routed_agent_id,
            user_id="" if leased.user_id is None else str(leased.user_id),
            session_config=msgspec.Raw(b"{}"),
            history=(),
            history_from=0,
            history_seq=session.last_turn_seq,
        )
        may_run_shell = SHELL in session.tools_allow and await self._lets_shell(turn.org_id)
        turn.frame = turn_frame(head, turn.seq, leased.payload, leased.prior, may_run_shell=may_run_shell)
        if leased.history is None:
            return []
        config = session_config(
            session.engine,
            pool=connection.pool,
            system=session.prompt_system,
            instructions=session.prompt_instructions,
            tools_allow=session.tools_allow,
            limits=session.limits,
            managed_tools=self._managed_tools,
            api_key=key,
        )
        head = msgspec.structs.replace(head, session_config=msgspec.Raw(_encode(config)))
        past = Past(
            history=_decode_history(leased.history),
            history_seq=session.last_turn_seq,
            generation=session.generation,
            memory=_decode_memory(leased.memory or b"[]"),
        )
        turn.is_opened_anew = True
        # From here on until it has answered, nobody knows what its copy is.
        connection.copies.pop(turn.session_id, None)
        peer = connection.peer
        return open_frames(head, past, max_frame_bytes=peer.max_frame_bytes, is_base=not peer.speaks_v2)

    def place_again(self, org_id: OrgId, session_id: SessionId, after_s: float = 0.0) -> None:
        """Have somebody find another host."""
        item = session_item(org_id, session_id)
        if after_s:
            asyncio.get_running_loop().call_later(after_s, self._house.mail.wake, TURN_QUEUE, item)
        else:
            self._house.mail.wake(TURN_QUEUE, item)

    # --- inner -------------------------------------------------------------------------------------------------------

    def _has_room(self, connection: Connection, offer: Offer) -> bool:
        return connection.connection_epoch == offer.connection_epoch and connection.routable and connection.has_room

    async def _is_reserved(self, offer: Offer) -> bool:
        """Whether the room is still set aside: an offer that was long on its way may have lost it to somebody else."""
        if self._reservations.is_fresh(offer):
            return True
        try:
            turn = await self._turns.look(offer.org_id, SessionId(parse_turn_request_id(offer.request_id).session_id))
            if turn is None:
                return False
            choice = await self._house.scheduler.ask(wanted(offer.org_id, offer.request_id, turn), wait=False)
        except _AWAY as error:
            log.warning("old_offer_unsettled", request_id=offer.request_id, error=repr(error))
            return False
        return isinstance(choice, (Reserved, Held)) and choice.executor_id == offer.executor_id

    async def _refuse(self, offer: Offer) -> None:
        await self._reservations.give_back(offer)
        session_id = SessionId(parse_turn_request_id(offer.request_id).session_id)
        self.place_again(offer.org_id, session_id, REPLACE_AFTER_S)

    async def _lets_shell(self, org_id: OrgId) -> bool:
        """Whether the organization lets models run commands; not, where nobody can say just now."""
        try:
            settings = await self._house.organizations.settings(org_id)
        except STORE_FAILED as error:
            log.warning("settings_unknown", org_id=org_id, error=repr(error))
            return False
        return settings.tools.shell_run_enabled

    async def _key(self, org_id: OrgId, secret_id: str) -> str:
        try:
            value = await self._resolver.resolve(org_id, secret_id)
        except (SecretsNotConfigured, EnvelopeError) as error:
            raise KeyUnavailable(
                Code.LLM_AUTH_NOT_CONFIGURED, f"secret {secret_id} cannot be opened: {type(error).__name__}"
            ) from None
        if value is None:
            raise KeyUnavailable(Code.SECRET_NOT_FOUND, f"there is no secret {secret_id}")
        return value.reveal()


def copy_after(turn: HostedTurn, memory_version: int | None) -> HostCopy:
    """What the host has of the session once its answer is committed under that version of its memory.

    A version further on has changes of somebody else's in it, which the host has not seen: they come next time.
    """
    is_its_own = memory_version == turn.memory_version + 1
    return HostCopy(turn.generation, turn.seq, turn.memory_version + 1 if is_its_own else turn.memory_version)
