"""Access tokens: a quarter of an hour of being somebody, signed by us (HS256), bound to a login that can be revoked.

The signature says who it was; whether the login still lives is asked of Postgres with every request.
"""

import uuid

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from vespid_protocol.ids import UserId

ACCESS_TOKEN_LIFE_S = 15 * 60
_ALGORITHM = "HS256"
_ISSUER = "vespid"
# An access token of ours is some 400 characters; what is longer is not one, and is not decoded.
_MAX_CHARS = 4096


class AccessTokenInvalid(Exception):
    """Not a token of ours, or no longer valid. Says no more: the caller learns nothing from the difference."""


class SignedClaims(msgspec.Struct, frozen=True):
    """What a verified token says. Only `AccessTokens` makes one."""

    user_id: UserId
    session_id: str
    email: str
    # Epoch seconds.
    issued_at: int
    expires_at: int


class AccessTokens:
    """Signs and verifies with AUTH_TOKEN_SECRET."""

    def __init__(self, secret: str) -> None:
        self._key = OctKey.import_key(secret.encode())

    def issue(self, user_id: UserId, session_id: str, email: str, now_s: int) -> tuple[str, SignedClaims]:
        """Answer a token that is valid from now for ACCESS_TOKEN_LIFE_S, and what it says."""
        claims = SignedClaims(user_id, session_id, email, now_s, now_s + ACCESS_TOKEN_LIFE_S)
        token = jwt.encode(
            {"alg": _ALGORITHM, "typ": "JWT"},
            {
                "iss": _ISSUER,
                "sub": user_id,
                "sid": session_id,
                "email": email,
                "iat": claims.issued_at,
                "exp": claims.expires_at,
            },
            self._key,
            algorithms=[_ALGORITHM],
        )
        return token, claims

    def verify(self, token: str, now_s: int) -> SignedClaims:
        """The claims of a token that we signed and that has not expired. Raises AccessTokenInvalid."""
        if len(token) > _MAX_CHARS:
            raise AccessTokenInvalid
        try:
            claims = jwt.decode(token, self._key, algorithms=[_ALGORITHM]).claims
            if claims["iss"] != _ISSUER or not claims["iat"] <= claims["exp"] or claims["exp"] <= now_s:
                raise AccessTokenInvalid
            return SignedClaims(
                user_id=UserId(str(uuid.UUID(claims["sub"]))),
                session_id=str(uuid.UUID(claims["sid"])),
                email=str(claims["email"]),
                issued_at=int(claims["iat"]),
                expires_at=int(claims["exp"]),
            )
        except (JoseError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise AccessTokenInvalid from error
