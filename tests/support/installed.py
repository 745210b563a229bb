"""A whole installation with an organization in it, for tests that look at the system from outside."""

from collections.abc import AsyncIterator

import aiohttp
import pytest_asyncio
from tests.support.organization import Organization
from tests.support.processes import Processes

# Leases short enough to see them pass, long enough for an agent's margin of 5 s.
QUICK = {
    "GATEWAY_LEASE_MS": "8000",
    "GATEWAY_HEARTBEAT_MS": "500",
    "GATEWAY_AGENT_STALE_MS": "30000",
    "VESPID_PROCESS_LEASE_MS": "2000",
    "VESPID_PROCESS_RENEW_MS": "500",
    "WORKFLOW_CONTINUATION_POLL_MS": "200",
    "WORKFLOW_RETRY_BACKOFF_MS": "100",
}


@pytest_asyncio.fixture
async def organization(installation: Processes) -> AsyncIterator[Organization]:
    """Signed up with an API, a gateway and a worker that run as processes of their own."""
    async with aiohttp.ClientSession() as http:
        yield await Organization.sign_up(installation, http)
