"""Calls that people have to allow: the loop is put away, and goes on as they decide."""

from __future__ import annotations

import msgspec
import pytest

from vespid_runtime.engines.drive import monotonic_ms
from vespid_runtime.engines.engine import EngineParked
from vespid_runtime.loop.effects import Finished
from vespid_runtime.loop.prior import digest
from vespid_runtime.tools.approval import ApprovalAsked, ApprovalDecided, ApprovalRule, Approvals

from .conftest import KEY, FakeTool, Heard, ScriptedModel, call, drive, out_of, say

RULES = {"write": ApprovalRule(by="owner", timeout_ms=60_000)}


def decided(
    asked: ApprovalAsked, decision: str = "approved", comment: str | None = None, **other: object
) -> ApprovalDecided:
    given = {"n": asked.n, "tool": asked.tool, "digest": asked.digest, "decision": decision, "comment": comment}
    return ApprovalDecided(**(given | other))  # type: ignore[arg-type]


class Turn:
    """One turn over its tries: the same tools and the same script."""

    def __init__(self, *steps: object) -> None:
        self.model = ScriptedModel(*steps)  # type: ignore[arg-type]
        self.look, self.write = FakeTool("look"), FakeTool("write")

    async def ask(
        self, parked: EngineParked | None = None, *decisions: ApprovalDecided, heard: Heard | None = None
    ) -> object:
        turn = drive(self.model, self.look, self.write, heard=heard, approvals=Approvals(RULES, decisions))
        return await turn.run(None if parked is None else out_of(parked.state, monotonic_ms()))

    async def parks(self, *given: object, heard: Heard | None = None) -> EngineParked:
        with pytest.raises(EngineParked) as parked:
            await self.ask(*given, heard=heard)  # type: ignore[arg-type]
        return parked.value

    async def answers(self, *given: object) -> str:
        end = await self.ask(*given)  # type: ignore[arg-type]
        assert isinstance(end, Finished)
        return end.content


async def test_call_that_needs_a_person_is_asked_for_and_not_made() -> None:
    turn, heard = Turn(say("", call("write", "w", text="hello")), say("Written.")), Heard()
    parked = await turn.parks(heard=heard)
    (asked,) = parked.asked
    assert asked == ApprovalAsked(
        n=0, tool="write", arguments={"text": "hello"}, digest=digest({"text": "hello"}), by="owner", timeout_ms=60_000
    )
    assert turn.write.uses == []
    assert [kind for kind, _ in heard.events] == ["tool_call"]
    assert parked.usage is not None
    assert parked.usage.total_tokens == 12


async def test_approved_call_is_made_under_its_key_and_the_model_is_not_asked_again_for_it() -> None:
    turn = Turn(say("", call("write", "w", text="hello")), say("Written."))
    parked = await turn.parks()
    assert await turn.answers(parked, decided(parked.asked[0])) == "Written."
    assert (turn.write.keys, len(turn.model.asked)) == ([f"{KEY}:tool:0"], 2)


@pytest.mark.parametrize(
    ("decision", "comment", "told"),
    [
        ("denied", None, "APPROVAL_DENIED: a person did not allow this call"),
        ("denied", "not on a Friday", "APPROVAL_DENIED: a person did not allow this call: not on a Friday"),
        ("expired", None, "APPROVAL_EXPIRED: nobody allowed this call in time"),
    ],
)
async def test_call_that_was_not_approved_is_told_to_the_model(decision: str, comment: str | None, told: str) -> None:
    turn = Turn(say("", call("write", "w")), say("Then not."))
    parked = await turn.parks()
    assert await turn.answers(parked, decided(parked.asked[0], decision, comment)) == "Then not."
    assert (turn.write.uses, turn.model.told) == ([], {"w": told})
    assert turn.model.asked[-1].messages[-1].is_error  # type: ignore[union-attr]


async def test_of_a_mixed_round_what_nobody_has_to_allow_is_done_first_and_only_once() -> None:
    turn, heard = Turn(say("", call("look", "a"), call("write", "b"), call("look", "c")), say("Both.")), Heard()
    parked = await turn.parks(heard=heard)
    assert ([asked.n for asked in parked.asked], turn.look.keys) == ([1], [f"{KEY}:tool:0", f"{KEY}:tool:2"])
    assert [kind for kind, _ in heard.events] == ["tool_call"] * 3 + ["tool_result"] * 2
    assert await turn.answers(parked, decided(parked.asked[0])) == "Both."
    assert (len(turn.look.uses), turn.write.keys) == (2, [f"{KEY}:tool:1"])
    assert list(turn.model.told) == ["a", "b", "c"]


async def test_calls_that_all_wait_are_asked_for_together_and_parked_again_for_what_is_left() -> None:
    turn = Turn(say("", call("write", "a", n=1), call("write", "b", n=2)), say("Both."))
    first = await turn.parks()
    assert [asked.n for asked in first.asked] == [0, 1]
    second = await turn.parks(first, decided(first.asked[0]))
    assert ([asked.n for asked in second.asked], turn.write.keys) == ([1], [f"{KEY}:tool:0"])
    decisions = (decided(first.asked[0]), decided(second.asked[0], "denied"))
    assert await turn.answers(second, *decisions) == "Both."
    assert (turn.write.keys, turn.model.told["b"][:15]) == ([f"{KEY}:tool:0"], "APPROVAL_DENIED")


async def test_nothing_is_told_twice_as_used() -> None:
    turn = Turn(say("", call("write", "w")), say("", call("write", "v", n=2)), say("Written."))
    first = await turn.parks()
    second = await turn.parks(first, decided(first.asked[0]))
    assert [parked.usage and parked.usage.total_tokens for parked in (first, second)] == [12, 12]


@pytest.mark.parametrize("other", [{"digest": digest({"text": "other"})}, {"n": 1}, {"tool": "look"}])
async def test_decision_about_another_call_allows_nothing(other: dict[str, object]) -> None:
    turn = Turn(say("", call("write", "w", text="hello")), say("Written."))
    parked = await turn.parks()
    again = await turn.parks(parked, decided(parked.asked[0], **other))
    assert (again.asked, turn.write.uses) == (parked.asked, [])


async def test_arguments_that_were_changed_while_it_was_put_away_are_asked_for_anew() -> None:
    turn = Turn(say("", call("write", "w", text="hello")), say("Written."))
    parked = await turn.parks()
    changed = msgspec.json.decode(parked.state)
    # The digest is left as it was approved.
    changed["open"][0]["arguments"] = '{"text":"goodbye"}'
    forged = EngineParked(msgspec.json.encode(changed), parked.asked)
    again = await turn.parks(forged, decided(parked.asked[0]))
    assert (again.asked[0].arguments, again.asked[0].digest != parked.asked[0].digest) == ({"text": "goodbye"}, True)
    assert turn.write.uses == []


async def test_rule_with_the_longest_pattern_holds() -> None:
    approvals = Approvals(
        {"connector.*": ApprovalRule(by="member"), "connector.github.*": ApprovalRule(by="owner"), "*": ApprovalRule()}
    )
    rules = [approvals.rule(tool) for tool in ("connector.github.issue.create", "connector.http.request", "shell.run")]
    assert [rule and rule.by for rule in rules] == ["owner", "member", "admin"]
    assert Approvals().rule("shell.run") is None
