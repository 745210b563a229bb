"""The first owner of a local installation, and what `vespid up` prints."""

import asyncio
import secrets
from collections.abc import Callable

from vespid.local.client import ApiClient, CallRefused
from vespid.local.keys import keep
from vespid.local.stack import LocalStack

OWNER_EMAIL = "owner@vespid.local"
PASSWORD_FILE = "owner_password"  # noqa: S105


class Welcome:
    """Makes the first owner once everything runs, and tells where to go."""

    def __init__(self, stack: LocalStack, tell: Callable[[str], None]) -> None:
        self._stack = stack
        self._tell = tell

    async def start(self) -> None:
        """Sign the first owner up, and print the addresses and the login."""
        file = self._stack.folder.keys / PASSWORD_FILE
        password = await asyncio.to_thread(keep, file, lambda: secrets.token_urlsafe(12))
        async with ApiClient(self._stack.api_url) as api:
            try:
                await api.sign_up(OWNER_EMAIL, password, "Owner")
                login = f"{OWNER_EMAIL} with the password {password}"
            except CallRefused as refused:
                if refused.status != 401:
                    raise
                login = f"{OWNER_EMAIL} with the password that was set since"
        self._tell(
            f"\nVespid is running; its data is in {self._stack.folder.path}\n"
            f"  pages     {self._stack.api_url}   (the API is there too, its language at /schema)\n"
            f"  gateway   {self._stack.gateway_url}\n"
            f"  login     {login}\n"
            f"Press Ctrl-C to stop."
        )

    async def stop(self) -> None:
        """Nothing of this lives on."""
