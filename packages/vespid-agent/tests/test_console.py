"""What all commands share: they begin quickly, complete in shells, and say a fault of the agent as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# What a command may need, and takes a while to import.
SLOW = ("aiohttp", "structlog", "sqlite3", "vespid_agent.process", "vespid_agent.agent", "yaml")


@pytest.mark.parametrize(
    ("words", "spared"),
    [
        (["--help"], SLOW),
        (["--version"], SLOW),
        (["status", "--config", "/nowhere/agent.json"], SLOW),
        (["logs", "--config", "/nowhere/agent.json"], SLOW),
        (["service", "install", "--dry-run"], SLOW),
    ],
)
def test_command_does_not_wait_for_what_others_need(words: list[str], spared: tuple[str, ...], tmp_path: Path) -> None:
    program = (
        "import sys, json\nfrom vespid_agent.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert loaded & set(spared) == set()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("vespid-agent st", {"start", "status"}),
        ("vespid-agent service un", {"uninstall"}),
        ("vespid-agent logs --req", {"--request"}),
    ],
)
def test_shell_completes_commands_and_options(typed: str, offered: set[str]) -> None:
    words = typed.split()
    done = subprocess.run(
        [str(Path(sys.executable).with_name("vespid-agent"))],
        env={
            **os.environ,
            "_VESPID_AGENT_COMPLETE": "complete_bash",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(len(words) - 1),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert set(done.stdout.split()) == offered


def test_fault_of_the_agent_itself_ends_with_a_status_that_is_started_again(tmp_path: Path) -> None:
    program = (
        "import vespid_agent.process as p\n"
        "async def broken(*_, **__):\n    raise RuntimeError('a [bug]')\n"
        "p.run_agent = broken\n"
        "from vespid_agent.cli import main\nmain()"
    )
    words = ("start", "--pool", "managed", "--executor-id", "e", "--gateway-ws-url", "ws://127.0.0.1:1/ws")
    config = tmp_path / "agent.json"
    done = subprocess.run(
        [sys.executable, "-c", program, *words, "--executor-token", "t", "--config", str(config)],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 70
    assert "RuntimeError: a [bug]" in done.stderr
    log = (tmp_path / "log-e.jsonl").read_text()
    assert '"event": "crashed"' in log
