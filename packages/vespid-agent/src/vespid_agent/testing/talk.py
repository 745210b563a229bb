"""A conversation with an agent, over a fake gateway: the session's history as a gateway would keep it.

talk = Talk(gateway)
final = await talk.say("hello")                     # opens the session where needed
request = await talk.turn([{"say": "…"}, …])        # without waiting for its end
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import msgspec

from vespid_agent.testing.fake_gateway import ORGANIZATION_ID, Connection, FakeGateway
from vespid_agent.testing.scripted_engine import SCRIPTED
from vespid_protocol import frames as f
from vespid_protocol.ids import turn_request_id


class Talk:
    """One session; one message at a time. A base gateway's where the gateway is one."""

    def __init__(
        self, gateway: FakeGateway, engine: str = SCRIPTED, session_key: str = "key", **config: object
    ) -> None:
        """`config`: the rest of sessionConfig, and `auth` for the engine's."""
        self.gateway = gateway
        self.session_id = str(uuid.uuid4())
        self.session_key = session_key
        self.generation = 1
        self.history: list[f.HistoryEntry] = []
        # Of the next message.
        self.seq = 1
        # Of the last message with an answer.
        self.answered_seq = 0
        # Whether the organization lets models run commands.
        self.may_run_shell = False
        chosen: dict[str, object] = {"id": engine}
        if "auth" in config:
            chosen |= {"authMode": "inline_api_key", "auth": config.pop("auth")}
        self.config = {"engine": chosen, "prompt": {"instructions": ""}, **config}

    async def open(
        self,
        request_id: str | None = None,
        *,
        history: Sequence[f.HistoryEntry] | None = None,
        memory: Sequence[f.MemoryDocument] | None = None,
        more: bool | None = None,
        link: Connection | None = None,
    ) -> str:
        """`session_open`, with everything unless told; its requestId."""
        request_id = request_id or self.request_id()
        entries = tuple(self.history if history is None else history)
        await self._send(
            f.SessionOpen(
                request_id=request_id,
                organization_id=ORGANIZATION_ID,
                session_id=self.session_id,
                session_key=self.session_key,
                routed_agent_id=None,
                user_id=ORGANIZATION_ID,
                session_config=msgspec.Raw(msgspec.json.encode(self.config)),
                history=entries,
                history_from=entries[0].seq if entries else 0,
                history_seq=self.answered_seq,
                generation=self.generation,
                memory=None if memory is None else tuple(memory),
                more=more,
            ),
            link,
        )
        return request_id

    async def opened(self, request_id: str) -> None:
        """Returns when the agent has said so."""
        gateway = self.gateway
        await gateway.until(lambda: any(link.of(f.SessionOpened, request_id) for link in gateway.connections))

    async def turn(
        self,
        script: str | list[dict[str, object]],
        *,
        seq: int | None = None,
        epoch: int = 1,
        link: Connection | None = None,
        prior: object = None,
        attachments: object = None,
    ) -> str:
        """`session_turn` with the next message, or `seq`'s again under another epoch; its requestId."""
        seq = seq or self.seq
        message = script if isinstance(script, str) else msgspec.json.encode(script).decode()
        request_id = self.request_id(seq, epoch)
        await self._send(
            f.SessionTurn(
                request_id=request_id,
                organization_id=ORGANIZATION_ID,
                session_id=self.session_id,
                session_key=self.session_key,
                user_id=ORGANIZATION_ID,
                event_seq=seq,
                message=message,
                prior=_raw(prior),
                attachments=_raw(attachments),
                shell_run_enabled=True if self.may_run_shell else msgspec.UNSET,
            ),
            link,
        )
        return request_id

    async def say(
        self, script: str | list[dict[str, object]], *, link: Connection | None = None
    ) -> f.TurnFinal | f.TurnError:
        """A message and its end, which becomes part of the history; opens the session before the first."""
        if self.seq == 1:
            await self.opened(await self.open(link=link))
        return await self.ended(script, await self.turn(script, link=link))

    async def ended(self, script: str | list[dict[str, object]], request_id: str) -> f.TurnFinal | f.TurnError:
        """Waits for the end and writes it down; the next message has the next seq."""
        end = await self.gateway.turn_end(request_id)
        if isinstance(end, f.TurnFinal):
            message = script if isinstance(script, str) else msgspec.json.encode(script).decode()
            self.history.append(f.HistoryEntry(seq=self.seq, role="user", content=message))
            self.history.append(f.HistoryEntry(seq=self.seq, role="assistant", content=end.content))
            self.answered_seq = self.seq
        self.seq += 2
        return end

    async def cancel(self, request_id: str) -> None:
        await self._send(
            f.SessionCancel(request_id=request_id, organization_id=ORGANIZATION_ID, session_id=self.session_id)
        )

    def request_id(self, seq: int | None = None, epoch: int = 1) -> str:
        return turn_request_id(self.session_id, seq or self.seq, epoch)

    def text(self, request_id: str, link: Connection) -> str:
        """What has come of a turn's text on one connection."""
        return "".join(delta.content for delta in link.of(f.TurnDelta, request_id))

    async def _send(self, frame: f.GatewayFrame, link: Connection | None = None) -> None:
        sent = frame if self.gateway.v2 else f.base_form(frame)
        assert sent is not None
        await (link or await self.gateway.link()).send(sent)


def _raw(value: object) -> msgspec.Raw | msgspec.UnsetType:
    return msgspec.UNSET if value is None else msgspec.Raw(msgspec.json.encode(value))
