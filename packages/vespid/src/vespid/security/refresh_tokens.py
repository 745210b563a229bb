"""Refresh tokens: each is used once, and the next one follows from it.

The successor is a keyed digest of its predecessor. So whoever presents the same token twice within the grace (two tabs,
a lost answer) is given the same successor, and there is never more than one living token of a login: a thief and the
owner hold the same chain, and the one who comes late is noticed.
"""

import base64
import hashlib
import hmac
import secrets

REFRESH_LIFE_S = 7 * 24 * 3600
# How long a rotated token still answers its successor.
ROTATION_GRACE_S = 10
_MAX_CHARS = 128


class RefreshTokens:
    """Makes first tokens and successors; the database holds only their SHA-256."""

    def __init__(self, secret: str) -> None:
        # A key of its own: what signs access tokens signs nothing else.
        self._key = hmac.digest(secret.encode(), b"vespid refresh token chain", hashlib.sha256)

    def first(self) -> str:
        """A fresh random token, 256 bits."""
        return _spell(secrets.token_bytes(32))

    def successor(self, token: str) -> str:
        """The token that follows this one; only we can tell."""
        return _spell(hmac.digest(self._key, token.encode("utf-8", "surrogatepass"), hashlib.sha256))


def is_well_formed(token: str) -> bool:
    """Whether it is worth looking up."""
    return 0 < len(token) <= _MAX_CHARS and token.isascii()


def _spell(raw: bytes) -> str:
    return "vrt_" + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
