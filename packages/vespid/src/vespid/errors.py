"""The one error that a route answers with, in the control plane and in the gateway alike."""

from collections.abc import Mapping


class ApiError(Exception):
    """A refusal in the flat envelope: `{"code", "message", "details"?}` with an HTTP status.

    The message is for people and never holds a secret, nor anything of another organization.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: Mapping[str, object] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        # Beside the body, as `Retry-After` with a 429.
        self.headers = headers or {}

    def envelope(self) -> dict[str, object]:
        """The body of the answer."""
        body: dict[str, object] = {"code": self.code, "message": self.message}
        if self.details is not None:
            body["details"] = self.details
        return body


def not_found(code: str = "NOT_FOUND", message: str = "There is no such thing here.") -> ApiError:
    """What does not exist, or belongs to another organization: the two cannot be told apart."""
    return ApiError(404, code, message)


def conflict(message: str, code: str = "CONFLICT") -> ApiError:
    """The request is well formed and the state of things does not allow it."""
    return ApiError(409, code, message)


def bad_request(message: str, *, field: str | None = None, code: str = "BAD_REQUEST") -> ApiError:
    """The request itself is wrong; `field` names the body key or the query parameter at fault."""
    return ApiError(400, code, message, {"fieldErrors": {field: [message]}} if field else None)


def unauthorized(message: str = "Sign in first.") -> ApiError:
    """Nobody is signed in, or the credential is not (or no longer) good."""
    return ApiError(401, "UNAUTHORIZED", message, headers={"WWW-Authenticate": "Bearer"})


def forbidden(message: str) -> ApiError:
    """The caller is known and may not do this."""
    return ApiError(403, "FORBIDDEN", message)


def unavailable(message: str, code: str = "SERVICE_UNAVAILABLE") -> ApiError:
    """Something this needs is away; the request may be repeated."""
    return ApiError(503, code, message, headers={"Retry-After": "1"})
