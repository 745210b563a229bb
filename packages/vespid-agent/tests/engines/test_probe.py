"""Programs looked at: present, of a version, with the options that are needed, logged in."""

import json

import pytest

from vespid_agent.engines import probe
from vespid_agent.engines.claude import ClaudeCode
from vespid_agent.engines.probe import Probe
from vespid_agent.engines.turn import CliEngine
from vespid_agent.logs import get_logger
from vespid_protocol.frames import EngineState

from .conftest import Bench

OPTIONS = " ".join(ClaudeCode.needed)


def like_claude(*, version: str = "2.1.330 (Claude Code)", options: str = OPTIONS, login: int = 0) -> str:
    return f"""case "$*" in
    --version) echo '{version}' ;;
    --help) echo '{options}' ;;
    'auth status') exit {login} ;;
    *) exit 99 ;;
    esac"""


async def look(bench: Bench, *engines: CliEngine) -> tuple[EngineState, ...]:
    found = Probe(engines, bench.folders, get_logger("test"))
    assert await found.look()
    assert found.states is not None
    # Nothing is other than before.
    assert not await found.look()
    return found.states


async def test_a_program_that_works_is_offered(bench: Bench) -> None:
    path = bench.script("claude", like_claude())
    (state,) = await look(bench, bench.claude(path))
    assert state == EngineState(
        id="claude.agent-sdk.v1", available=True, version="2.1.330", logged_in=True, path=str(path)
    )


async def test_one_that_is_not_logged_in_is_offered_and_says_what_to_do(bench: Bench) -> None:
    (state,) = await look(bench, bench.claude(bench.script("claude", like_claude(login=1))))
    assert (state.available, state.logged_in) == (True, False)
    assert "claude auth login" in (state.problem or "")


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (like_claude(version="not a version"), "'not a version'"),
        ("echo 2.0.0; exit 3", "ended with status 3"),
        (like_claude(options="--tools"), "has no --restricted"),
        ("exec 2>&1; head -c 3000000 /dev/zero | tr '\\0' x", "and said: 'xxx"),
        ("sleep 600", "did not end within"),
    ],
    ids=["no version", "fails", "too old", "floods", "hangs"],
)
async def test_one_that_cannot_be_used_is_not_offered_and_says_why(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, script: str, problem: str
) -> None:
    monkeypatch.setattr(probe, "PATIENCE_MS", 1_500)
    (state,) = await look(bench, bench.claude(bench.script("claude", script)))
    assert not state.available
    assert problem in (state.problem or "")
    assert len(state.problem or "") <= 500
    assert bench.processes() == []


async def test_one_that_is_missing_names_the_variable(bench: Bench) -> None:
    states = await look(bench, bench.claude(bench.root / "nowhere"), bench.codex(bench.root / "nowhere"))
    assert [(state.available, state.path) for state in states] == [(False, None), (False, None)]
    assert "VESPID_CLAUDE_CODE_PATH" in (states[0].problem or "")
    assert "VESPID_CODEX_PATH" in (states[1].problem or "")


async def test_what_was_found_is_known_at_the_next_start(bench: Bench) -> None:
    path = bench.script("claude", like_claude())
    states = await look(bench, bench.claude(path))
    again = Probe([bench.claude(path)], bench.folders, get_logger("test"))
    again.recall()
    assert again.states == states
    assert again.usable == ("claude.agent-sdk.v1",)
    # Not where the program is gone meanwhile.
    path.unlink()
    without = Probe([bench.claude(path)], bench.folders, get_logger("test"))
    without.recall()
    assert without.states is None


@pytest.mark.clis
async def test_the_real_ones_are_found_to_be_logged_in_by_a_key(bench: Bench, request: pytest.FixtureRequest) -> None:
    claude, codex = (request.getfixturevalue(f"{name}_program") for name in ("claude", "codex"))
    states = await look(bench, bench.claude(claude), bench.codex(codex))
    assert [(state.available, state.logged_in) for state in states] == [(True, False), (True, False)]
    with_keys = bench.claude(claude, ANTHROPIC_API_KEY="sk-x"), bench.codex(codex, CODEX_API_KEY="sk-x")
    states = await look(bench, *with_keys)
    assert [(state.available, state.logged_in, state.problem) for state in states] == [(True, True, None)] * 2
    assert json.dumps([state.version for state in states]) == '["2.1.330", "0.169.0"]'
