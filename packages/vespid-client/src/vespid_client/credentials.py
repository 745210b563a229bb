"""What a client shows of who it is: an API key, an access token, or a login that renews itself.

A login is the cookie `vespid_session`, which lives for days and is exchanged for access tokens that live for minutes.
Each exchange rotates the cookie, so whoever keeps a login must be handed every new one: that is the `LoginStore`. The
store is asked again before each exchange, because another process may have rotated meanwhile. Two that exchange the
same cookie within ten seconds are given the same successor by the server.
"""

from typing import Protocol

import msgspec


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """A person who is signed in. All of it is secret."""

    # The value of the cookie `vespid_session`; the last one that the server gave.
    refresh_token: str
    email: str | None = None
    # Saves an exchange while it is still good; `access_expires_at` in epoch seconds.
    access_token: str | None = None
    access_expires_at: int | None = None


class LoginStore(Protocol):
    """Where a login is kept."""

    def load(self) -> Login | None:
        """The login as it stands; None: nobody is signed in."""

    def save(self, login: Login | None) -> None:
        """Replace it; None: nobody is signed in any more."""


class MemoryStore:
    """Keeps a login for as long as the process lives."""

    def __init__(self, login: Login | None = None) -> None:
        self._login = login

    def load(self) -> Login | None:
        """See LoginStore."""
        return self._login

    def save(self, login: Login | None) -> None:
        """See LoginStore."""
        self._login = login
