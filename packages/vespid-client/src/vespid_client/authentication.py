"""How a client comes by the token that its calls show: from the caller, or from a login that renews itself."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from vespid_client.credentials import Login, LoginStore
from vespid_client.errors import AnswerNotUnderstood, Forbidden, NotSignedIn, error_of
from vespid_client.http import Answer, Http, origin_of
from vespid_client.models.accounts import SignedIn
from vespid_client.models.meta import Capabilities

SESSION_COOKIE = "vespid_session"
# A token is renewed when less than this is left of it: it must still be good when it arrives.
MARGIN_S = 60


class Credential(Protocol):
    """Answers the token for the next call."""

    @property
    def org_id(self) -> str | None:
        """The organization that it belongs to; None: it is a person's, who may be in several."""

    async def token(self) -> str:
        """What to show. Raises NotSignedIn where there is nothing."""

    async def renew(self, refused: str) -> bool:
        """Whether there is now another token than the one that was refused. Raises NotSignedIn."""


class Bearer:
    """An API key or an access token, as it was given."""

    def __init__(self, value: str) -> None:
        self._value = value

    @property
    def org_id(self) -> str | None:
        """An API key names its organization before the first dot; an access token does not."""
        subject, _, secret = self._value.partition(".")
        return subject if secret.startswith("vak_") else None

    async def token(self) -> str:
        """See Credential."""
        return self._value

    async def renew(self, refused: str) -> bool:
        """There is no other."""
        return False


class LoginSession:
    """A login out of a store, exchanged for access tokens when it has to be."""

    org_id: str | None = None

    def __init__(self, http: Http, store: LoginStore, now: Callable[[], float] = time.time) -> None:
        self._http = http
        self._store = store
        self._now = now
        self._exchanging = asyncio.Lock()
        # What the installation takes as `Origin`: its own address, as long as it has not said otherwise.
        self._origin = http.origin

    async def token(self) -> str:
        """See Credential. Exchanges before the token runs out."""
        login = self._login()
        if login.access_token is None or (login.access_expires_at or 0) - self._now() < MARGIN_S:
            await self.renew(login.access_token or "")
            login = self._login()
        return login.access_token or ""

    async def renew(self, refused: str) -> bool:
        """See Credential. Of many that ask at once, one exchanges."""
        async with self._exchanging:
            login = self._login()
            if login.access_token in (None, refused):
                await self._exchange(login)
        return True

    async def refresh(self) -> SignedIn:
        """Exchange in any case. Raises NotSignedIn where the login is over."""
        async with self._exchanging:
            return await self._exchange(self._login())

    def keep(self, answer: Answer) -> SignedIn:
        """Remember what a sign-up, a login or an exchange answered."""
        try:
            signed_in = msgspec.json.decode(answer.body, type=SignedIn)
            cookie = answer.cookies[SESSION_COOKIE]
        except (msgspec.DecodeError, KeyError) as error:
            raise AnswerNotUnderstood(f"This is no login: {error}") from error
        session = signed_in.session
        self._store.save(
            Login(
                refresh_token=cookie,
                email=session.email,
                access_token=session.token,
                access_expires_at=session.expires_at,
            )
        )
        return signed_in

    def forget(self) -> None:
        """Nobody is signed in any more."""
        self._store.save(None)

    def _login(self) -> Login:
        login = self._store.load()
        if login is None:
            raise NotSignedIn(401, "UNAUTHORIZED", "Nobody is signed in.")
        return login

    async def _exchange(self, login: Login) -> SignedIn:
        try:
            return self.keep(await self._asked(login))
        except NotSignedIn:
            other = self._store.load()
            if other is None or other.refresh_token == login.refresh_token:
                self.forget()
                raise
            # Another process has rotated it meanwhile.
            return self.keep(await self._asked(other))

    async def _asked(self, login: Login) -> Answer:
        try:
            return await self._ask(login)
        except Forbidden:
            answer = await self._http.send("GET", "/v1/meta/capabilities")
            web = msgspec.json.decode(answer.body, type=Capabilities).web_base_url if answer.is_ok else None
            if web is None or origin_of(web) == self._origin:
                raise
            self._origin = origin_of(web)
            return await self._ask(login)

    async def _ask(self, login: Login) -> Answer:
        headers = {"Cookie": f"{SESSION_COOKIE}={login.refresh_token}", "Origin": self._origin}
        answer = await self._http.send("POST", "/v1/auth/refresh", headers)
        if not answer.is_ok:
            raise error_of(answer.status, answer.headers, answer.body)
        return answer
