"""What every test of the workspace may ask for: real servers, real processes, and the account of promises."""

import pytest

pytest_plugins = [
    "tests.support.servers",
    "tests.support.processes",
    "tests.support.promises",
    "tests.support.logs",
    "tests.support.installed",
    "tests.support.browser",
    "tests.support.clis",
    "tests.support.dump",
    "tests.support.container_engine",
    "tests.support.agent_binary",
    "tests.support.bare_root",
]

# Minutes long, many of them: they come first, or one process would wait in the end for the other's last ones.
LONG = ("tests/security/", "tests/chaos/", "tests/e2e/")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((place for place, of in enumerate(LONG) if item.nodeid.startswith(of)), len(LONG)))
