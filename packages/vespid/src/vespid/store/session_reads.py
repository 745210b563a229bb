"""What those who watch sessions read: how one stands and what is new in it, from one moment."""

from collections.abc import Sequence
from uuid import UUID

import asyncpg
import msgspec

from vespid.store.group_read import GroupRead
from vespid.store.pool import Database
from vespid.store.sessions import QUERIES, SessionEventRow, SessionStanding, standing_of
from vespid_protocol.ids import OrgId, SessionId

# Events that are read with a session's standing, and the bytes of their payloads; one is read however large it is.
NEWS_MAX = 100
NEWS_MAX_BYTES = 1024 * 1024


class SessionNews(msgspec.Struct, frozen=True):
    """How a session stands, and the next of its events, both from one moment."""

    standing: SessionStanding
    events: list[SessionEventRow]


class _Question(msgspec.Struct, frozen=True):
    org: OrgId
    session: SessionId
    # Events behind this one are wanted.
    after: int


class SessionReader:
    """Reads how sessions stand and what is new in them, several callers' questions as one statement.

    A Service: `start` opens the grouped connections.
    """

    def __init__(self, db: Database, *, connections: int = 2) -> None:
        self._reads: GroupRead[_Question, SessionNews | None] = GroupRead(
            db, _read, connections=connections, name="read-sessions"
        )

    async def start(self) -> None:
        await self._reads.start()

    async def stop(self) -> None:
        await self._reads.stop()

    async def read(self, org_id: OrgId, session_id: SessionId, after: int) -> SessionNews | None:
        """As it stands, with events behind `after`, NEWS_MAX at most; None: the organization has no such session."""
        return await self._reads.answer(_Question(org_id, session_id, after))


async def _read(connection: asyncpg.Connection, questions: Sequence[_Question]) -> list[SessionNews | None]:
    rows = await connection.fetch(
        QUERIES.read_sessions,
        [UUID(question.org) for question in questions],
        [UUID(question.session) for question in questions],
        [question.after for question in questions],
        NEWS_MAX,
        NEWS_MAX_BYTES,
    )
    answers: list[SessionNews | None] = [None] * len(questions)
    for row in rows:
        at = row["ord"] - 1
        answer = answers[at]
        if answer is None:
            answer = answers[at] = SessionNews(standing_of(questions[at].session, row), [])
        if row["seq"] is not None:
            answer.events.append(_event(questions[at], row))
    return answers


def _event(question: _Question, row: asyncpg.Record) -> SessionEventRow:
    return SessionEventRow(
        id=row["id"],
        organization_id=UUID(question.org),
        session_id=UUID(question.session),
        seq=row["seq"],
        turn_seq=row["turn_seq"],
        event_type=row["event_type"],
        level=row["level"],
        idempotency_key=row["idempotency_key"],
        payload=row["payload"],
        created_at=row["created_at"],
    )
