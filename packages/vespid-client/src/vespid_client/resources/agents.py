"""Agents: the machines of an organization."""

from collections.abc import Iterable, Sequence

from vespid_client.api import Api
from vespid_client.errors import NotFound
from vespid_client.listing import Listing, listing
from vespid_client.models.agents import Agent, AgentToken, Installer, PairingToken, TaggedAgent
from vespid_client.models.model import Model
from vespid_client.retries import Repeat
from vespid_client.route import Done, Route, get, post, put


class AgentPage(Model, frozen=True, kw_only=True):
    """The newest first."""

    agents: list[Agent]
    next_cursor: str | None


class TagsAnswer(Model, frozen=True, kw_only=True):
    """The tags that now count."""

    agent: TaggedAgent


AGENTS = "/v1/orgs/{org_id}/agents"
AGENT = f"{AGENTS}/{{agent_id}}"
LIST_AGENTS = get(AGENTS, AgentPage)
PAIRING_TOKEN = post(f"{AGENTS}/pairing-tokens", PairingToken, Repeat.NEVER)
SET_TAGS = put(f"{AGENT}/tags", TagsAnswer)
CORDON = post(f"{AGENT}/cordon", Done, Repeat.SAFE)
UNCORDON = post(f"{AGENT}/uncordon", Done, Repeat.SAFE)
REVOKE = post(f"{AGENT}/revoke", Done, Repeat.SAFE)
ROTATE_TOKEN = post(f"{AGENT}/rotate-token", AgentToken, Repeat.NEVER)
INSTALLER = Route("GET", "/v1/meta/agent-installer", Installer, is_open=True)


class Agents:
    """`client.agents`."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def list(self) -> Listing[Agent]:
        """All of them, revoked ones too, the newest first."""
        return listing(self._api, LIST_AGENTS, lambda page: page.agents)

    async def get(self, agent_id: str) -> Agent:
        """One of them, found in the list. Raises NotFound."""
        async for agent in self.list():
            if agent.id == agent_id:
                return agent
        raise NotFound(404, "AGENT_NOT_FOUND", "There is no such agent here.")

    async def pairing_token(self) -> PairingToken:
        """Pairs one machine: `vespid-agent connect --pairing-token …`."""
        return await self._api.call(PAIRING_TOKEN)

    async def set_tags(self, agent_id: str, tags: Iterable[str]) -> Sequence[str]:
        """Replace its tags; work is routed by them within a second."""
        answer = await self._api.call(SET_TAGS, body={"tags": list(tags)}, path={"agent_id": agent_id})
        return answer.agent.tags

    async def cordon(self, agent_id: str) -> None:
        """It gets nothing new and finishes what it has."""
        await self._api.call(CORDON, path={"agent_id": agent_id})

    async def uncordon(self, agent_id: str) -> None:
        """It gets work again."""
        await self._api.call(UNCORDON, path={"agent_id": agent_id})

    async def revoke(self, agent_id: str) -> None:
        """It is cut off, for good."""
        await self._api.call(REVOKE, path={"agent_id": agent_id})

    async def rotate_token(self, agent_id: str) -> AgentToken:
        """Another token, shown this once; the old one works for ten minutes more."""
        return await self._api.call(ROTATE_TOKEN, path={"agent_id": agent_id})

    async def installer(self) -> Installer:
        """Where the agent is downloaded. Raises Unavailable where the installation offers none."""
        return await self._api.call(INSTALLER)
