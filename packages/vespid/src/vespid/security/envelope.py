"""Envelope encryption of secrets: a value under a data key (DEK) of its own, the DEK under a key (KEK) from outside.

Both seals are AES-256-GCM with the organization and the row's id as associated data, so that a sealed column that is
moved to another row or another organization does not open. A KEK never enters the database; rotating it re-wraps
DEKs and leaves the values as they lie.
"""

import base64
import binascii
import os
from collections.abc import Mapping

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12


class EnvelopeError(Exception):
    """A sealed value could not be opened."""


class UnknownKek(EnvelopeError):
    """The row was sealed under a KEK that this process was not given."""

    def __init__(self, kek_id: str) -> None:
        super().__init__(f"no key is configured for KEK {kek_id!r}")
        self.kek_id = kek_id


class TamperedSecret(EnvelopeError):
    """The seal does not fit its row: altered, moved, or sealed under another key of the same id."""


class KeyringInvalid(ValueError):
    """SECRETS_KEK_ID, SECRETS_KEK_BASE64 or SECRETS_KEK_PREVIOUS does not describe keys."""


class SecretValue:
    """A value in clear, in memory, for one request. Printing, logging or formatting it shows nothing."""

    __slots__ = ("_clear",)

    def __init__(self, clear: str) -> None:
        self._clear = clear

    def reveal(self) -> str:
        """The value itself; the one way to it, so that a reader can search for who asks."""
        return self._clear

    def __repr__(self) -> str:
        return "SecretValue(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a secret's value is not pickled")


class SealedDek(msgspec.Struct, frozen=True):
    """A data key under the KEK `kek_id`."""

    kek_id: str
    wrapped_dek: bytes
    dek_nonce: bytes


class Sealed(msgspec.Struct, frozen=True):
    """The envelope columns of one row of `secrets`."""

    dek: SealedDek
    value_ciphertext: bytes
    value_nonce: bytes


class Keyring(msgspec.Struct, frozen=True):
    """The KEKs of this process: one seals, all of them open."""

    # The id of the KEK that seals.
    active: str
    # Every KEK by its id, the active one among them.
    keks: Mapping[str, bytes]

    def __repr__(self) -> str:
        return f"Keyring(active={self.active!r}, keks={sorted(self.keks)})"

    @classmethod
    def parse(cls, kek_id: str, kek_base64: str, previous: str = "") -> "Keyring":
        """The keyring that SECRETS_KEK_ID, SECRETS_KEK_BASE64 and SECRETS_KEK_PREVIOUS (`<id>=<base64>,…`) describe.

        Raises KeyringInvalid, whose text names the variable and never the key.
        """
        if not kek_id:
            raise KeyringInvalid("SECRETS_KEK_ID is empty")
        keks = {kek_id: _decode_kek(kek_base64, "SECRETS_KEK_BASE64")}
        for entry in filter(None, (part.strip() for part in previous.split(","))):
            previous_id, equals, encoded = entry.partition("=")
            if not previous_id or not equals:
                raise KeyringInvalid("SECRETS_KEK_PREVIOUS is not of the form <id>=<base64>,…")
            if previous_id in keks:
                raise KeyringInvalid(f"SECRETS_KEK_PREVIOUS names the KEK {previous_id!r} that is already given")
            keks[previous_id] = _decode_kek(encoded, "SECRETS_KEK_PREVIOUS")
        return cls(active=kek_id, keks=keks)

    def seal(self, organization_id: str, secret_id: str, clear: str) -> Sealed:
        """The value under a fresh DEK, and the DEK under the active KEK."""
        dek = AESGCM.generate_key(bit_length=KEY_BYTES * 8)
        value_nonce = os.urandom(NONCE_BYTES)
        ciphertext = AESGCM(dek).encrypt(value_nonce, clear.encode(), _aad("value", organization_id, secret_id))
        return Sealed(self._wrap(organization_id, secret_id, dek), ciphertext, value_nonce)

    def open(self, organization_id: str, secret_id: str, sealed: Sealed) -> SecretValue:
        """Raises UnknownKek or TamperedSecret."""
        dek = self._unwrap(organization_id, secret_id, sealed.dek)
        try:
            clear = AESGCM(dek).decrypt(
                sealed.value_nonce, sealed.value_ciphertext, _aad("value", organization_id, secret_id)
            )
        except InvalidTag:
            raise TamperedSecret(f"the value of secret {secret_id} does not open") from None
        return SecretValue(clear.decode())

    def rewrap(self, organization_id: str, secret_id: str, dek: SealedDek) -> SealedDek:
        """The same DEK under the active KEK. Raises UnknownKek or TamperedSecret."""
        return self._wrap(organization_id, secret_id, self._unwrap(organization_id, secret_id, dek))

    def _wrap(self, organization_id: str, secret_id: str, dek: bytes) -> SealedDek:
        nonce = os.urandom(NONCE_BYTES)
        wrapped = AESGCM(self.keks[self.active]).encrypt(nonce, dek, _aad("dek", organization_id, secret_id))
        return SealedDek(self.active, wrapped, nonce)

    def _unwrap(self, organization_id: str, secret_id: str, dek: SealedDek) -> bytes:
        kek = self.keks.get(dek.kek_id)
        if kek is None:
            raise UnknownKek(dek.kek_id)
        try:
            return AESGCM(kek).decrypt(dek.dek_nonce, dek.wrapped_dek, _aad("dek", organization_id, secret_id))
        except InvalidTag:
            raise TamperedSecret(f"the data key of secret {secret_id} does not open") from None


def _aad(what: str, organization_id: str, secret_id: str) -> bytes:
    """UUIDs in lower case have one spelling, so that the parts cannot run into each other."""
    return f"vespid.secret.{what}:{organization_id.lower()}:{secret_id.lower()}".encode()


def _decode_kek(encoded: str, variable: str) -> bytes:
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise KeyringInvalid(f"{variable} is not base64") from None
    if len(key) != KEY_BYTES:
        raise KeyringInvalid(f"{variable} is {len(key)} bytes long, not {KEY_BYTES}")
    return key
