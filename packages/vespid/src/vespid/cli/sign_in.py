"""The client of a profile, and where its login is kept while it renews itself."""

import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import version

import msgspec

from vespid.cli.output import Output
from vespid.cli.problem import not_signed_in
from vespid.cli.profiles import Choice, Profile, ProfileFile, with_profile
from vespid_client import AsyncClient, LineWatch, Login


class ProfileStore:
    """Keeps the login of one profile in the file, for all processes that use it.

    What is kept is never put in the place of something newer: two processes that renew one login at the same time may
    come here in any order, and the server takes the last successor for long and its predecessors for seconds.
    """

    def __init__(self, file: ProfileFile, name: str) -> None:
        self._file = file
        self._name = name
        # What this process has read or written last.
        self._seen: str | None = None

    def load(self) -> Login | None:
        """The login as it stands in the file."""
        profile = self._file.read().profiles.get(self._name)
        if profile is None or profile.refresh_token is None:
            return None
        self._seen = profile.refresh_token
        return Login(
            refresh_token=profile.refresh_token,
            email=profile.email,
            access_token=profile.access_token,
            access_expires_at=profile.access_expires_at,
        )

    def save(self, login: Login | None) -> None:
        """Put it into the file, unless another process has put a newer one there."""
        with self._file.locked() as config:
            profile = config.profiles.get(self._name, Profile())
            if profile.refresh_token != self._seen:
                return
            self._file.replace(with_profile(config, self._name, _with_login(profile, login)))
        self._seen = None if login is None else login.refresh_token


@contextlib.asynccontextmanager
async def client_of(file: ProfileFile, choice: Choice, out: Output | None = None) -> AsyncIterator[AsyncClient]:
    """The client as whom the choice says. Raises Problem where that is nobody.

    `out` is told when a connection is lost that something is followed on.
    """
    profile = choice.profile
    if not profile.is_signed_in:
        where = "" if choice.name == "default" else f" --profile {choice.name}"
        raise not_signed_in(f"nobody is signed in at {profile.api_base}", f"Sign in: vespid login{where}")
    client = AsyncClient(
        profile.api_base,
        api_key=profile.api_key,
        credentials=None if profile.api_key is not None else ProfileStore(file, choice.name),
        org=profile.org_id,
        user_agent=user_agent(),
        watch=None
        if out is None
        else LineWatch(lambda error: _say_lost(out, error), lambda: out.note("connected again")),
    )
    async with client:
        yield client


def _say_lost(out: Output, error: Exception | None) -> None:
    out.warn(f"the connection was lost{'' if error is None else f' ({error})'}; trying again")


def user_agent() -> str:
    """Who calls, for the server's log."""
    return f"vespid-cli/{version('vespid')}"


def _with_login(profile: Profile, login: Login | None) -> Profile:
    if login is None:
        return profile.signed_out()
    return msgspec.structs.replace(
        profile,
        email=login.email or profile.email,
        refresh_token=login.refresh_token,
        access_token=login.access_token,
        access_expires_at=login.access_expires_at,
        api_key=None,
    )
