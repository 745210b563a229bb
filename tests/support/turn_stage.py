"""The stage on which turns are walked: two sessions, four hosts, a foreign organization, and the model beside them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition
from tests.support.session_model import Host, Session

from vespid.domain import turn
from vespid.domain.turn import Effect, Event, Happening, State
from vespid_protocol.ids import SessionId, turn_request_id

ENGINE = "vespid.echo.v1"
# How far this clock may run between the model's look at it and a statement's.
TOLERANCE_MS = 30_000

_EVERYTHING = """
select (select jsonb_agg(s order by s.id) from sessions s where s.organization_id = %s) as sessions,
       (select coalesce(jsonb_agg(t order by t.session_id, t.user_seq), '[]') from session_turns t
        where t.organization_id = %s) as turns,
       (select jsonb_agg(jsonb_build_array(e.session_id, e.seq, e.turn_seq, e.event_type) order by e.session_id, e.seq)
        from session_events e where e.organization_id = %s) as events,
       (select jsonb_agg(m order by m.id) from memory_docs m where m.organization_id = %s) as memory,
       (select coalesce(jsonb_agg(l), '[]') from vespid_x_live_turns(uuid_nil, 1000) l) as live,
       (select coalesce(jsonb_agg(jsonb_build_array(
                   x.id, h.session_id || ':turn:' || h.user_seq || ':' || h.turn_epoch)), '[]')
        from executors x, vespid_x_turns_of_executor(x.id) h where h.is_held) as held
from (select '00000000-0000-0000-0000-000000000000'::uuid as uuid_nil)
"""


def in_ms(time: str | None, shift: int) -> float | None:
    return None if time is None else datetime.fromisoformat(time).timestamp() * 1000 + shift


class TurnStage(RuleBasedStateMachine):
    """What stands, the statements that are asked, and what always holds."""

    sql: psycopg.Connection[Any]

    @initialize(
        busy=st.tuples(*[st.sampled_from(["queue", "queue", "reject", "interrupt"])] * 2),
        lost=st.tuples(*[st.sampled_from(["rerun", "rerun", "fail"])] * 2),
        pool=st.tuples(*[st.sampled_from([None, None, None, "byon", "managed"])] * 2),
        only=st.booleans(),
        tags=st.sampled_from([(), (), ("gpu",)]),
    )
    def begin(self, busy: Any, lost: Any, pool: Any, only: bool, tags: Any) -> None:
        self.org, self.foreign, self.edge = str(uuid4()), str(uuid4()), str(uuid4())
        for org in (self.org, self.foreign):
            self.sql.execute(
                "insert into organizations (id, slug, name) values (%s, %s, 'Org')", (org, f"o-{org[-12:]}")
            )
        self.sql.execute("select vespid_x_renew_process(%s, 'gateway', null, 86400000)", (self.edge,))
        self.hosts = [
            Host(managed=False, tags=("gpu",)),
            Host(managed=False, engines=(ENGINE,), kinds=("agent.run",)),
            Host(managed=True, tags=("gpu",)),
            Host(managed=False, ours=False, tags=("gpu",)),
        ]
        for host in self.hosts:
            org_of = None if host.managed else self.org if host.ours else self.foreign
            self.sql.execute(
                """insert into executors (id, organization_id, name, tags, kinds, engines, token_sha256)
                   values (%s, %s, 'a', %s, %s, %s, %s)""",
                (
                    host.id,
                    org_of,
                    list(host.tags),
                    None if host.kinds is None else list(host.kinds),
                    None if host.engines is None else list(host.engines),
                    host.id.encode(),
                ),
            )
            self.connect(host)
        self.sessions = [
            Session(
                busy[0], lost[0], None if only else pool[0], self.hosts[0].id if only else None, (), ENGINE, 3_600_000
            ),
            Session(busy[1], lost[1], pool[1], None, tags, ENGINE, 2_000),
        ]
        # How far the rows' times were put back.
        self.shift = 0
        for number, session in enumerate(self.sessions):
            item = {
                "org": self.org,
                "id": session.id,
                "userId": None,
                "sessionKey": f"key-{number}",
                "scope": "main",
                "requirement": {},
                "engine": {"id": ENGINE},
                "turnTimeoutMs": session.timeout_ms,
                "onBusy": session.on_busy,
                "onHostLost": session.on_host_lost,
                "pool": session.pool,
                "onlyExecutorId": session.only,
                "requiredTags": list(session.tags),
            }
            assert self.ask("select * from vespid_create_session(%s::text::jsonb)", item) == [
                {"id": session.id, "is_new": True}
            ]
            # There is something to do from the start.
            first = {"org": self.org, "session": session.id, "user": None, "payload": {"message": "hello"}}
            session.send(self.call("vespid_send_messages", first)["seq"], "hello", self.now())

    def teardown(self) -> None:
        if hasattr(self, "sessions"):
            self.sql.execute("delete from organizations where id = any(%s::uuid[])", ([self.org, self.foreign],))
            self.sql.execute("delete from executors where id = any(%s::uuid[])", ([host.id for host in self.hosts],))

    # --- the database, and the table beside it -----------------------------------------------------------------------

    def ask(self, statement: str, *args: Any) -> list[dict[str, Any]]:
        given = [msgspec.json.encode(arg).decode() if isinstance(arg, dict | list) else arg for arg in args]
        return [dict(row[0]) for row in self.sql.execute(f"select to_jsonb(f) from ({statement}) f", given)]

    def call(self, function: str, item: dict[str, Any]) -> dict[str, Any]:
        (row,) = self.ask(f"select * from {function}(array[%s::text::jsonb])", item)
        return row

    def now(self) -> int:
        row = self.sql.execute("select extract(epoch from clock_timestamp()) * 1000").fetchone()
        assert row is not None
        return int(row[0]) + self.shift

    def step(self, session: Session, seq: int, event: Event, **known: Any) -> tuple[Effect, ...]:
        known.setdefault("is_next", session.is_next(seq))
        outcome = turn.step(session.turns[seq], Happening(event=event, now=self.now(), **known))
        session.put(seq, outcome.turn)
        return outcome.effects

    def look_at_rows(self) -> dict[str, Any]:
        """Everything that the sessions' tables hold, and what is said of it to others."""
        (rows,) = self.ask(_EVERYTHING, self.org, self.org, self.org, self.org)
        return rows

    def nothing_changed(self) -> bool:
        """Since the step before this one."""
        return self.look_at_rows() == self.seen

    def connect(self, host: Host) -> None:
        (row,) = self.ask("select connection_epoch from vespid_x_connect_executor(%s, %s)", host.id, self.edge)
        host.epoch, host.connected, host.draining = row["connection_epoch"], True, False

    def told(self, right: bool) -> str:
        return self.org if right else self.foreign

    def pick(self, session: Session, back: int) -> int | None:
        """A turn: mostly the one whose turn it is, sometimes another."""
        seqs = sorted(session.turns)
        if back == 0 or not seqs:
            return session.next() if session.next() is not None else (seqs[-1] if seqs else None)
        return seqs[-back % len(seqs)]

    def epoch(self, session: Session, seq: int, said: str) -> int:
        return session.turns[seq].turn_epoch + {"own": 0, "older": -1, "newer": 1}[said]

    def cancelled(self, session: Session, seqs: list[int]) -> list[dict[str, Any]]:
        """The requests that hosts have to stop, of those turns as they are before the step."""
        found = []
        for seq in seqs:
            held = session.turns[seq]
            if held.executor_id is not None:
                host = next(host for host in self.hosts if host.id == held.executor_id)
                found.append(
                    {
                        "requestId": turn_request_id(session.id, seq, held.turn_epoch),
                        "executorId": host.id,
                        "pool": "managed" if host.managed else "byon",
                    }
                )
        return found

    # --- what always holds -------------------------------------------------------------------------------------------

    @precondition(lambda self: hasattr(self, "sessions"))
    @invariant()
    def rows_are_the_models(self) -> None:
        self.seen = self.look_at_rows()
        assert len(self.seen["turns"]) == sum(len(session.turns) for session in self.sessions)
        for row in self.seen["sessions"]:
            session = next(session for session in self.sessions if session.id == row["id"])
            assert row["generation"] == session.generation
            assert row["last_turn_seq"] == session.last_turn
            assert row["history_from"] == session.forgotten
            assert row["memory_version"] == session.memory_version
            assert row["pinned_executor_id"] == session.pin
            for turn_row in self.seen["turns"]:
                if turn_row["session_id"] == session.id:
                    self.check_turn(session, turn_row)

    def check_turn(self, session: Session, row: dict[str, Any]) -> None:
        model = session.turns[row["user_seq"]]
        for name in ("state", "executor_id", "lost_executor_id", "turn_epoch", "tries", "error", "waiting_reason"):
            assert row[name] == getattr(model, name), name
        assert (row["finished_at"] is None) == (model.state not in turn.TERMINAL)
        if model.state in turn.TERMINAL:
            assert row["sweep_at"] is None
            return
        assert (row["act_by"] is None) == (model.act_by is None)
        act_by, sweep_at = in_ms(row["act_by"], self.shift), in_ms(row["sweep_at"], self.shift)
        if act_by is not None and model.act_by is not None:
            assert abs(act_by - model.act_by) < TOLERANCE_MS
        if session.is_next(row["user_seq"]):
            # Somebody looks at it soon, and no later than it has to be ended.
            assert sweep_at is not None
            assert sweep_at <= self.now() + 10_000
            assert act_by is None or sweep_at <= max(act_by, self.now())

    @precondition(lambda self: hasattr(self, "sessions"))
    @invariant()
    def turns_run_one_at_a_time_in_order_and_none_is_lost(self) -> None:
        with_hosts = {}
        for row in self.seen["sessions"]:
            session = next(session for session in self.sessions if session.id == row["id"])
            events = [event for event in self.seen["events"] if event[0] == session.id]
            assert [seq for _, seq, _, _ in events] == list(range(1, row["event_seq"] + 1))
            ends = [of_turn for _, _, of_turn, kind in events if kind in ("agent_final", "error")]
            assert sorted(ends) == sorted(set(session.turns) - set(session.live()))
            in_order = [seq for seq in ends if session.turns[seq].state is not State.CANCELLED]
            assert in_order == sorted(in_order)
            answered = [of_turn for _, _, of_turn, kind in events if kind == "agent_final"]
            assert set(answered) == {seq for seq, model in session.turns.items() if model.state is State.ANSWERED}
            open_turns = [seq for seq in session.live() if session.turns[seq].executor_id is not None]
            assert open_turns in ([], session.live()[:1])
            for seq in open_turns:
                model = session.turns[seq]
                with_hosts[turn_request_id(SessionId(session.id), seq, model.turn_epoch)] = model.executor_id
        assert {row["request_id"]: row["executor_id"] for row in self.seen["live"]} == with_hosts
        assert sorted(self.seen["held"]) == sorted([host, request] for request, host in with_hosts.items())
