"""Signing up, in and out. What comes of it is kept by the client's login store."""

from vespid_client.api import Api
from vespid_client.authentication import LoginSession
from vespid_client.errors import VespidError
from vespid_client.models.accounts import SignedIn, User
from vespid_client.models.model import Model
from vespid_client.retries import Repeat
from vespid_client.route import Done, Route, post


class LoggedOutAll(Model, frozen=True, kw_only=True):
    """How many logins are over."""

    ok: bool
    revoked_count: int


SIGNUP = Route("POST", "/v1/auth/signup", SignedIn, Repeat.NEVER, is_open=True)
LOGIN = Route("POST", "/v1/auth/login", SignedIn, Repeat.NEVER, is_open=True)
LOGOUT = post("/v1/auth/logout", Done, Repeat.SAFE)
LOGOUT_ALL = post("/v1/auth/logout-all", LoggedOutAll, Repeat.SAFE)


class Auth:
    """`client.auth`. Takes a client that was given neither an API key nor an access token."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def signup(self, email: str, password: str, display_name: str | None = None) -> User:
        """Make an account with an organization of its own, and sign in. Raises Conflict for a known address."""
        body = {"email": email, "password": password}
        if display_name is not None:
            body["displayName"] = display_name
        return await self._sign_in(SIGNUP, body)

    async def login(self, email: str, password: str) -> User:
        """Sign in. Raises NotSignedIn where address or password is wrong."""
        return await self._sign_in(LOGIN, {"email": email, "password": password})

    async def refresh(self) -> User:
        """Exchange the login for another access token now. Calls do so by themselves when it is due."""
        return (await self._session().refresh()).user

    async def logout(self) -> None:
        """End this login, here and on the server."""
        session = self._session()
        await self._api.call(LOGOUT)
        session.forget()

    async def logout_all(self) -> int:
        """End every login of this person; answers how many those were."""
        session = self._session()
        ended = await self._api.call(LOGOUT_ALL)
        session.forget()
        return ended.revoked_count

    async def access_token(self) -> str:
        """What calls show at the moment, good for a minute at least. Secret."""
        return await self._api.credential.token()

    async def _sign_in(self, route: Route[SignedIn], body: dict[str, str]) -> User:
        session = self._session()
        answer = await self._api.answer(route, body=body)
        self._api.forget_org()
        return session.keep(answer).user

    def _session(self) -> LoginSession:
        if not isinstance(self._api.credential, LoginSession):
            raise VespidError("This client was given a credential of its own; sign in with one that was given none.")
        return self._api.credential
