"""What sessions remember."""

from vespid_client.api import Api
from vespid_client.listing import Listing, listing
from vespid_client.models.memory import Doc, FoundPassage, ListedDoc, Synced
from vespid_client.models.model import Model
from vespid_client.retries import Repeat
from vespid_client.route import get, post


class DocPage(Model, frozen=True, kw_only=True):
    """By path."""

    docs: list[ListedDoc]
    next_cursor: str | None


class DocAnswer(Model, frozen=True, kw_only=True):
    """One document."""

    doc: Doc


class FoundPassages(Model, frozen=True, kw_only=True):
    """The best first."""

    results: list[FoundPassage]


MEMORY = "/v1/orgs/{org_id}/memory"
SYNC = post(f"{MEMORY}/sync", Synced, Repeat.SAFE)
SEARCH = get(f"{MEMORY}/search", FoundPassages)
LIST_DOCS = get(f"{MEMORY}/docs", DocPage)
GET_DOC = get(f"{MEMORY}/docs/{{doc_id}}", DocAnswer)


class Memory:
    """`client.memory`."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def search(self, query: str, session_key: str, *, limit: int | None = None) -> list[FoundPassage]:
        """Full text, over the documents of the sessions with that key."""
        asked = {"q": query, "sessionKey": session_key, "limit": limit}
        return (await self._api.call(SEARCH, query=asked)).results

    def docs(self, session_key: str) -> Listing[ListedDoc]:
        """The documents of the sessions with that key."""
        return listing(self._api, LIST_DOCS, lambda page: page.docs, query={"sessionKey": session_key})

    async def get(self, doc_id: str) -> Doc:
        """One document, with its content."""
        return (await self._api.call(GET_DOC, path={"doc_id": doc_id})).doc

    async def sync(self, *, session_id: str | None = None, session_key: str | None = None) -> Synced:
        """Fetch what the session's host has written; one of the two names the session."""
        body = {"sessionId": session_id, "sessionKey": session_key}
        return await self._api.call(SYNC, body={name: value for name, value in body.items() if value is not None})
