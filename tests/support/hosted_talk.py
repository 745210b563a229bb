"""A session with a connected host, and what one does with it through the stores."""

import json

import msgspec
from tests.support.ground import Ground, Lease
from tests.support.talk import Talk as Written

from vespid.store.pool import Database
from vespid.store.sessions import MessageSender
from vespid.store.turns import FinishTurn, HostCopy, LeasedTurn, LeaseTurn, LoseTurn, NotLeased, TurnFinished, TurnStore
from vespid_protocol.ids import OrgId


class Talk(Written):
    """One session of one organization, and a connected host."""

    def __init__(
        self, ground: Ground, db: Database, turns: TurnStore, sender: MessageSender, org: OrgId, host: Lease
    ) -> None:
        super().__init__(db, sender, org)
        self.ground, self.turns, self.host = ground, turns, host

    async def lease(
        self, seq: int, epoch: int = 1, to: Lease | None = None, have: HostCopy | None = None
    ) -> LeasedTurn | NotLeased:
        to = to or self.host
        return await self.turns.lease(
            LeaseTurn(
                org=self.org,
                session=self.id,
                seq=seq,
                epoch=epoch,
                executor=to.executor,
                connection_epoch=to.epoch,
                edge=to.edge,
                have=have,
            )
        )

    async def leased(
        self, seq: int, epoch: int = 1, to: Lease | None = None, have: HostCopy | None = None
    ) -> LeasedTurn:
        answer = await self.lease(seq, epoch, to, have)
        assert isinstance(answer, LeasedTurn), answer
        return answer

    async def finish(
        self, seq: int, epoch: int = 1, by: Lease | None = None, text: str = "hi", **others: object
    ) -> TurnFinished:
        by = by or self.host
        answer = msgspec.Raw(json.dumps({"message": text, "userEventSeq": seq}).encode())
        fields = {
            "org": self.org,
            "session": self.id,
            "seq": seq,
            "epoch": epoch,
            "executor": by.executor,
            "connection_epoch": by.epoch,
            "status": "answered",
            "answer": answer,
        }
        return await self.turns.finish(FinishTurn(**{**fields, **others}))  # type: ignore[arg-type]

    async def lose(
        self, seq: int, epoch: int = 1, host: Lease | None = None, reason: str = "closed", **others: object
    ) -> str:
        host = host or self.host
        loss = LoseTurn(
            org=self.org,
            session=self.id,
            seq=seq,
            epoch=epoch,
            executor=host.executor,
            reason=reason,
            **others,  # type: ignore[arg-type]
        )
        return (await self.turns.lose(loss)).outcome

    async def another_host(self, **how: object) -> Lease:
        executor = await self.ground.executor(self.org, **how)  # type: ignore[arg-type]
        return await self.ground.connected(executor, self.host.edge)
