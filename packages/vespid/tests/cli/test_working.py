"""`vespid agent`, `workflow`, `run`, `approve`, `session`, `doctor`: the real program, with a real agent."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from tests.support.client_stack import Installed
from tests.support.command_line import CommandLine, Said
from tests.support.forward import line_to
from tests.support.processes import free_port

YAML = """\
name: {name}
dsl:
  version: v2
  trigger: {{type: trigger.manual}}
  nodes:
    - id: build
      type: agent.execute
{extra}
      config:
        execution: {{mode: executor}}
        task:
          type: shell
          script: |
            {script}
"""
SCRIPTED = """
    update sessions set engine_id = 'vespid.scripted.v1', engine = jsonb_set(engine, '{id}', '"vespid.scripted.v1"'),
           requirement = jsonb_set(requirement, '{engine}', '"vespid.scripted.v1"')
    where id = $1
"""


def workflow(vespid: CommandLine, name: str, script: str, extra: str = "") -> str:
    """A file with a workflow of one shell task."""
    file = vespid.folder / f"{name}.yaml"
    file.write_text(YAML.format(name=name, script=script, extra=f"      {extra}" if extra else ""))
    return str(file)


async def published(vespid: CommandLine, name: str, script: str, extra: str = "") -> None:
    await vespid("workflow", "apply", "-f", workflow(vespid, name, script, extra), "--publish")


async def scripted_session(installed: Installed, vespid: CommandLine, peer: str) -> str:
    """A session of the engine that does what the message says; people cannot ask for it."""
    said = await vespid(
        "session", "new", "--title", peer, "--scope", "per-peer", "--peer", peer, "--engine", "vespid.echo.v1"
    )
    session_id = said.out.strip()
    connection = await asyncpg.connect(installed.processes.env["DATABASE_URL"])
    try:
        await connection.execute(SCRIPTED, UUID(session_id))
    finally:
        await connection.close()
    return session_id


# --- agents ----------------------------------------------------------------------------------------------------------


async def test_agents_are_listed_tagged_and_cordoned_by_name(vespid: CommandLine, installed: Installed) -> None:
    said = await vespid("agent", "ls")
    head, *rows = said.out.splitlines()
    assert head.split()[:2] == ["NAME", "STATUS"]
    assert any(row.startswith("own ") and "online" in row for row in rows)
    assert "\t" not in said.out
    assert "\x1b" not in said.out
    await vespid("agent", "tag", "own", "west", "group:beta")
    found = (await vespid("agent", "ls", "--json")).json["agents"]
    assert next(agent for agent in found if agent["id"] == installed.agent_id)["tags"] == ["west", "group:beta"]
    await vespid("agent", "cordon", "OWN")
    assert "cordoned" in (await vespid("agent", "ls")).out
    await vespid("agent", "uncordon", installed.agent_id)
    await vespid("agent", "tag", "own")
    said = await vespid("agent", "cordon", "owm", status=4)
    assert "Did you mean: own" in said.err


async def test_pairing_prints_commands_that_work_and_waits_for_the_agent(
    vespid: CommandLine, installed: Installed
) -> None:
    process = await vespid.start("agent", "pair", "--wait", "--name", "twin")
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or "connect" not in lines[-1]:
        lines.append((await process.stdout.readline()).decode())
    token = lines[-1].split('--pairing-token "')[1].split('"')[0]
    args = ("connect", "--pairing-token", token, "--api-base", installed.url, "--name", "twin")
    agent = await installed.processes.start_agent(*args, name="twin")
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, b"twin is online" in err) == (0, True), err
    # A second of that name, so that the name alone does not say which.
    token = (await vespid("agent", "pair", "--json")).json["token"]
    args = ("connect", "--pairing-token", token, "--api-base", installed.url, "--name", "twin")
    other = await installed.processes.start_agent(*args, name="other")
    await other.has_printed("welcomed")
    said = await vespid("agent", "revoke", "twin", "--yes", status=2)
    ids = [agent["id"] for agent in (await vespid("agent", "ls", "--json")).json["agents"] if agent["name"] == "twin"]
    assert len(ids) == 2
    assert all(agent_id in said.err for agent_id in ids)
    for agent_id in ids:
        await vespid("agent", "revoke", agent_id, "--yes")
    assert "twin" not in (await vespid("agent", "ls")).out
    assert "twin" in (await vespid("agent", "ls", "--all")).out
    await agent.wait()
    await other.wait()


# --- workflows -------------------------------------------------------------------------------------------------------


async def test_applying_a_file_twice_changes_nothing_and_says_what_it_did(newly: CommandLine) -> None:
    file = workflow(newly, "nightly", "echo one")

    async def apply(*args: str) -> str:
        return (await newly("workflow", "apply", "-f", file, *args, "--json")).json["done"]

    assert [await apply(), await apply()] == ["created", "unchanged"]
    workflow(newly, "nightly", "echo two")
    assert [await apply(), await apply("--publish")] == ["draft updated", "unchanged, published"]
    assert await apply("--publish") == "unchanged"
    workflow(newly, "nightly", "echo three")
    assert await apply() == "new draft of revision 1"
    assert [
        row["revision"] for row in (await newly("workflow", "revisions", "nightly", "--json")).json["workflows"]
    ] == [2, 1]
    await newly("workflow", "publish", "nightly")
    await newly("workflow", "publish", "nightly", status=1)


async def test_a_diff_is_of_lines_and_its_exit_code_says_whether_there_is_one(newly: CommandLine) -> None:
    file = workflow(newly, "nightly", "echo one")
    await newly("workflow", "diff", "-f", file, status=4)
    await newly("workflow", "apply", "-f", file)
    assert (await newly("workflow", "diff", "-f", file)).out == ""
    workflow(newly, "nightly", "echo two")
    said = await newly("workflow", "diff", "-f", file, status=1)
    assert "-        echo one" in said.out
    assert "+        echo two" in said.out
    assert "\x1b" not in said.out


async def test_what_is_wrong_with_a_file_is_said_by_field(newly: CommandLine) -> None:
    file = newly.folder / "wrong.json"
    dsl = {"version": "v2", "trigger": {"type": "trigger.manual"}, "nodes": [{"id": "a", "type": "nope"}]}
    file.write_text(json.dumps({"name": "x", "dsl": dsl}))
    said = await newly("workflow", "validate", "-f", str(file), status=1)
    assert "nodes" in said.err
    file.write_text('{"name": "x"')
    assert "no JSON" in (await newly("workflow", "apply", "-f", str(file), status=2)).err
    file.write_text('{"name": "x", "dls": {}}')
    assert "dls" in (await newly("workflow", "apply", "-f", str(file), status=2)).err
    said = await newly("workflow", "validate", "-f", "-", stdin=Path(workflow(newly, "fine", "true")).read_text())
    assert "is valid: 1 node" in said.out
    assert (await newly("workflow", "ls")).out == ""


# --- runs ------------------------------------------------------------------------------------------------------------


async def test_a_run_is_followed_to_its_end_with_its_output(vespid: CommandLine) -> None:
    script = "printf '\\033[32mgreen\\033[0m {{ input.name }}\\n\\033]0;owned\\007[red]x[/red]\\033[2J\\n'"
    await published(vespid, "colours", script)
    said = await vespid("run", "start", "colours", "-i", '{"name": "ann"}', "--follow")
    assert "│ green ann" in said.out
    assert "│ [red]x[/red]" in said.out
    assert "\x1b" not in said.out
    assert said.out.splitlines()[-1].endswith("succeeded")
    async with vespid.terminal("run", "logs", run_of(said)) as terminal:
        assert await terminal.end() == 0
        assert "\x1b[32mgreen\x1b[0m ann" in terminal.shown
        assert "\x1b]0" not in terminal.shown
        assert "\x1b[2J" not in terminal.shown


def run_of(said: Said) -> str:
    """The run that `--follow` named on stderr."""
    return next(word for word in said.err.split() if word.count("-") == 4)


async def test_a_run_that_failed_ends_the_command_with_1_and_can_be_tried_again(vespid: CommandLine) -> None:
    marker = vespid.folder / "there"
    await published(vespid, "fails", f"test -e {marker}", "retry: {maxAttempts: 1}")
    said = await vespid("run", "start", "fails", "--follow", "--json", status=1)
    events = said.lines
    assert events[-1]["eventType"] == "run_failed"
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    run_id = events[-1]["runId"]
    await vespid("run", "logs", "-f", run_id, status=1)
    await vespid("run", "logs", run_id)
    assert "✗ build" in (await vespid("run", "show", run_id)).out
    assert run_id in (await vespid("run", "ls", "--status", "failed")).out


async def test_a_run_by_name_takes_what_is_published(newly: CommandLine) -> None:
    await newly("workflow", "apply", "-f", workflow(newly, "draft", "true"))
    said = await newly("run", "start", "draft", status=1)
    assert "not published" in said.err
    await newly("run", "start", "nothing", status=4)
    await newly("run", "start", "draft", "-i", "{wrong", status=2)
    await newly("run", "show", "01a20a8a-2977-7b90-9f25-4e04af061c2a", status=4)


async def test_following_goes_on_over_a_lost_connection_and_says_so(vespid: CommandLine, installed: Installed) -> None:
    gate = vespid.folder / "gate"
    await published(vespid, "slow", f"echo begun; while [ ! -e {gate} ]; do sleep 0.05; done; echo over")
    run_id = (await vespid("run", "start", "slow")).out.strip()
    async with line_to(installed.api_port) as line:
        # The login is of the installation, whose address is another here.
        config = json.loads(vespid.config.read_text())
        config["profiles"]["default"]["apiBase"] = far = f"http://127.0.0.1:{line.port}"
        vespid.config.write_text(json.dumps(config))
        process = await vespid.start("run", "logs", "-f", run_id, env={"VESPID_API_BASE": far})
        assert process.stdout is not None
        assert process.stderr is not None
        out = b""
        while b"begun" not in out:
            out += await process.stdout.readline()
        line.cut()
        lost = await process.stderr.readline()
        back = await process.stderr.readline()
        gate.touch()
        rest, _ = await asyncio.wait_for(process.communicate(), 60)
    assert (b"was lost" in lost, b"connected again" in back) == (True, True), (lost, back)
    told = (out + rest).decode().splitlines()
    assert process.returncode == 0
    assert [sum("│ begun" in row for row in told), sum("│ over" in row for row in told)] == [1, 1]


async def test_a_run_is_cancelled(vespid: CommandLine) -> None:
    await published(vespid, "endless", "sleep 600")
    run_id = (await vespid("run", "start", "endless")).out.strip()
    following = asyncio.create_task(vespid("run", "logs", "-f", run_id, status=1))
    await vespid("run", "cancel", run_id)
    assert (await following).out.splitlines()[-1].endswith("cancelled")


async def test_an_interrupted_follower_ends_with_130_and_the_run_goes_on(vespid: CommandLine) -> None:
    gate = vespid.folder / "gate"
    await published(vespid, "waits", f"echo begun; while [ ! -e {gate} ]; do sleep 0.05; done")
    run_id = (await vespid("run", "start", "waits")).out.strip()
    process = await vespid.start("run", "logs", "-f", run_id)
    assert process.stdout is not None
    while b"begun" not in await process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 130
    gate.touch()
    await vespid("run", "logs", "-f", run_id)


# --- approvals -------------------------------------------------------------------------------------------------------


async def waiting_approval(vespid: CommandLine, name: str, script: str) -> dict[str, Any]:
    await published(vespid, name, script, "approval: {by: admin}")
    run_id = (await vespid("run", "start", name)).out.strip()
    process = await vespid.start("run", "logs", "-f", run_id)
    assert process.stdout is not None
    while b"vespid approve" not in await process.stdout.readline():
        pass
    process.terminate()
    await process.communicate()
    found: dict[str, Any] = (await vespid("approval", "ls", "--run", run_id, "--json")).json["approvals"][0]
    return found


async def test_what_will_run_is_shown_whole_before_it_is_allowed(vespid: CommandLine) -> None:
    asked = await waiting_approval(vespid, "deploys", 'echo "harmless" # \u202eevil')
    run_id = asked["runId"]
    assert f"vespid approve {asked['id']}" in (await vespid("run", "show", run_id)).out
    async with vespid.terminal("approve", asked["id"]) as terminal:
        await terminal.shows("[y/N]")
        terminal.type("y\n")
        assert await terminal.end() == 0
        assert "<U+202E>evil" in terminal.shown
        assert "cannot be seen" in terminal.shown
        assert asked["hash"] in terminal.shown
        assert "\u202e" not in terminal.shown
    await vespid("run", "logs", "-f", run_id)


async def test_without_a_terminal_only_what_was_seen_is_decided(vespid: CommandLine) -> None:
    asked = await waiting_approval(vespid, "deploys-2", "echo hi")
    await vespid("approve", asked["id"], status=2)
    await vespid("approve", asked["id"], "--yes", status=2)
    said = await vespid("approve", asked["id"], "--yes", "--hash", "0" * 64, status=1)
    assert asked["hash"] in said.err
    await vespid("approval", "deny", asked["id"], "--yes", "--hash", asked["hash"], "-m", "not today")
    said = await vespid("run", "logs", "-f", asked["runId"], status=1)
    assert "denied: not today" in said.out


# --- sessions --------------------------------------------------------------------------------------------------------


async def test_lines_of_a_pipe_are_answered_one_after_the_other(vespid: CommandLine) -> None:
    await vespid(
        "session", "new", "--title", "Pipe", "--scope", "per-peer", "--peer", "pipe", "--engine", "vespid.echo.v1"
    )
    said = await vespid("session", "chat", "Pipe", stdin="one\ntwo\n")
    assert said.out.splitlines() == ["you    one", "agent  one", "you    two", "agent  two"]
    # What was said before is not told to a pipe again.
    said = await vespid("session", "chat", "Pipe", "--json", stdin="three\n")
    assert [event["payload"]["message"] for event in said.lines if event["type"] == "session_event_v2"] == ["three"] * 2
    assert "agent  two" in (await vespid("session", "show", "Pipe", "--events")).out
    await vespid("session", "reset", "Pipe", "--forget")


async def test_a_conversation_at_a_terminal_is_cancelled_and_left(vespid: CommandLine, installed: Installed) -> None:
    session_id = await scripted_session(installed, vespid, "tty")
    steps = [
        {"say": "Let me look. "},
        {"tool": "shell.run", "input": {"command": "df"}, "result": "40% \x1b[2J"},
        {"say": "Done \x1b]0;owned\x07looking."},
    ]
    async with vespid.terminal("session", "chat", session_id) as terminal:
        await terminal.shows("you    ")
        terminal.type(json.dumps(steps) + "\n")
        await terminal.shows("Done looking.")
        await terminal.shows('⚙ shell.run({"command":"df"})')
        await terminal.shows("40% ")
        assert "\x1b[2J" not in terminal.shown
        assert "\x1b]0" not in terminal.shown
        await terminal.shows("you    ", times=2)
        terminal.type(json.dumps([{"say": "begun"}, {"pauseMs": 600_000}]) + "\n")
        await terminal.shows("agent  \x1b[0mbegun")
        terminal.type("\x03")
        await terminal.shows("TURN_CANCELLED")
        await terminal.shows("you    ", times=3)
        terminal.type("\x04")
        # The last message was not answered.
        assert await terminal.end() == 1


# --- doctor and completion -------------------------------------------------------------------------------------------


async def test_the_doctor_finds_an_installation_in_order(vespid: CommandLine) -> None:
    said = await vespid("doctor", "--json")
    assert said.json["ok"] is True
    assert [line["check"] for line in said.json["checks"]] == [
        *(
            "profile",
            "proxy",
            "transport",
            "dns",
            "tcp",
            "tls",
            "clock",
            "api",
            "versions",
            "login",
            "gateway",
            "agents",
        )
    ]
    assert "broken" in (await vespid("doctor")).out


async def test_the_doctor_says_what_is_broken_and_how_to_mend_it(visitor: CommandLine, installed: Installed) -> None:
    said = await visitor("doctor", status=1)
    assert "vespid login" in said.out
    said = await visitor("doctor", "--api-base", f"http://127.0.0.1:{free_port()}", status=1)
    assert "refused" in said.out
    said = await visitor("doctor", "--api-base", installed.processes.gateway_url, "--json", status=1)
    assert [line["check"] for line in said.json["checks"] if line["state"] == "fail"] != []


async def test_names_are_completed(vespid: CommandLine) -> None:
    script = await vespid("completion", "bash")
    assert "_VESPID_COMPLETE" in script.out
    said = await vespid(
        env={"_VESPID_COMPLETE": "complete_bash", "COMP_WORDS": "vespid agent cordon o", "COMP_CWORD": "3"}
    )
    assert said.out.split() == ["own"]
