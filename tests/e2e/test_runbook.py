"""docs/runbook.md, followed by its letter: every command of the page is run, and prints what the page says."""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support.installed import QUICK
from tests.support.page_commands import Shell, Words, follow, steps_of
from tests.support.processes import BIN, Processes

from vespid.settings.table import settings_page

# A page of commands, one after the other, on a machine that may be busy.
pytestmark = pytest.mark.timeout(400)

PAGE = Path(__file__).parents[2] / "docs" / "runbook.md"
# What an operator's shell has: the settings of the installation.
SETTINGS = ("VESPID_ENV", "DATABASE_URL", "REDIS_URL", "GATEWAY_SERVICE_TOKEN", "SECRETS_KEK_ID", "SECRETS_KEK_BASE64")
_ROW = re.compile(r"^\| `([A-Z_]+)` \| (.*?) \|", re.MULTILINE)


@pytest_asyncio.fixture
async def installation(processes: Processes) -> Processes:
    """As in production: every process its own."""
    processes.env |= QUICK
    commands = ("api", "gateway", "worker", "engine-runner")
    await asyncio.gather(*(processes.start(command) for command in commands))
    return processes


@pytest_asyncio.fixture
async def shell(installation: Processes, tmp_path: Path) -> AsyncIterator[Shell]:
    """The operator's, who sits at the machine of the first agent too."""
    env = {name: installation.env[name] for name in SETTINGS}
    # A container engine of this machine would be another installation's business.
    env["DOCKER_HOST"] = f"unix://{tmp_path}/no-engine"
    # Our programs are found before others of the same name.
    env["PATH"] = f"{BIN}:{os.environ['PATH']}"
    folder = tmp_path / "operator"
    folder.mkdir()
    opened = await Shell.open(folder, env)
    yield opened
    await opened.close()


async def test_every_command_of_the_runbook_prints_what_the_page_says(installation: Processes, shell: Shell) -> None:
    ports = (("3001", "API_PORT"), ("3002", "GATEWAY_PORT"), ("3003", "ENGINE_RUNNER_PORT"))
    places = {f"127.0.0.1:{usual}": f"127.0.0.1:{installation.env[variable]}" for usual, variable in ports}
    await follow(PAGE, steps_of(PAGE.read_text()), shell, Words(), places=places)


def test_the_variables_of_the_runbook_have_the_defaults_that_it_says() -> None:
    # A default may be one process' own: what the page says is the default of one of them.
    declared = set(_ROW.findall(settings_page() + (PAGE.parent / "agent.md").read_text()))
    told = _ROW.findall(PAGE.read_text())
    assert len(told) > 15
    assert [row for row in told if row not in declared] == []
