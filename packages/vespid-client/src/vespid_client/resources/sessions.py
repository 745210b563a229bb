"""Sessions: made, written to, talked in."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from vespid_client.api import Api
from vespid_client.chat import Chat
from vespid_client.listing import Listing, listing
from vespid_client.models.model import Model
from vespid_client.models.sessions import Session, SessionEvent
from vespid_client.retries import Repeat
from vespid_client.route import Route, get, post


class SessionPage(Model, frozen=True, kw_only=True):
    """The newest first."""

    sessions: list[Session]
    next_cursor: str | None


class SessionAnswer(Model, frozen=True, kw_only=True):
    """One session."""

    session: Session


class SessionEventPage(Model, frozen=True, kw_only=True):
    """The oldest first."""

    events: list[SessionEvent]
    next_cursor: str | None


class Accepted(Model, frozen=True, kw_only=True):
    """The message is committed."""

    event: SessionEvent


SESSIONS = "/v1/orgs/{org_id}/sessions"
SESSION = f"{SESSIONS}/{{session_id}}"
LIST_SESSIONS = get(SESSIONS, SessionPage)
CREATE_SESSION = post(SESSIONS, SessionAnswer, Repeat.KEYED)
GET_SESSION = get(SESSION, SessionAnswer)
CHANGE_SESSION = Route("PATCH", SESSION, SessionAnswer)
LIST_SESSION_EVENTS = get(f"{SESSION}/events", SessionEventPage)
SEND_MESSAGE = post(f"{SESSION}/messages", Accepted, Repeat.KEYED)
CANCEL_TURN = post(f"{SESSION}/cancel", SessionAnswer, Repeat.SAFE)
RESET_SESSION = post(f"{SESSION}/reset", SessionAnswer, Repeat.NEVER)


class Sessions:
    """`client.sessions`."""

    def __init__(self, api: Api, gateway_ws_url: str | None) -> None:
        self._api = api
        self._gateway_ws_url = gateway_ws_url

    async def create(self, /, *, idempotency_key: str | None = None, **options: Any) -> Session:
        """Begin one, or answer the one that has the same session key.

        Options are those of the API, in its spelling or in Python's: `title`, `scope`, `peer`, `engine={"id": …}`,
        `prompt={"instructions": …}`, `executor_selector={…}`, `on_message_while_busy`, …
        """
        body = {_camel(name): value for name, value in options.items() if value is not None}
        return (await self._api.call(CREATE_SESSION, body=body, key=idempotency_key)).session

    def list(self) -> Listing[Session]:
        """The newest first."""
        return listing(self._api, LIST_SESSIONS, lambda page: page.sessions)

    async def get(self, session_id: str) -> Session:
        """One: what it was made with, and where it is pinned."""
        return (await self._api.call(GET_SESSION, path={"session_id": session_id})).session

    async def rename(self, session_id: str, title: str | None) -> Session:
        """Give it another title; None takes it away."""
        return (await self._api.call(CHANGE_SESSION, body={"title": title}, path={"session_id": session_id})).session

    async def send(
        self,
        session_id: str,
        message: str,
        *,
        attachments: Sequence[Mapping[str, Any]] | None = None,
        idempotency_key: str | None = None,
    ) -> SessionEvent:
        """Say something; answers its event. The answer to it comes as events, or live in a `chat`.

        Raises Conflict SESSION_BUSY where the session takes no message while it answers another.
        """
        body: dict[str, Any] = {"message": message}
        if attachments is not None:
            body["attachments"] = list(attachments)
        key = idempotency_key or str(uuid.uuid4())
        return (await self._api.call(SEND_MESSAGE, body=body, key=key, path={"session_id": session_id})).event

    async def cancel(self, session_id: str) -> Session:
        """Stop the running turn."""
        return (await self._api.call(CANCEL_TURN, path={"session_id": session_id})).session

    async def reset(self, session_id: str, mode: Literal["keep_history", "clear_history"] = "keep_history") -> Session:
        """Cancel what runs and what waits, and let the agent begin anew; `clear_history` makes it forget."""
        return (await self._api.call(RESET_SESSION, body={"mode": mode}, path={"session_id": session_id})).session

    def events(self, session_id: str, *, after_seq: int = 0) -> Listing[SessionEvent]:
        """What happened behind `after_seq`, in order."""
        query = {"afterSeq": after_seq or None}
        path = {"session_id": session_id}
        return listing(self._api, LIST_SESSION_EVENTS, lambda page: page.events, query=query, path=path)

    def chat(self, session_id: str, *, after_seq: int | None = None) -> Chat:
        """The session live, over the client socket: `async with client.sessions.chat(id) as chat`.

        Events behind `after_seq` are told first; without it only what happens from now on.
        """
        return Chat(self._api, session_id, self.send, after_seq=after_seq, gateway_ws_url=self._gateway_ws_url)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)
