"""README's five minutes, followed by the letter in a clean folder, as whoever installs it for the first time."""

import shlex
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support.model_server import ModelServer, Say, Tool, call_tools
from tests.support.page_commands import Shell, Words, follow, replaced, steps_of
from tests.support.processes import BIN, Processes

# A page of commands, one after the other, on a machine that may be busy.
pytestmark = pytest.mark.timeout(400)

README = Path(__file__).parents[2] / "README.md"
KEY = "sk-of-whoever-reads"


@pytest.fixture
def home() -> Iterator[Path]:
    """A new user's, with the install that the page begins with."""
    # Not pytest's own folder: under root that is closed to the account which the servers run as.
    path = Path(tempfile.mkdtemp(prefix="vespid-readme-"))
    path.chmod(0o755)
    (path / ".venv").symlink_to(BIN.parent)
    yield path
    shutil.rmtree(path)


@pytest_asyncio.fixture
async def model() -> AsyncIterator[ModelServer]:
    """In the place of OpenAI: it asks for `df`, then tells what it saw."""
    async with ModelServer(key=KEY) as server:
        server.will(call_tools(Tool("shell_run", {"script": "df -h /"})), Say("Full enough."))
        yield server


async def test_the_five_minutes_of_the_readme_end_in_finished_runs(
    processes: Processes, home: Path, model: ModelServer
) -> None:
    variables = ("API_PORT", "GATEWAY_PORT", "ENGINE_RUNNER_PORT")
    ports = {variable: processes.env[variable] for variable in variables}
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "LANG": "C.UTF-8"}
    places = {
        f"127.0.0.1:{usual}": f"127.0.0.1:{ports[variable]}"
        for usual, variable in zip(("3001", "3002", "3003"), variables, strict=True)
    }
    up, *steps = steps_of(README.read_text())
    # The first command does not end: it has a terminal of its own. Root's data folder is the machine's, not ours.
    begin = ["bash", "-c", f"cd {shlex.quote(str(home))} && exec {up.command}"]
    further = {"OPENAI_BASE_URL": model.openai_url, "VESPID_DATA": str(home / "data")}
    installation = await processes.run(begin, "up", env | ports | further)
    await installation.has_printed(up.expected[-1], within_s=90)
    words = Words()
    back = {there: here for here, there in places.items()}
    words.take(up, [replaced(line, back) for line in installation.log().splitlines()])
    env |= {"VESPID_API_BASE": f"http://127.0.0.1:{ports['API_PORT']}", "OPENAI_API_KEY": KEY}
    shell = await Shell.open(home, env)
    try:
        await follow(README, steps, shell, words, places=places)
    finally:
        await shell.close()
    assert len(model.requests) == 2
    assert await installation.terminate() == 0, installation.log()
