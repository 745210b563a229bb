"""Programs that misbehave, in the place of Claude Code: the turn always has an end that says why."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from vespid_agent.engines import lines
from vespid_agent.engines.programs import programs_of
from vespid_agent.logs import get_logger
from vespid_agent.sandbox import process_tree
from vespid_agent.settings import AgentSettings
from vespid_agent.testing.running import appears
from vespid_protocol.codes import Code
from vespid_runtime.engines.config import Auth
from vespid_runtime.engines.engine import EngineError

from .conftest import Bench, Heard, Notes, Shell

INIT = '{"type":"system","subtype":"init","session_id":"c1","model":"m"}'
DONE = '{"type":"result","subtype":"success","is_error":false,"result":"fine","session_id":"c1"}'


def printing(*said: str) -> str:
    return "\n".join(f"printf '%s\\n' '{line}'" for line in said)


async def answer(bench: Bench, heard: Heard, script: str, **more: object) -> str:
    engine = bench.claude(bench.script("claude", script))
    return (await engine.turn(bench.request(**more), heard)).content  # type: ignore[arg-type]


async def failure(bench: Bench, heard: Heard, script: str, **more: object) -> EngineError:
    with pytest.raises(EngineError) as raised:
        await answer(bench, heard, script, **more)
    assert bench.processes() == []
    return raised.value


async def test_a_program_that_is_not_there_is_named_with_its_variable(bench: Bench, heard: Heard) -> None:
    with pytest.raises(EngineError, match=r"VESPID_CLAUDE_CODE_PATH names .*nowhere") as raised:
        await bench.claude(bench.root / "nowhere").turn(bench.request(), heard)
    assert raised.value.code == Code.EXECUTOR_CLI_NOT_FOUND
    bench.environment["PATH"] = str(bench.root)
    with pytest.raises(EngineError, match=r"no `codex` in the agent's PATH.*VESPID_CODEX_PATH") as raised:
        await bench.codex(None).turn(bench.request(), heard)
    assert raised.value.code == Code.EXECUTOR_CLI_NOT_FOUND


async def test_a_program_is_found_in_the_path(bench: Bench, heard: Heard) -> None:
    bench.script("claude", printing(INIT, DONE))
    bench.environment["PATH"] = f"{bench.root}{os.pathsep}{bench.environment['PATH']}"
    assert (await bench.claude(None).turn(bench.request(), heard)).content == "fine"


async def test_a_managed_agent_lends_its_login_to_nobody(bench: Bench, heard: Heard) -> None:
    bench.script("claude", printing(INIT, DONE))
    environment = bench.environment | {"PATH": f"{bench.root}{os.pathsep}{bench.environment['PATH']}"}
    programs = programs_of(AgentSettings(), "managed", bench.root / "engines", environment, get_logger("test"))
    engine = programs.engines[0]
    with pytest.raises(EngineError) as raised:
        await engine.turn(bench.request(), heard)
    assert raised.value.code == Code.LLM_AUTH_NOT_CONFIGURED
    with_key = bench.request(auth=Auth(kind="api_key", api_key="sk-of-the-turn"))
    assert (await engine.turn(with_key, heard)).content == "fine"


async def test_garbage_between_lines_is_passed_over(bench: Bench, heard: Heard) -> None:
    garbage = ("warning: something", "{", "[]", "null", '{"type":5}', '{"kind":"other"}', "[" * 5_000)
    assert await answer(bench, heard, printing(*garbage, INIT, *garbage, DONE)) == "fine"


async def test_bytes_that_are_no_text_are_passed_over(bench: Bench, heard: Heard) -> None:
    assert await answer(bench, heard, f"{printing(INIT)}\nprintf '\\377\\000\\n'\n{printing(DONE)}") == "fine"


async def test_a_line_of_ten_megabytes_is_passed_over(bench: Bench, heard: Heard) -> None:
    result = f"head -c {lines.LINE_MAX_CHARS + 2_000_000} /dev/zero | tr '\\0' x; echo"
    call = '{"type":"assistant","message":{"content":[{"type":"tool_use","id":"t1","name":"Read","input":{"a":1}}]}}'
    assert await answer(bench, heard, f"{printing(INIT, call)}\n{result}\n{printing(DONE)}", tools=[Shell()]) == "fine"
    # Its result was in there.
    (told,) = heard.told("tool_result")
    assert (told["isError"], told["content"]) == (True, "the program ended before it said what came of this")


async def test_an_answer_that_is_too_long_to_read_fails_and_says_so(bench: Bench, heard: Heard) -> None:
    zeros = f"head -c {lines.LINE_MAX_CHARS} /dev/zero | tr '\\0' x"
    long = f"""printf '{{"type":"result","result":"'; {zeros}; echo '"}}'"""
    error = await failure(bench, heard, f"{printing(INIT)}\n{long}")
    assert error.code == Code.EXECUTOR_CLI_FAILED
    assert "lines longer than" in error.message


async def test_a_program_that_ends_without_an_answer_is_told_with_its_last_words(bench: Bench, heard: Heard) -> None:
    script = f"{printing(INIT)}\nseq 1 100000 >&2\necho 'it broke at last' >&2\nexit 7"
    error = await failure(bench, heard, script)
    assert error.code == Code.EXECUTOR_CLI_FAILED
    assert "ended with status 7 and gave no answer" in error.message
    assert error.message.endswith("it broke at last")
    assert len(error.message) < 3_000


async def test_a_program_that_answers_and_then_fails_has_failed(bench: Bench, heard: Heard) -> None:
    error = await failure(bench, heard, f"{printing(INIT, DONE)}\nexit 3")
    assert "ended with status 3" in error.message


async def test_a_program_that_cannot_be_executed_is_told(bench: Bench, heard: Heard) -> None:
    path = bench.script("claude", "")
    path.write_text("#!/nowhere/at/all\n")
    with pytest.raises(EngineError) as raised:
        await bench.claude(path).turn(bench.request(), heard)
    assert raised.value.code == Code.EXECUTOR_CLI_FAILED


async def test_a_program_that_takes_no_notice_of_sigterm_is_killed_when_its_time_is_over(
    bench: Bench, heard: Heard
) -> None:
    script = f"trap '' TERM\n{printing(INIT)}\n(trap '' TERM; setsid sleep 600) &\nsleep 600"
    error = await failure(bench, heard, script, limits={"timeout_ms": 1_500})
    assert error.code == Code.NODE_EXECUTION_TIMEOUT


async def test_cancelling_ends_what_left_the_group(bench: Bench, heard: Heard) -> None:
    script = f"{printing(INIT)}\nsetsid sh -c 'sleep 600' &\ntouch begun\nwait"
    turn = asyncio.create_task(answer(bench, heard, script))
    await appears(bench.work / "begun")
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    assert bench.processes() == []


async def test_too_many_calls_of_its_own_tools_end_the_turn(bench: Bench, heard: Heard) -> None:
    call = '{"type":"assistant","message":{"content":[{"type":"tool_use","id":"%d","name":"Read","input":{}}]}}'
    script = f"{printing(INIT, *(call % n for n in range(5)))}\nsleep 600"
    error = await failure(bench, heard, script, tools=[Shell()], limits={"max_tool_calls": 3})
    assert error.code == Code.AGENT_MAX_TOOL_CALLS
    assert len(heard.told("tool_call")) == 3


async def test_what_it_is_told_is_on_no_command_line_and_gone_afterwards(bench: Bench, heard: Heard) -> None:
    script = (
        f"{printing(INIT)}\ntr '\\0' '\\n' </proc/$$/cmdline >args\nenv >env\ncat >prompt\n"
        f'cat "$(dirname "$TMPDIR/x")"/* >files; ls -ld "$TMPDIR" >mode\n{printing(DONE)}'
    )
    prompt = "CANARY-PROMPT with 'quotes' $(touch ran) `touch ran`\nEND\nEOF\n" + "x" * 200_000
    os.environ["VESPID_CANARY"] = "CANARY-OURS"
    try:
        bench.environment |= {"VESPID_AGENT_EXECUTOR_TOKEN": "CANARY-OURS", "AWS_SECRET_ACCESS_KEY": "CANARY-CLOUD"}
        await answer(bench, heard, script, message=prompt, tools=[Notes()])
    finally:
        del os.environ["VESPID_CANARY"]
    assert (bench.work / "prompt").read_text() == prompt + "\n"
    assert not (bench.work / "ran").exists()
    arguments, files = (bench.work / "args").read_text(), (bench.work / "files").read_text()
    assert "CANARY" not in arguments
    assert "Be brief." in files
    token = json.loads(files[files.index("{") : files.rindex("}") + 1])["mcpServers"]["vespid"]["headers"]
    assert token["Authorization"].removeprefix("Bearer ") not in arguments
    environment = (bench.work / "env").read_text()
    assert "CANARY" not in environment
    assert [line for line in environment.splitlines() if line.startswith("VESPID_")] == [
        line for line in environment.splitlines() if line.startswith(f"{process_tree.TOKEN_VARIABLE}=")
    ]
    assert (bench.work / "mode").read_text().startswith("drwx------")
    assert list((bench.root / "engines" / "turns").iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="a keeper is Linux's")
async def test_the_death_of_the_agent_ends_the_program(bench: Bench, tmp_path: Path) -> None:
    program = bench.script("claude", f"{printing(INIT)}\ntouch begun\nsleep 600")
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", _AGENT, str(program), str(bench.root))
    await appears(bench.work / "begun")
    assert bench.processes() != []
    agent.send_signal(signal.SIGKILL)
    await agent.wait()
    async with asyncio.timeout(20):
        while bench.processes():
            await asyncio.sleep(0.05)


_AGENT = """
import asyncio, os, sys
from pathlib import Path
from vespid_agent.engines.cli import Cli, Start

program, root = Path(sys.argv[1]), Path(sys.argv[2])
start = Start(arguments=("-p",), env={"TMPDIR": str(root)}, workdir=root / "work", timeout_ms=600_000)
asyncio.run(Cli("claude", "X", program, os.environ, 200).run(start, lambda text: None))
"""
