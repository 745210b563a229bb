"""What every test of the workspace may ask for: real servers, real processes, and the account of promises."""

pytest_plugins = [
    "tests.support.servers",
    "tests.support.processes",
    "tests.support.promises",
    "tests.support.logs",
    "tests.support.installed",
    "tests.support.clis",
    "tests.support.dump",
    "tests.support.container_engine",
]
