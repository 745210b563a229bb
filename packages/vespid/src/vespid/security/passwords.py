"""Passwords: Argon2id, always in a thread, and always verified against something."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

# A hash takes a core for a tenth of a second and 64 MiB; more at once than this only makes everybody wait.
HASHING_THREADS = 2

Answer = TypeVar("Answer")


class Passwords:
    """Hashes and verifies. Verifying against no hash takes as long as against one, and fails."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._threads = ThreadPoolExecutor(HASHING_THREADS, thread_name_prefix="passwords")
        # What an unknown address is verified against; made with the first verification.
        self._nobody: str | None = None

    async def hash(self, password: str) -> str:
        """Answer the encoded Argon2id hash."""
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, encoded: str | None, password: str) -> bool:
        """Whether the password is the hash's; with None (an unknown address) False, after the same work."""
        return await self._run(lambda: self._verify(encoded, password))

    def needs_rehash(self, encoded: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(encoded)

    def close(self) -> None:
        """Let the threads go; calls under way end first."""
        self._threads.shutdown(wait=False)

    def _verify(self, encoded: str | None, password: str) -> bool:
        if self._nobody is None:
            self._nobody = self._hasher.hash("nobody has this password")
        try:
            self._hasher.verify(encoded or self._nobody, password)
        except (VerificationError, InvalidHashError):
            return False
        return encoded is not None

    async def _run(self, work: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
