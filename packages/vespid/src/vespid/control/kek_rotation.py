"""Rotation of the KEK: every data key that is not under the active KEK is wrapped again; values stay as they lie.

It may be stopped at any moment and begun again: what is done is no longer found, and a row that was written meanwhile
is already under the active KEK.
"""

from collections import Counter
from collections.abc import Callable
from uuid import UUID

import msgspec

from vespid.security.envelope import Keyring, SealedDek, TamperedSecret, UnknownKek
from vespid.store.pool import Database
from vespid.store.secrets import WrappedSecret, list_secrets_to_rewrap, rewrap_secrets

BATCH = 200
_BEFORE_ALL = UUID(int=0)


class Rotation(msgspec.Struct, frozen=True):
    """What a rotation did."""

    # Data keys that are under the active KEK now and were not before.
    rewrapped: int
    # Rows under a KEK that was not given, by the id of that KEK. They stay as they are.
    unknown_keks: dict[str, int]
    # Ids of secrets whose seal does not fit their row.
    tampered: list[str]

    @property
    def is_complete(self) -> bool:
        return not self.unknown_keks and not self.tampered


async def rotate_kek(
    database: Database, keyring: Keyring, *, batch: int = BATCH, progress: Callable[[int], None] = lambda done: None
) -> Rotation:
    """Bring every secret under `keyring.active`, batch by batch, each batch one commit."""
    rewrapped = 0
    unknown: Counter[str] = Counter()
    tampered: list[str] = []
    after = _BEFORE_ALL
    while True:
        async with database.system() as connection:
            found = await list_secrets_to_rewrap(connection, keyring.active, after, batch)
            if not found:
                return Rotation(rewrapped, dict(unknown), tampered)
            opened: list[WrappedSecret] = []
            wrapped: list[SealedDek] = []
            for secret in found:
                try:
                    wrapped.append(keyring.rewrap(str(secret.organization_id), str(secret.id), secret.dek))
                    opened.append(secret)
                except UnknownKek as error:
                    unknown[error.kek_id] += 1
                except TamperedSecret:
                    tampered.append(str(secret.id))
            if opened:
                rewrapped += await rewrap_secrets(connection, opened, wrapped, keyring.active)
        after = found[-1].id
        progress(rewrapped)
