"""Agents: the machines of an organization."""

from collections.abc import Iterable, Sequence

from vespid_client.api import Api
from vespid_client.listing import Listing, listing
from vespid_client.models.agents import Agent, AgentToken, Installer, PairingToken, PairingTokenState, TaggedAgent
from vespid_client.models.model import Model
from vespid_client.retries import Repeat
from vespid_client.route import Done, Route, get, post, put


class AgentPage(Model, frozen=True, kw_only=True):
    """The newest first."""

    agents: list[Agent]
    next_cursor: str | None


class AgentAnswer(Model, frozen=True, kw_only=True):
    """One agent."""

    agent: Agent


class PairingTokenStateAnswer(Model, frozen=True, kw_only=True):
    """One pairing token."""

    pairing_token: PairingTokenState


class TagsAnswer(Model, frozen=True, kw_only=True):
    """The tags that now count."""

    agent: TaggedAgent


AGENTS = "/v1/orgs/{org_id}/agents"
AGENT = f"{AGENTS}/{{agent_id}}"
LIST_AGENTS = get(AGENTS, AgentPage)
GET_AGENT = get(AGENT, AgentAnswer)
GET_PAIRING_TOKEN = get(f"{AGENTS}/pairing-tokens/{{token_id}}", PairingTokenStateAnswer)
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

    def list(self, *, status: str | None = None, tag: str | None = None, q: str | None = None) -> Listing[Agent]:
        """All, revoked ones too, the newest first; or those of a status, with a tag, with a text in the name."""
        return listing(self._api, LIST_AGENTS, lambda page: page.agents, query={"status": status, "tag": tag, "q": q})

    async def get(self, agent_id: str) -> Agent:
        """One of them, a revoked one too. Raises NotFound."""
        return (await self._api.call(GET_AGENT, path={"agent_id": agent_id})).agent

    async def pairing_token(self) -> PairingToken:
        """Pairs one machine: `vespid-agent connect --pairing-token …`."""
        return await self._api.call(PAIRING_TOKEN)

    async def pairing_token_state(self, token_id: str) -> PairingTokenState:
        """Whether a pairing token was used, and which agent it became."""
        return (await self._api.call(GET_PAIRING_TOKEN, path={"token_id": token_id})).pairing_token

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
