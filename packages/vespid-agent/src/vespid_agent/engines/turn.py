"""One turn of an engine that is a program: from the request to its answer, whichever program it is.

    conversation kept? ──▶ resume it with the message alone
                     └───▶ a new one, with the history as text
    the program answers ──▶ text, or JSON that fits; else it is asked to mend it, twice at most

What differs between programs is their `Dialect`: how they are started, and what the lines mean that they print.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Generic

import msgspec

from vespid_agent.engines.bridge import Bridge
from vespid_agent.engines.calls import Calls
from vespid_agent.engines.cli import Cli, Ended, Start
from vespid_agent.engines.conversations import Conversation, Conversations, exchange, place
from vespid_agent.engines.folders import Folders, remove
from vespid_agent.engines.lines import JsonLines, LineT
from vespid_protocol.codes import Code
from vespid_runtime.engines.engine import EngineError, TurnAnswer, TurnOutput, TurnRequest
from vespid_runtime.engines.loop import task_of
from vespid_runtime.loop import context
from vespid_runtime.loop.answer import REPAIRS_MAX, Unusable, read_answer
from vespid_runtime.loop.cutting import cut_middle
from vespid_runtime.loop.schema import BadSchema, check_schema
from vespid_runtime.loop.state import NO_USAGE
from vespid_runtime.loop.task import LoopTask
from vespid_runtime.models.types import Assistant, ModelReply, ToolResult, Usage

_ERROR_MAX_CHARS = 2_000
_MEND = "That is not the answer that is wanted: {problem}. Answer again, with the JSON document alone."


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One start of the program."""

    task: LoopTask
    # Who answers; None: the program's own choice.
    model: str | None
    api_key: str | None = field(repr=False)
    prompt: str
    system: str
    # To go on with; None: a new one.
    conversation: Conversation | None
    # Whether it will be wanted again.
    keeps: bool
    # Readable by this user alone, and gone when the turn is over.
    folder: Path
    workdir: Path
    url: str
    token: str = field(repr=False)
    # The program may read and edit the files of `workdir` by itself.
    may_work: bool
    timeout_ms: int


@dataclass(slots=True)
class Heard:
    """What is understood of what the program printed."""

    # It has taken the prompt.
    has_begun: bool = False
    conversation: str | None = None
    model: str | None = None
    answer: str | None = None
    stop_reason: str = "stop"
    # Of this start, or of the whole conversation, as the program counts.
    usage: Usage | None = None
    cost_usd: float | None = None
    # Why there is no answer, in the program's words.
    failure: EngineError | None = None


class Says:
    """The answer's text on its way out, no more of it than an answer may have; none where the answer is JSON."""

    def __init__(self, task: LoopTask, output: TurnOutput) -> None:
        self._output = output
        self._room = 0 if task.output.mode == "json" else task.limits.max_output_chars

    def __call__(self, text: str) -> None:
        taken = text[: self._room]
        if taken:
            self._room -= len(taken)
            self._output.delta(taken)


class Listener(ABC, Generic[LineT]):
    """Makes events and text of what the program prints, line by line."""

    def __init__(self, kind: type[LineT], calls: Calls, say: Says) -> None:
        self.heard = Heard()
        self._calls = calls
        self._say = say
        self._lines = JsonLines(kind, self._take)

    def feed(self, text: str) -> None:
        self._lines.feed(text)

    def finish(self) -> None:
        """It prints no more."""
        self._lines.finish()

    @property
    def unread(self) -> str:
        """What was not understood last, for people."""
        return self._lines.unread

    @abstractmethod
    def _take(self, line: LineT) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What the program is asked: status 0 says that it is. `advice`: what to do where it is not."""

    arguments: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    # It is, whatever the program says: its key is in the environment.
    known: bool = False
    advice: str


class Dialect(ABC):
    """One program."""

    # As in `names.py`.
    id: str
    provider: str
    # What prints its help, and the options in there without which it cannot be driven.
    help_arguments: tuple[str, ...]
    needed: tuple[str, ...]
    # Whether `Heard.usage` counts from the beginning of the conversation.
    counts_all: bool = False

    @abstractmethod
    def start(self, ask: Ask, environment: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, str]]:
        """Arguments and environment. Writes what the program is to read. Blocks on the disk."""

    @abstractmethod
    def login(self, environment: Mapping[str, str]) -> Login:
        """How to find out whether it is logged in. Blocks on the disk. Raises EngineError."""

    def clean(self, ask: Ask) -> None:  # noqa: B027 - most write only into the turn's folder, which goes by itself
        """Take away what `start` wrote elsewhere. Blocks on the disk."""

    @abstractmethod
    def listener(self, calls: Calls, say: Says) -> Listener[Any]:
        """For one start."""


class CliEngine:
    """An engine over a program. Keeps nothing between turns but which conversation continues which session."""

    def __init__(self, dialect: Dialect, cli: Cli, folders: Folders, *, lends_login: bool = True) -> None:
        """`lends_login`: whether who brings no key is answered by what the agent's user is logged in as."""
        self.id = dialect.id
        self._lends_login = lends_login
        self.cli = cli
        self.dialect = dialect
        self._folders = folders
        self._conversations = Conversations(dialect.id, folders)

    async def turn(self, request: TurnRequest, output: TurnOutput) -> TurnAnswer:
        """Raises EngineError."""
        task = task_of(request)
        _check(task)
        if not self._lends_login and request.config.engine.auth is None:
            raise EngineError(
                Code.LLM_AUTH_NOT_CONFIGURED,
                "a managed agent lends its own login to nobody: give engine.auth.secretId, or use an agent of your own",
            )
        await asyncio.to_thread(self.cli.find)
        folder = await asyncio.to_thread(self._folders.turn)
        try:
            workdir = request.workdir
            if workdir is None:
                # A session's is the same in each turn, for a program finds its conversations by it.
                workdir = await asyncio.to_thread(self._folders.workdir, request.session_id or folder.name)
            return await _Turn(self, self._conversations, request, output, task, folder, workdir).run()
        finally:
            await asyncio.to_thread(remove, folder)
            if request.workdir is None and request.session_id is None:
                await asyncio.to_thread(self._folders.drop_workdir, folder.name)


class _Turn:
    def __init__(
        self,
        engine: CliEngine,
        conversations: Conversations,
        request: TurnRequest,
        output: TurnOutput,
        task: LoopTask,
        folder: Path,
        workdir: Path,
    ) -> None:
        self._engine = engine
        self._conversations = conversations
        self._request = request
        self._output = output
        self._task = task
        self._folder = folder
        self._workdir = workdir
        self._deadline = monotonic() + task.limits.timeout_ms / 1000
        self._halt: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Why we end it.
        self._over: EngineError | None = None
        self._calls = Calls(task, request, output, self._end)
        self._usage = NO_USAGE
        self._cost_usd: float | None = None

    async def run(self) -> TurnAnswer:
        session_id = self._request.session_id
        known = None
        if session_id is not None:
            known = await asyncio.to_thread(
                self._conversations.take, session_id, str(self._workdir), self._request.history
            )
        async with Bridge(self._calls) as bridge:
            heard = None
            if known is not None:
                heard = await self._ask(bridge, self._task.message, known)
            if heard is None or not heard.has_begun:
                # It has lost the conversation: one more reason to tell it as text.
                heard, known = await self._ask(bridge, _told(self._task), None), None
            content, value, conversation, heard = await self._answer(bridge, heard, known)
        if session_id is not None and conversation is not None:
            await asyncio.to_thread(self._conversations.put, session_id, self._kept(conversation, content))
        return self._answered(heard, content, value)

    async def _answer(
        self, bridge: Bridge, heard: Heard, known: Conversation | None
    ) -> tuple[str, object, Conversation | None, Heard]:
        """The answer as it is wanted, mended where it can be."""
        for left in reversed(range(REPAIRS_MAX + 1)):
            conversation = self._conversation(heard, known)
            try:
                content, value = read_answer(self._task, ModelReply(content=heard.answer or ""))
                return content, value, conversation, heard
            except Unusable as problem:
                if not left:
                    raise EngineError(
                        Code.AGENT_OUTPUT_INVALID,
                        cut_middle(f"the answer is not the JSON that is wanted: {problem}", _ERROR_MAX_CHARS),
                        self._usage,
                    ) from None
                complaint = cut_middle(_MEND.format(problem=problem), _ERROR_MAX_CHARS)
            heard, known = await self._ask(bridge, complaint, conversation), conversation
        raise AssertionError("the last round answers or raises")

    async def _ask(self, bridge: Bridge, prompt: str, conversation: Conversation | None) -> Heard:
        """One start of the program, to its end. Raises EngineError."""
        engine, config = self._engine, self._request.config.engine
        left_ms = int((self._deadline - monotonic()) * 1000)
        if left_ms <= 0:
            raise self._too_late()
        ask = Ask(
            task=self._task,
            model=config.model,
            api_key=None if config.auth is None else config.auth.api_key,
            prompt=prompt,
            system=context.system_prompt(self._task),
            conversation=conversation,
            keeps=self._request.session_id is not None or self._task.output.mode == "json",
            folder=self._folder,
            workdir=self._workdir,
            url=bridge.url,
            token=bridge.token,
            may_work=self._calls.may_work,
            timeout_ms=left_ms,
        )
        listener = engine.dialect.listener(self._calls, Says(self._task, self._output))
        try:
            ended = await self._run(ask, listener)
        finally:
            await asyncio.to_thread(engine.dialect.clean, ask)
        listener.finish()
        self._calls.close()
        self._count(listener.heard, conversation)
        return self._checked(listener, ended, conversation)

    async def _run(self, ask: Ask, listener: Listener[Any]) -> Ended:
        engine = self._engine
        arguments, env = await asyncio.to_thread(engine.dialect.start, ask, engine.cli.environment)
        start = Start(
            arguments=arguments,
            env=env,
            workdir=self._workdir,
            prompt=ask.prompt,
            timeout_ms=ask.timeout_ms,
            halt=self._halt,
        )
        return await engine.cli.run(start, listener.feed)

    def _checked(self, listener: Listener[Any], ended: Ended, conversation: Conversation | None) -> Heard:
        """What was heard, where there is an answer. Raises EngineError."""
        heard = listener.heard
        if self._over is not None:
            raise EngineError(self._over.code, self._over.message, self._usage)
        if ended.exit_code is None:
            raise self._too_late()
        if conversation is not None and not heard.has_begun:
            return heard
        if heard.failure is not None:
            message = cut_middle(heard.failure.message, _ERROR_MAX_CHARS)
            raise EngineError(heard.failure.code, message, self._usage)
        if heard.answer is None or ended.exit_code != 0 or ended.is_cut:
            raise EngineError(Code.EXECUTOR_CLI_FAILED, self._what_happened(listener, ended), self._usage)
        return heard

    def _what_happened(self, listener: Listener[Any], ended: Ended) -> str:
        name = self._engine.cli.name
        told = f"`{name}` ended with status {ended.exit_code}"
        if ended.is_cut:
            told += " and printed more than is read"
        elif listener.heard.answer is None:
            told += " and gave no answer"
        # The end says more than the beginning does.
        said = ended.stderr[-_ERROR_MAX_CHARS:] or listener.unread
        return f"{told}: {said}" if said else told

    def _too_late(self) -> EngineError:
        limit = self._task.limits.timeout_ms
        return EngineError(Code.NODE_EXECUTION_TIMEOUT, f"no answer within {limit} ms", self._usage)

    def _end(self, reason: EngineError) -> None:
        if self._over is None:
            self._over = reason
            if not self._halt.done():
                self._halt.set_result(None)

    # --- what it took ------------------------------------------------------------------------------------------------

    def _count(self, heard: Heard, conversation: Conversation | None) -> None:
        if heard.usage is not None:
            before = None
            if self._engine.dialect.counts_all and conversation is not None:
                before = conversation.usage
            self._usage = _sum(self._usage, _since(heard.usage, before or NO_USAGE))
        if heard.cost_usd is not None:
            self._cost_usd = (self._cost_usd or 0.0) + heard.cost_usd

    def _conversation(self, heard: Heard, known: Conversation | None) -> Conversation | None:
        """To go on with, within this turn or in the next one."""
        name = heard.conversation or (None if known is None else known.id)
        if name is None:
            return None
        usage = heard.usage if self._engine.dialect.counts_all else None
        return Conversation(id=name, workdir=str(self._workdir), exchange="", before=0, usage=usage)

    def _kept(self, conversation: Conversation, content: str) -> Conversation:
        return msgspec.structs.replace(
            conversation,
            exchange=exchange(self._request.message, content),
            before=place(self._request.history),
        )

    def _answered(self, heard: Heard, content: str, value: object) -> TurnAnswer:
        is_json = self._task.output.mode == "json"
        is_cut = not is_json and len(content) < len(heard.answer or "")
        payload: dict[str, object] = {
            "provider": self._engine.dialect.provider,
            "model": heard.model or self._request.config.engine.model,
            "stopReason": "length" if is_cut else heard.stop_reason,
            "usage": msgspec.to_builtins(self._usage),
        }
        if self._cost_usd is not None:
            payload["costUsd"] = self._cost_usd
        return TurnAnswer(content, payload, value=value if is_json else msgspec.UNSET, usage=self._usage)


def _check(task: LoopTask) -> None:
    try:
        if task.output.json_schema is not None:
            check_schema(task.output.json_schema)
    except BadSchema as error:
        raise EngineError(Code.INVALID_EXECUTE_PAYLOAD, f"output.jsonSchema: {error}") from None


def _told(task: LoopTask) -> str:
    """The message, with what was said before as text where there is any."""
    fitting = context.fit(task, context.begin_with_user(task.history), ())
    if fitting is None:
        limit = task.limits.max_runtime_chars
        raise EngineError(
            Code.AGENT_MAX_RUNTIME_CHARS, f"what the model has to be given has more than {limit} characters"
        )
    if not fitting.history:
        return task.message
    said = "\n\n".join(
        f"[{'assistant' if isinstance(entry, Assistant) else 'user'}]\n{entry.content}"
        for entry in fitting.history
        if not isinstance(entry, ToolResult)
    )
    return (
        "This conversation has gone on for a while. What was said so far:\n\n"
        f"<conversation>\n{said}\n</conversation>\n\nThe user's next message:\n\n{task.message}"
    )


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        input_tokens=one.input_tokens + other.input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        total_tokens=one.total_tokens + other.total_tokens,
    )


def _since(usage: Usage, before: Usage) -> Usage:
    return Usage(
        input_tokens=max(usage.input_tokens - before.input_tokens, 0),
        output_tokens=max(usage.output_tokens - before.output_tokens, 0),
        total_tokens=max(usage.total_tokens - before.total_tokens, 0),
    )
