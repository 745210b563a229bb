"""Every test here may ask for gateways, an organization, and its executor."""

import pytest
from tests.support.gateways import Fleet, Gateway, fleet
from tests.support.ground import Executor

from vespid_protocol.ids import OrgId

__all__ = ["fleet"]


@pytest.fixture
async def gateway(fleet: Fleet) -> Gateway:
    return await fleet.gateway()


@pytest.fixture
async def org(fleet: Fleet) -> OrgId:
    return await fleet.ground.organization()


@pytest.fixture
async def executor(fleet: Fleet, org: OrgId) -> Executor:
    """Paired, not connected."""
    return await fleet.ground.executor(org)
