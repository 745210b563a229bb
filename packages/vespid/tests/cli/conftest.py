"""Every test here may ask for one installation, and for somebody who is signed in there with the real program."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support.client_stack import PASSWORD, Installed, client, installed, new_email, newcomer
from tests.support.command_line import CommandLine

from vespid_client import AsyncClient

__all__ = ["client", "installed", "newcomer"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One test process has them all, so that the installation is started once."""
    here = str(Path(__file__).parent)
    for item in items:
        if str(item.path).startswith(here) and {"vespid", "visitor", "newly"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group("vespid-cli"))


@pytest.fixture
def visitor(installed: Installed, tmp_path: Path) -> CommandLine:
    """Somebody who is not signed in."""
    return CommandLine(tmp_path, installed.url)


@pytest_asyncio.fixture
async def vespid(installed: Installed, visitor: CommandLine) -> CommandLine:
    """The owner of the organization that has the agent `own`."""
    await visitor("login", "--email", installed.email, "--password-stdin", stdin=PASSWORD)
    return visitor


@pytest_asyncio.fixture
async def newly(installed: Installed, visitor: CommandLine) -> AsyncIterator[CommandLine]:
    """Somebody with an organization of their own and nothing in it."""
    email = new_email()
    async with AsyncClient(installed.url) as anybody:
        await anybody.auth.signup(email, PASSWORD)
    await visitor("login", "--email", email, "--password-stdin", stdin=PASSWORD)
    yield visitor
