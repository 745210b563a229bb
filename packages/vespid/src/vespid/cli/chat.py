"""`vespid session chat`: a person, or the lines of a pipe, and the session live.

One task tells whatever happens, whoever caused it; the other reads lines, says them, and waits until they are answered.
Ctrl-C cancels the answer that is waited for, a second one leaves; the end of input (Ctrl-D) leaves.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vespid.cli import exit_codes
from vespid.cli.caller import Caller
from vespid.cli.session_story import SessionStory
from vespid_client import Delta, Failed, Final, Forbidden, Happened, Restarted, Standing

if TYPE_CHECKING:
    from vespid_client import Chat, ChatItem
    from vespid_client.models import Session

MESSAGE_MAX_CHARS = 50_000


class Lines:
    """Lines of stdin, one at a time, without a thread where that is a terminal: it must let go at Ctrl-C."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdin.isatty()
        self._rest = b""
        self._is_over = False

    async def next(self) -> str | None:
        """The next line without its end; None at the end of input."""
        if not self._is_terminal:
            line = await asyncio.to_thread(sys.stdin.readline)
            return line.rstrip("\r\n") if line else None
        while b"\n" not in self._rest and not self._is_over:
            await self._readable()
            read = os.read(sys.stdin.fileno(), 65_536)
            self._rest += read
            self._is_over = not read
        line_, separator, self._rest = self._rest.partition(b"\n")
        return line_.decode("utf-8", "replace") if separator or line_ else None

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(sys.stdin.fileno(), ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(sys.stdin.fileno())


class Talker:
    """One conversation at a terminal."""

    def __init__(self, caller: Caller, session: "Session", chat: "Chat", names: dict[str, str]) -> None:
        self._caller = caller
        self._session = session
        self._chat = chat
        self._story = SessionStory(caller.out, names)
        self._lines = Lines()
        self._is_terminal = sys.stdin.isatty()
        # Answers by the seq of their message: true for an answer, false for an error.
        self._answers: dict[int, bool] = {}
        self._answered = asyncio.Event()
        # What we said ourselves: the terminal has shown it already.
        self._own: set[int] = set()
        self._saying = asyncio.Lock()
        self._waits = False
        self._leaving = asyncio.Event()

    async def run(self) -> int:
        """To the end of input. Answers 1 where the last message was not answered."""
        with self._interrupts():
            async with asyncio.TaskGroup() as tasks:
                telling = tasks.create_task(self._tell_all())
                talking = tasks.create_task(self._talk())
                leaving = tasks.create_task(self._leaving.wait())
                done, _ = await asyncio.wait((talking, leaving, telling), return_when=asyncio.FIRST_COMPLETED)
                for task in (telling, talking, leaving):
                    task.cancel()
        self._story.end()
        return talking.result() if talking in done else exit_codes.INTERRUPTED

    async def _talk(self) -> int:
        status = exit_codes.DONE
        while True:
            self._prompt()
            line = await self._lines.next()
            if line is None:
                if self._is_terminal:
                    self._caller.out.end_line()
                return status
            if not line.strip():
                continue
            status = exit_codes.DONE if await self._say(line[:MESSAGE_MAX_CHARS]) else exit_codes.FAILED

    async def _say(self, text: str) -> bool:
        # Events wait until it is known which of them is ours.
        async with self._saying:
            seq = (await self._caller.client.sessions.send(self._session.id, text)).seq
            self._own.add(seq)
        self._waits = True
        try:
            while seq not in self._answers:
                self._answered.clear()
                await self._answered.wait()
        finally:
            self._waits = False
        return self._answers.pop(seq)

    def _prompt(self) -> None:
        if self._is_terminal and not self._caller.out.as_json:
            self._caller.out.start_line("you    ", "cyan")

    async def _tell_all(self) -> None:
        async with contextlib.aclosing(self._chat.events()) as items:
            async for item in items:
                async with self._saying:
                    self._tell(item)
                if isinstance(item, Final | Failed):
                    self._answers[item.turn] = isinstance(item, Final)
                    self._answered.set()

    def _tell(self, item: "ChatItem") -> None:
        if not self._is_terminal and not self._is_new(item):
            return
        if self._caller.out.as_json:
            self._tell_json(item)
        elif isinstance(item, Delta):
            self._story.delta(item.text)
        elif isinstance(item, Restarted):
            self._story.restarted()
        elif isinstance(item, Happened) and not (self._is_terminal and item.seq in self._own):
            self._story.happened(item.event_type, item.payload)

    def _is_new(self, item: "ChatItem") -> bool:
        """Whether it came after our first message. A pipe is told no more; a person is told what was before, too."""
        seq = item.seq if isinstance(item, Happened) else getattr(item, "turn", 0)
        return bool(self._own) and seq >= min(self._own)

    def _tell_json(self, item: "ChatItem") -> None:
        out, session_id = self._caller.out, self._session.id
        if isinstance(item, Happened):
            event = {"seq": item.seq, "eventType": item.event_type, "level": item.level, "payload": item.payload}
            out.event({"type": "session_event_v2", "sessionId": session_id, **event, "createdAt": item.created_at})
        elif isinstance(item, Delta):
            out.event({"type": "agent_delta", "sessionId": session_id, "seq": item.turn, "content": item.text})
        elif isinstance(item, Standing):
            out.event({"type": "session_state", **item.to_json()})

    @contextlib.contextmanager
    def _interrupts(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        cancelling: set[asyncio.Task[object]] = set()

        def interrupted() -> None:
            if not self._waits:
                self._caller.out.note("\nCtrl-D leaves")
                self._prompt()
            elif cancelling:
                self._leaving.set()
            else:
                task = loop.create_task(self._caller.client.sessions.cancel(self._session.id))
                cancelling.add(task)
                task.add_done_callback(cancelling.discard)

        loop.add_signal_handler(signal.SIGINT, interrupted)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)


async def talk(caller: Caller, session: "Session") -> int:
    """The whole conversation; answers what the process is to end with."""
    names = await _agent_names(caller)
    if sys.stdin.isatty():
        caller.out.note(
            f"{session.title or session.session_key} · {session.engine_id} · Ctrl-C cancels the answer, Ctrl-D leaves"
        )
    async with caller.client.sessions.chat(session.id) as chat:
        return await Talker(caller, session, chat, names).run()


async def _agent_names(caller: Caller) -> dict[str, str]:
    """Of those who may see them."""
    try:
        return {agent.id: agent.name async for agent in caller.client.agents.list()}
    except Forbidden:
        return {}
