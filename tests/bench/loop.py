"""What a turn of the agent loop costs us: the driver with a model and a tool that answer at once, beside JSON alone.

A turn is a call of the model and of one tool with 1,000 characters of answer, kept twice as a host keeps it. The
floor is to encode what is kept, twice: the least that a loop which can be taken out again has to do.
"""

import statistics
import time
from collections.abc import AsyncGenerator

import msgspec
from tests.bench.report import Figure, figure

from vespid_runtime.engines.drive import Asks, Drive
from vespid_runtime.loop.effects import Finished
from vespid_runtime.loop.task import LoopLimits, LoopTask
from vespid_runtime.models.types import Done, ModelReply, ModelRequest, Piece, TextDelta, ToolCall
from vespid_runtime.tools.approval import Approvals
from vespid_runtime.tools.tool import ToolUse
from vespid_runtime.tools.toolbox import Toolbox

TURNS = 100
ROUNDS = 5
_KEEPS = 2


class _Model:
    """Wants the tool once more, until it has had enough."""

    async def infer(self, request: ModelRequest) -> ModelReply:
        raise NotImplementedError

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece, None]:
        said = len(request.messages) // 2
        yield TextDelta(text="Let me look.")
        wanted = (ToolCall(id=f"c{said}", name="look", arguments=f'{{"n":{said}}}'),) if said < TURNS else ()
        yield Done(reply=ModelReply(content="Let me look.", tool_calls=wanted))


class _Tool:
    id = "look"
    description = "Look."
    secrets = ()
    input_schema: dict[str, object] = {"type": "object", "properties": {"n": {"type": "integer"}}}  # noqa: RUF012

    async def call(self, arguments: dict[str, object], use: ToolUse) -> object:
        return f"{arguments['n']} ".ljust(1_000, "x")


class _Host:
    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def delta(self, text: str) -> None:
        """Nobody listens."""

    def event(self, kind: str, level: str, message: str | None, payload: object) -> None:
        """Nobody listens."""

    async def keep(self, state: bytes) -> None:
        self.kept.append(state)


async def loop(_at: object, _floors: object) -> dict[str, Figure]:
    """Of a loop of a hundred turns whose context grows to 100,000 characters."""
    took, floor = [], []
    for _ in range(ROUNDS):
        host = _Host()
        box = Toolbox([_Tool()])
        task = LoopTask(
            message="Look.",
            tools=box.infos,
            allow=("look",),
            limits=LoopLimits(max_turns=2 * TURNS, max_tool_calls=2 * TURNS),
        )
        asks = Asks(model=_Model(), provider="openai", name="none")
        began = time.process_time()
        end = await Drive(task, asks, box, host, key="bench", approvals=Approvals()).run()
        took.append((time.process_time() - began) * 1000 / TURNS)
        if not isinstance(end, Finished):
            raise RuntimeError(f"the loop ended with {end}")
        kept = [msgspec.json.decode(state) for state in host.kept[::_KEEPS]]
        began = time.process_time()
        for state in kept:
            for _ in range(_KEEPS):
                msgspec.json.encode(state)
        floor.append((time.process_time() - began) * 1000 / TURNS)
    return {"loop_turn_cpu_ms": figure(statistics.median(took), "ms of CPU", statistics.median(floor))}
