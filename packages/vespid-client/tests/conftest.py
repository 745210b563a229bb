"""Every test here may ask for the one installation, and for people in it."""

from pathlib import Path

import pytest
from tests.support.client_stack import client, installed, newcomer

__all__ = ["client", "installed", "newcomer"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One test process has them all, so that the installation is started once."""
    here = str(Path(__file__).parent)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.xdist_group("client"))
