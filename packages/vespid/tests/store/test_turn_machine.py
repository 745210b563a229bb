"""The functions of migration 0005 and `vespid.domain.turn` are one machine: any sequence of events, the same rows.

Two sessions, three hosts, a foreign organization. Beside the table walks a plain Python model of what was said and
remembered (`tests.support.session_model`), and hosts that keep copies and know only what leases hand them.
"""

import copy
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    rule,
    run_state_machine_as_test,
)
from tests.support.session_model import Copy, Host, Session, follow
from tests.support.turn_stage import TurnStage

from vespid.domain import turn
from vespid.domain.turn import Effect, Event, Happening, Loss, State
from vespid_protocol.ids import turn_request_id

SESSIONS = st.sampled_from([0, 1])
HOSTS = st.sampled_from([0, 1, 2, 3])
# Whose organization a statement is told: mostly the session's own.
RIGHT = st.sampled_from([True] * 6 + [False])


def wrongs(*names: str, none: int = 2) -> "st.SearchStrategy[str | None]":
    """What a statement is told wrongly: one thing, or mostly nothing."""
    return st.sampled_from([*([None] * none * len(names)), *names])


DOCS = st.lists(
    st.builds(
        lambda path, content: {"path": path, "sha256": content or "", "content": content},
        st.sampled_from(["MEMORY.md", "memory/a.md"]),
        st.sampled_from(["tea", "milk", None]),
    ),
    max_size=3,
)


class Walk(TurnStage):
    """Everything that can happen to the turns of two sessions."""

    # --- what people do ----------------------------------------------------------------------------------------------

    @rule(
        at=SESSIONS,
        key=st.sampled_from([None, None, "a", "b"]),
        routed=st.sampled_from([None] * 4 + ["x", "y"]),
        right=RIGHT,
    )
    def send(self, at: int, key: str | None, routed: str | None, right: bool) -> None:
        session = self.sessions[at]
        text = f"message {uuid4()}"
        item: dict[str, Any] = {
            "org": self.told(right),
            "session": session.id,
            "user": None,
            "payload": {"message": text},
        }
        if key is not None:
            item["key"] = key
        if routed is not None:
            item["routed"] = {"agentId": routed, "bindingId": None}
        open_seq = session.next()
        busy_host = [] if open_seq is None or session.turns[open_seq].state is State.CANCELLING else [open_seq]
        to_stop = self.cancelled(session, busy_host) if session.on_busy == "interrupt" else []
        answer = self.call("vespid_send_messages", item)
        if not right:
            assert answer["outcome"] == "not_found"
            assert self.nothing_changed()
            return
        if key in session.keys:
            assert (answer["outcome"], answer["seq"]) == ("repeated", session.keys[key])
            assert answer["payload"]["message"] == session.messages[session.keys[key]]
            assert self.step(session, session.keys[key], Event.SEND) == (Effect.ANSWER_REPEATED,)
            assert self.nothing_changed()
            return
        is_busy = open_seq is not None and session.on_busy == "reject"
        known = Happening(event=Event.SEND, now=self.now(), is_busy=is_busy)
        if Effect.ANSWER_BUSY in turn.step(session.fresh(), known).effects:
            assert answer["outcome"] == "busy"
            assert self.nothing_changed()
            return
        assert answer["outcome"] == "accepted"
        if open_seq is not None and session.on_busy == "interrupt":
            self.step(session, open_seq, Event.INTERRUPT)
        if routed is not None and routed != session.routed:
            session.routed, session.generation = routed, session.generation + 1
        assert answer["cancelled"] == to_stop
        assert answer["is_next"] == (session.next() is None)
        session.send(answer["seq"], text, known.now)
        if key is not None:
            session.keys[key] = answer["seq"]

    @rule(at=SESSIONS, right=RIGHT)
    def cancel(self, at: int, right: bool) -> None:
        session = self.sessions[at]
        seq = session.next()
        to_stop = self.cancelled(session, [] if seq is None else [seq])
        answer = self.ask("select * from vespid_cancel_turn(%s, %s)", self.told(right), session.id)
        if not right or seq is None:
            assert right or answer == []
            assert self.nothing_changed()
            return
        self.step(session, seq, Event.CANCEL)
        assert answer[0]["cancelled"] == to_stop
        assert answer[0]["has_next"] == (session.to_place() is not None)

    @rule(at=SESSIONS, clear=st.booleans(), right=RIGHT)
    def reset(self, at: int, clear: bool, right: bool) -> None:
        session = self.sessions[at]
        to_stop = self.cancelled(session, session.live())
        answer = self.ask("select * from vespid_reset_session(%s, %s, %s)", self.told(right), session.id, clear)
        if not right:
            assert answer == []
            assert self.nothing_changed()
            return
        for seq in session.live():
            self.step(session, seq, Event.RESET)
        session.generation += 1
        if clear:
            session.forgotten = answer[0]["seq"]
        assert answer[0]["cancelled"] == to_stop

    # --- placing -----------------------------------------------------------------------------------------------------

    @rule(at=SESSIONS, right=RIGHT)
    def look(self, at: int, right: bool) -> None:
        session = self.sessions[at]
        answer = self.ask("select * from vespid_look_at_session(%s, %s)", self.told(right), session.id)
        seq = session.to_place()
        if not right or seq is None:
            assert answer == []
            return
        wanted = session.turns[seq]
        assert (answer[0]["user_seq"], answer[0]["turn_epoch"], answer[0]["tries"], answer[0]["state"]) == (
            seq,
            wanted.turn_epoch,
            wanted.tries,
            wanted.state,
        )

    @rule(
        at=SESSIONS,
        number=st.sampled_from([None] * 5 + [0, 1, 2, 3]),
        have=st.sampled_from(["own", "own", "own", "old", "none"]),
        wrong=wrongs("back", "older", "newer", "org", "connection", "edge"),
    )
    def lease(self, at: int, number: int | None, have: str, wrong: str | None) -> None:
        back, said = (1 if wrong == "back" else 0), (wrong if wrong in ("older", "newer") else "own")
        right = wrong != "org"
        stale = wrong if wrong in ("connection", "edge") else ""
        session = self.sessions[at]
        host = self.best(session) if number is None else self.hosts[number]
        seq = self.pick(session, back)
        if seq is None:
            return
        has = host.have(session.id, have)
        epoch = self.epoch(session, seq, said) + 1
        connection = host.epoch - (stale == "connection")
        item = {
            "org": self.told(right),
            "session": session.id,
            "seq": seq,
            "epoch": epoch,
            "executor": host.id,
            "connectionEpoch": connection,
            "edge": str(uuid4()) if stale == "edge" else self.edge,
        }
        if has is not None:
            item["have"] = has.said()
        tries, wanted = session.turns[seq].tries, session.turns[seq].wants_host
        answer = self.call("vespid_x_lease_turns", item)
        if not right:
            assert answer["outcome"] == "gone"
            assert self.nothing_changed()
            return
        may_hold = session.may_be_held(host, connection, stale != "edge")
        effects = self.step(session, seq, Event.LEASE, executor_id=host.id, epoch=epoch, may_hold=may_hold)
        if Effect.SEND_TURN not in effects:
            assert answer["outcome"] == ("refused" if Effect.PLACE in effects else "gone")
            assert self.nothing_changed()
            return
        assert answer["outcome"] == "leased"
        assert wanted
        assert answer["is_pin_moved"] == (session.pin != host.id)
        # Who is given everything anew is given a new generation.
        session.generation += session.pin != host.id or has is None or not session.is_good(has)
        session.pin = host.id
        self.check_lease(session, host, seq, tries, has, answer)

    def check_lease(
        self, session: Session, host: Host, seq: int, tries: int, has: Copy | None, answer: dict[str, Any]
    ) -> None:
        """What a host is told with its turn is what was said before, whatever it had."""
        row = self.ask("select * from sessions where id = %s", session.id)[0]
        # A turn that goes on elsewhere moves the session's time with its event, in the same statement.
        told = {name: answer["session"][name] for name in ("have_seq", "last_activity_at")}
        assert answer["session"] == row | told
        assert (row["generation"], row["last_turn_seq"]) == (session.generation, session.last_turn)
        assert answer["payload"] == {"message": session.messages[seq]}
        assert answer["remaining_ms"] == session.timeout_ms
        prior = None if answer["prior"] is None else [event["payload"]["n"] for event in answer["prior"]]
        assert prior == ((session.tools[seq] or None) if tries else None)
        if has is not None and has.said() == {
            "generation": session.generation,
            "historySeq": session.last_turn,
            "memoryVersion": session.memory_version,
        }:
            assert answer["history"] is answer["memory"] is None
        now_has = follow(has, seq, answer)
        assert now_has.history == session.said_before(seq)
        assert now_has.memory == session.remembered()
        host.copies[session.id] = now_has
        host.had.append((session.id, seq, session.turns[seq].turn_epoch))

    @rule(
        at=SESSIONS,
        wrong=wrongs("back", "older", "newer", "org"),
        reason=st.sampled_from(["ALL_FULL", "QUOTA", "OTHER"]),
        number=HOSTS,
    )
    def note_waiting(self, at: int, wrong: str | None, reason: str, number: int) -> None:
        back, said = (1 if wrong == "back" else 0), (wrong if wrong in ("older", "newer") else "own")
        right = wrong != "org"
        session = self.sessions[at]
        seq = self.pick(session, back)
        if seq is None:
            return
        epoch = self.epoch(session, seq, said)
        statement = "select vespid_note_turn_waiting(%s, %s, %s, %s, %s, %s) as told"
        (answer,) = self.ask(statement, self.told(right), session.id, seq, epoch, reason, self.hosts[number].id)
        if not right:
            assert self.nothing_changed()
            return
        effects = self.step(session, seq, Event.WAITING, epoch=epoch, reason=reason)
        assert (answer["told"] is not None) == (Effect.TELL_WAITING in effects)
        assert effects or self.nothing_changed()

    @rule(at=SESSIONS, wrong=st.sampled_from([None, "back", "older", "newer", "org"]))
    def nobody_eligible(self, at: int, wrong: str | None) -> None:
        back, said = (1 if wrong == "back" else 0), (wrong if wrong in ("older", "newer") else "own")
        right = wrong != "org"
        session = self.sessions[at]
        seq = self.pick(session, back)
        if seq is None:
            return
        epoch, code = self.epoch(session, seq, said), "NO_AGENT_AVAILABLE"
        statement = "select vespid_fail_unplaced_turn(%s, %s, %s, %s, %s, 'none', '{}') as told"
        (answer,) = self.ask(statement, self.told(right), session.id, seq, epoch, code)
        if not right:
            assert self.nothing_changed()
            return
        effects = self.step(session, seq, Event.UNPLACEABLE, epoch=epoch, code=code)
        assert (answer["told"] is not None) == (Effect.TELL_ERROR in effects)
        assert effects or self.nothing_changed()

    # --- what hosts say ----------------------------------------------------------------------------------------------

    def frame(self, session: Session, host: Host, back: int, said: str, right: bool) -> dict[str, Any] | None:
        seq = self.pick(session, back)
        if seq is None:
            return None
        return {
            "org": self.told(right),
            "session": session.id,
            "seq": seq,
            "epoch": self.epoch(session, seq, said),
            "executor": host.id,
        }

    def best(self, session: Session) -> Host:
        """One that may have the turn, rather the one that the session is pinned to; any, where none may."""
        able = [host for host in self.hosts if session.may_be_held(host, host.epoch, True)]
        return next((host for host in able if host.id == session.pin), able[0] if able else self.hosts[0])

    def who(self, session: Session, number: int | None) -> Host:
        """A host; None: the one that has the turn, or had it."""
        seq = self.pick(session, 0)
        if number is None and seq is not None:
            had = session.turns[seq].executor_id or session.turns[seq].lost_executor_id
            return next((host for host in self.hosts if host.id == had), self.hosts[0])
        return self.hosts[number or 0]

    @rule(at=SESSIONS, number=st.sampled_from([None] * 5 + [0, 1, 3]), wrong=wrongs("back", "older", "newer", "org"))
    def tool_event(self, at: int, number: int | None, wrong: str | None) -> None:
        back, said = (1 if wrong == "back" else 0), (wrong if wrong in ("older", "newer") else "own")
        right = wrong != "org"
        session = self.sessions[at]
        host = self.who(session, number)
        item = self.frame(session, host, back, said, right)
        if item is None:
            return
        name = str(uuid4())
        item["events"] = [{"t": "tool_call", "p": {"data": {"n": name}}}, {"t": "note", "p": {"data": {"n": name}}}]
        answer = self.call("vespid_x_append_turn_events", item)
        if not right or host.revoked or not host.enabled:
            assert answer["outcome"] == "fenced"
            assert self.nothing_changed()
            return
        effects = self.step(session, item["seq"], Event.TOOL_EVENT, executor_id=host.id, epoch=item["epoch"])
        if Effect.TELL_TOOL in effects:
            assert answer["outcome"] == "appended"
            session.tools[item["seq"]].append(name)
        else:
            assert answer["outcome"] == "fenced"
            assert self.nothing_changed()

    @rule(
        at=SESSIONS,
        number=st.sampled_from([None] * 8 + [0, 1, 2, 3]),
        wrong=wrongs("back", "older", "newer", "connection"),
        answered=st.sampled_from([True, True, False]),
        docs=DOCS,
        tail=st.booleans(),
    )
    def finish(self, at: int, number: int | None, wrong: str | None, answered: bool, docs: Any, tail: bool) -> None:
        back, said = (1 if wrong == "back" else 0), (wrong if wrong in ("older", "newer") else "own")
        stale = wrong == "connection"
        session = self.sessions[at]
        host = self.who(session, number)
        # A host of somebody else's says that it is ours, and a managed one names the organization truly.
        item = self.frame(session, host, back, said, True)
        if item is None:
            return
        seq, text = item["seq"], f"answer {uuid4()}"
        item |= {"connectionEpoch": host.epoch - stale, "status": "answered" if answered else "failed", "memory": docs}
        item |= {"answer": {"message": text, "userEventSeq": seq}} if answered else {"code": "X", "message": "no"}
        if tail:
            item["tail"] = [{"t": "tool_call", "p": {"data": {"n": text}}}]
        had_answer = session.turns[seq].state is State.ANSWERED
        answer = self.call("vespid_x_finish_turns", item)
        is_newest = not stale and not host.revoked and host.enabled
        event = Event.FINAL if answered else Event.ERROR
        known = {"executor_id": host.id, "epoch": item["epoch"], "is_newest": is_newest, "code": "X"}
        effects = self.step(session, seq, event, **known)
        if Effect.CLOSE in effects or Effect.DISCARD in effects:
            expected = {"stale"} if Effect.CLOSE in effects else {"fenced", "duplicate", "unknown"}
            assert answer["outcome"] in expected
            if answer["outcome"] == "duplicate":
                assert answer["is_ours"] == had_answer
            assert self.nothing_changed()
            return
        was_put = Effect.PUT_MEMORY in effects
        assert answer["outcome"] == ("cancelled" if session.turns[seq].state is State.CANCELLED else "applied")
        assert answer["is_ours"] == was_put
        assert answer["has_next"] == bool(session.live())
        if tail and answer["outcome"] == "applied":
            session.tools[seq].append(text)
        if was_put:
            session.answers[seq] = text
            kept = host.copies[session.id]
            knew = kept.memory_version == session.memory_version
            reached = session.put_memory(docs)
            assert answer["memory_version"] == (reached if docs else None)
            self.keep(kept, docs, reached, knew)
            kept.history += [("user", session.messages[seq]), ("assistant", text)]
            kept.history_seq = seq

    def keep(self, kept: Copy, docs: list[dict[str, Any]], reached: int, knew: bool) -> None:
        """A host whose copy was behind does not know what came between: it stays behind."""
        if knew:
            kept.memory_version = reached
            kept.memory |= {doc["path"]: doc["content"] for doc in docs}
            kept.memory = {path: content for path, content in kept.memory.items() if content is not None}

    @rule(at=SESSIONS, number=HOSTS, docs=DOCS, right=RIGHT)
    def push_memory(self, at: int, number: int, docs: Any, right: bool) -> None:
        session, host = self.sessions[at], self.hosts[number]
        statement = "select vespid_x_put_memory(%s, %s, %s, %s::text::jsonb) as version"
        (answer,) = self.ask(statement, self.told(right), session.id, host.id, docs)
        if not right or session.pin != host.id or host.revoked or not host.enabled:
            assert answer["version"] is None
            assert self.nothing_changed()
            return
        kept = host.copies[session.id]
        knew = kept.memory_version == session.memory_version
        assert answer["version"] == session.put_memory(docs)
        self.keep(kept, docs, session.memory_version, knew)

    @rule(
        at=SESSIONS,
        number=st.sampled_from([None] * 6 + [0, 1]),
        reason=st.sampled_from([*Loss, Loss.DECLINED, Loss.DECLINED]),
        connection=st.sampled_from([None, "own"]),
        wrong=wrongs("back", "older", "newer", "org", "connection"),
    )
    def lose(self, at: int, number: int | None, reason: Loss, connection: str | None, wrong: str | None) -> None:
        back, said = (1 if wrong == "back" else 0), (wrong if wrong in ("older", "newer") else "own")
        right = wrong != "org"
        connection = "older" if wrong == "connection" else connection
        session = self.sessions[at]
        host = self.who(session, number)
        item = self.frame(session, host, back, said, right)
        if item is None:
            return
        item["reason"] = reason
        if connection is not None:
            item["connectionEpoch"] = host.epoch - (connection == "older")
        answer = self.call("vespid_x_lose_turns", item)
        if not right or connection == "older":
            assert answer["outcome"] == "gone"
            assert self.nothing_changed()
            return
        effects = self.step(session, item["seq"], Event.LOST, executor_id=host.id, epoch=item["epoch"], loss=reason)
        if not effects:
            assert answer["outcome"] == "gone"
            assert self.nothing_changed()
            return
        state = session.turns[item["seq"]].state
        assert answer["outcome"] == ("place" if state is State.OPENING else state)
        assert answer["has_next"] == bool(session.live())

    @rule(
        number=HOSTS,
        says=st.sampled_from(["running"] * 4 + ["unacked", "nothing"]),
        how=st.sampled_from([""] * 6 + ["journal", "base", "stale"]),
        foreign=st.booleans(),
    )
    def hello(self, number: int, says: str, how: str, foreign: bool) -> None:
        """A connection compares its turns with ours; everything that the host was ever given counts as running."""
        journal, base, stale = how != "journal", how == "base", how == "stale"
        host = self.hosts[number]
        if host.revoked or not host.enabled:
            stale = True
        else:
            self.connect(host)
        listed = [] if base or says == "nothing" else [turn_request_id(*had) for had in host.had]
        strangers = [turn_request_id(str(uuid4()), 2, 1)] if foreign and not base else []
        said = {
            "connectionEpoch": host.epoch - stale,
            "edge": self.edge,
            "running": [
                *(listed if says == "running" else []),
                *strangers,
                *(["nonsense:turn:x:y"] if foreign else []),
            ],
            "unacked": listed if says == "unacked" else [],
            "isBase": base,
            "sameJournal": journal,
        }
        rows = self.ask("select * from vespid_x_attach_turns(%s, %s::text::jsonb)", host.id, said)
        if stale:
            assert rows == []
            assert self.nothing_changed()
            return
        actions = {row["request_id"]: row["action"] for row in rows}
        expected = {}
        for session in self.sessions:
            for seq in session.live():
                now = session.turns[seq]
                if host.id != (now.executor_id or now.lost_executor_id):
                    continue
                request = turn_request_id(session.id, seq, now.turn_epoch)
                action = self.greet(session, seq, host, request, said)
                if action is not None:
                    expected[request] = action
        ours = {
            turn_request_id(s.id, q, t.turn_epoch)
            for s in self.sessions
            for q, t in s.turns.items()
            if t.executor_id == host.id and t.state not in turn.TERMINAL
        }
        # Told of the turn, and that it has to stop it: the latter stands.
        expected |= {
            request: "foreign" for request in said["running"] if request not in ours and "nonsense" not in request
        }
        assert actions == expected

    def greet(self, session: Session, seq: int, host: Host, request: str, said: dict[str, Any]) -> str | None:
        """What a hello does with one turn of ours, by the table."""
        known: dict[str, Any] = {"executor_id": host.id, "epoch": session.turns[seq].turn_epoch}
        if request in said["unacked"]:
            self.step(session, seq, Event.HELLO_ANNOUNCES, **known)
            return "waits"
        if request in said["running"] and said["sameJournal"]:
            self.step(session, seq, Event.HELLO_LISTS, **known)
            return "cancelling" if session.turns[seq].state is State.CANCELLING else "continues"
        loss = Loss.OMITTED if said["sameJournal"] else Loss.JOURNAL
        was_with = session.turns[seq].executor_id
        effects = self.step(session, seq, Event.HELLO_OMITS, loss=loss, is_base=said["isBase"], **known)
        if was_with is None:
            return None
        if not effects:
            return "continues"
        state = session.turns[seq].state
        return "place" if state is State.OPENING else str(state)

    # --- what becomes of hosts, and time -----------------------------------------------------------------------------

    @rule(
        number=st.sampled_from([0, 1, 2]),
        what=st.sampled_from(["close", "cordon", "drain", "disable", "revoke", "back up"]),
    )
    def host_changes(self, number: int, what: str) -> None:
        host = self.hosts[number]
        if what == "close" and host.connected:
            self.sql.execute("select vespid_x_disconnect_executor(%s, %s, 0)", (host.id, host.epoch))
            host.connected = False
        elif what == "cordon":
            host.cordoned = not host.cordoned
            self.sql.execute("update executors set cordoned = %s where id = %s", (host.cordoned, host.id))
        elif what == "drain" and host.connected:
            host.draining = True
            self.sql.execute("select vespid_x_set_draining(%s, %s)", (host.id, host.epoch))
        elif what == "disable":
            host.enabled = not host.enabled
            self.sql.execute("update executors set enabled = %s where id = %s", (host.enabled, host.id))
        elif what == "revoke" and number == 1:
            host.revoked = True
            self.sql.execute("update executors set revoked_at = now() where id = %s", (host.id,))
        elif what == "back up":
            host.backups = copy.deepcopy(host.copies)

    @rule(number=HOSTS)
    def mend(self, number: int) -> None:
        """It can have turns again, unless it is revoked."""
        host = self.hosts[number]
        host.cordoned, host.enabled = False, True
        self.sql.execute("update executors set cordoned = false, enabled = true where id = %s", (host.id,))
        if not host.revoked and not host.connected:
            self.connect(host)

    @rule(ms=st.sampled_from([3_000, 6_000, 60_000, 3_700_000]))
    def time_passes(self, ms: int) -> None:
        self.sql.execute(
            """update session_turns set act_by = act_by - passed, sweep_at = sweep_at - passed,
                      wait_until = wait_until - passed, lost_at = lost_at - passed
               from (select %s * interval '1 ms' as passed)
               where organization_id = %s and finished_at is null""",
            (ms, self.org),
        )
        self.shift += ms

    @rule(most=st.sampled_from([1, 100]))
    def sweep(self, most: int) -> None:
        self.sql.execute(
            "update session_turns set sweep_at = now() where organization_id = %s and sweep_at is not null", (self.org,)
        )
        expected = {}
        answers: list[dict[str, Any]] = []
        for _ in self.sessions:
            answers += self.ask("select * from vespid_x_sweep_turns(%s)", most)
        for session in self.sessions:
            seq = session.next()
            if seq is not None:
                action = self.sweep_one(session, seq)
                if action is not None:
                    expected[session.id] = action
        assert {answer["session_id"]: answer["action"] for answer in answers} == expected

    def sweep_one(self, session: Session, seq: int) -> str | None:
        before = session.turns[seq]
        effects = self.step(session, seq, Event.ACT_BY)
        if session.turns[seq].state in turn.TERMINAL:
            return "ended"
        if Effect.PLACE in effects:
            return "place"
        host = next((host for host in self.hosts if host.id == before.executor_id), None)
        if host is None or (host.connected and not host.revoked and host.enabled):
            return None
        # The notice of its loss was lost.
        self.step(session, seq, Event.LOST, executor_id=host.id, epoch=before.turn_epoch, loss=Loss.CLOSED)
        return "ended" if session.turns[seq].state in turn.TERMINAL else "place"


@pytest.fixture
def sql(database_url: str) -> "Iterator[psycopg.Connection[Any]]":
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.mark.promise("P4", "P8")
@pytest.mark.timeout(300)
def test_the_statements_walk_the_table(sql: "psycopg.Connection[Any]") -> None:
    class OnDatabase(Walk):
        pass

    OnDatabase.sql = sql
    run_state_machine_as_test(
        OnDatabase,
        settings=settings(
            max_examples=15,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
