"""A loop that is killed wherever it can be, and taken out again: nothing that had finished is done a second time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vespid_runtime.engines.drive import monotonic_ms
from vespid_runtime.loop.effects import Finished
from vespid_runtime.loop.keeping import take_out
from vespid_runtime.loop.state import Loop
from vespid_runtime.tools.tool import ToolUse

from .conftest import KEY, FakeTool, Heard, ScriptedModel, call, drive, out_of, say

# Rounds of every kind: one call, several, refused ones, a silence, an answer at last.
STEPS = (
    say("First.", call("look", "a", n=0)),
    say("", call("look", "b", n=1), call("write", "c", n=2), call("nothing", "d")),
    say(""),
    say("", call("write", "a", n=3)),
    say("All done."),
)
ANSWER = "All done."


class Killed(BaseException):
    """The process dies."""


@dataclass
class World:
    """What is there whatever dies: the disk, and what was done outside."""

    kept: bytes | None = None
    # Every time a tool was called, and every result that was kept, by key.
    done: list[str] = field(default_factory=list)
    model_calls: list[int] = field(default_factory=list)


class Dying(Heard):
    """A host that dies at one of the moments at which the loop is kept: before the state is there, or after."""

    def __init__(self, world: World, dies_at: int, *, is_kept: bool) -> None:
        super().__init__()
        self._world = world
        self._left = dies_at
        self._is_kept = is_kept

    async def keep(self, state: bytes) -> None:
        await super().keep(state)
        self._left -= 1
        if self._left < 0 and not self._is_kept:
            raise Killed
        self._world.kept = state
        if self._left < 0:
            raise Killed


async def live(world: World, heard: Heard) -> str | None:
    """One try. The answer, or None where it died."""

    async def work(arguments: dict[str, object], use: ToolUse) -> object:
        await asyncio.sleep(0)
        world.done.append(f"{use.key} {msgspec.json.encode(arguments).decode()}")
        return {"did": arguments["n"]}

    model = ScriptedModel(*STEPS)
    turn = drive(model, FakeTool("look", work), FakeTool("write", work), heard=heard)
    resume = None if world.kept is None else out_of(world.kept, monotonic_ms())
    try:
        end = await turn.run(resume)
    except Killed:
        return None
    finally:
        world.model_calls += [len(request.messages) for request in model.asked]
    assert isinstance(end, Finished)
    return end.content


def finished_calls(kept: bytes | None) -> set[int]:
    """The places of the calls that nobody may make again."""
    if kept is None:
        return set()
    loop = out_of(kept, monotonic_ms())
    return set(range(loop.calls)) - {each.n for each in loop.unanswered}


@settings(max_examples=150, deadline=None)
@given(deaths=st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=6))
def test_killed_at_any_keeping_it_ends_the_same_and_repeats_nothing_that_had_finished(
    deaths: list[tuple[int, bool]],
) -> None:
    async def play() -> None:
        world = World()
        answer = None
        for dies_at, is_kept in deaths:
            finished, before = finished_calls(world.kept), len(world.done)
            answer = await live(world, Dying(world, dies_at, is_kept=is_kept))
            repeated = {int(done.removeprefix(f"{KEY}:tool:").split(" ")[0]) for done in world.done[before:]}
            assert not repeated & finished
            if answer is not None:
                break
        if answer is None:
            answer = await live(world, Heard())
        assert answer == ANSWER
        # The same call has the same key and the same arguments, however often it had to be made.
        assert len(set(world.done)) == 4

    asyncio.run(play())


async def test_every_step_of_the_model_and_every_call_is_made_once_where_the_state_was_kept() -> None:
    world = World()
    dies_at = 0
    while await live(world, Dying(world, 1, is_kept=True)) is None:
        dies_at += 1
        assert dies_at < 20
    assert dies_at > 3
    assert sorted(world.done) == sorted(set(world.done))
    # Asked again is only what was not answered: a host that dies before it asks has not asked.
    assert len(world.model_calls) == len(set(world.model_calls)) == len(STEPS)


async def test_taken_out_loop_is_kept_before_anything_is_started() -> None:
    world = World()
    assert await live(world, Dying(world, 0, is_kept=True)) is None
    state, heard = world.kept, Heard()
    assert state is not None
    assert await live(world, heard) == ANSWER
    assert out_of(heard.kept[0], 0).open == out_of(state, 0).open


async def test_each_try_has_the_whole_of_the_time() -> None:
    loop = take_out(await kept_calling(), 250, now_ms=10_000_000)
    assert loop is not None
    assert loop.deadline_ms == 10_000_250


async def kept_calling() -> bytes:
    """A loop that waits for one call of `look`."""
    world = World()
    assert await live(world, Dying(world, 0, is_kept=True)) is None
    assert world.kept is not None
    return world.kept


async def resumed(state: bytes, *tools: FakeTool, **fields: object) -> tuple[ScriptedModel, Loop]:
    """A loop with one call outstanding, taken out and driven to its end."""
    model, loop = ScriptedModel(say("", call()), say("End.")), out_of(state, monotonic_ms())
    end = await drive(model, *tools, **fields).run(loop)  # type: ignore[arg-type]
    assert isinstance(end, Finished)
    return model, loop


async def test_outstanding_call_that_is_not_allowed_any_more_is_refused() -> None:
    look = FakeTool()
    model, _ = await resumed(await kept_calling(), look, allow=("write",))
    assert (model.told, look.uses) == ({"a": "TOOL_NOT_ALLOWED:look"}, [])


async def test_outstanding_call_of_a_tool_that_is_not_there_any_more_is_refused() -> None:
    model, _ = await resumed(await kept_calling(), FakeTool("write"))
    assert model.told["a"].startswith("UNKNOWN_TOOL")


@pytest.mark.parametrize("arguments", ["no JSON", "[]", '{"n":"zero"}', '{"n":1,"more":2}'])
async def test_outstanding_call_whose_arguments_were_changed_on_the_way_is_held_to_the_schema(arguments: str) -> None:
    changed = msgspec.json.decode(await kept_calling())
    changed["open"][0]["arguments"] = arguments
    look = FakeTool(
        input_schema={"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False}
    )
    model, _ = await resumed(msgspec.json.encode(changed), look)
    assert (model.told["a"].startswith("INVALID_TOOL_ARGUMENTS"), look.uses) == (True, [])
