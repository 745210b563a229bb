"""What can go wrong, as a tree:

    VespidError
    ├── ApiError              the server answered with an error: `status`, `code`, `message`, `field_errors`, …
    │   ├── BadRequest        400, 405, 413: what was asked for is not valid; `field_errors` says where
    │   ├── NotSignedIn       401: no credential, or one that is worth nothing (any more)
    │   ├── Forbidden         403: not a member, or not in the role that it takes
    │   ├── NotFound          404: there is no such thing in this organization
    │   ├── Conflict          409: the state of things does not allow it
    │   ├── RateLimited       429: `retry_after` seconds
    │   └── Unavailable       502, 503, 504: a part of the system is away, or not set up
    ├── ConnectionFailed      no answer: the server cannot be reached, or the connection was lost
    ├── AnswerNotUnderstood   an answer that is not of this API: is the address that of a Vespid server?
    ├── RunFailed             a run that was waited for failed or was cancelled: `code`, `message`, `run`
    └── SessionError          a message that was to be answered was not: `code`, `message`

What is raised has been tried again already where that could help (see `retries`).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from vespid_client.models.runs import Run


class VespidError(Exception):
    """Of everything that this package raises on purpose."""


class ApiError(VespidError):
    """The server answered with an error."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        # Of HTTP.
        self.status = status
        # Of the contract's enumeration, or a server's newer one.
        self.code = code
        # For people.
        self.message = message
        self.details: Mapping[str, Any] = details or {}
        # Names the request in the server's log.
        self.request_id = request_id
        # Seconds that the server asked to wait; None where it did not say.
        self.retry_after = retry_after

    @property
    def field_errors(self) -> dict[str, list[str]]:
        """What is wrong with each field of the request; empty where it is not fields."""
        found = self.details.get("fieldErrors")
        if not isinstance(found, Mapping):
            return {}
        return {str(field): [str(problem) for problem in problems] for field, problems in found.items()}


class BadRequest(ApiError):
    """What was asked for is not valid."""


class NotSignedIn(ApiError):
    """There is no credential, or it is worth nothing (any more)."""


class Forbidden(ApiError):
    """The caller may not do this."""


class NotFound(ApiError):
    """There is no such thing in this organization."""


class Conflict(ApiError):
    """The state of things does not allow it."""


class RateLimited(ApiError):
    """Too many failures; `retry_after` says how long to wait."""


class Unavailable(ApiError):
    """A part of the system is away, or not set up."""


class ConnectionFailed(VespidError):
    """The server cannot be reached, or the connection was lost before it answered."""


class AnswerNotUnderstood(VespidError):
    """An answer that is not of this API."""


class RunFailed(VespidError):
    """A run that was waited for failed, or was cancelled."""

    def __init__(self, run: "Run") -> None:
        self.code = run.error or f"RUN_{run.status.upper()}"
        self.message = run.error_message or f"The run {run.status}."
        self.run = run
        super().__init__(f"{self.code}: {self.message}")


class SessionError(VespidError):
    """A message of a session was refused, or its turn failed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


_BY_STATUS: Mapping[int, type[ApiError]] = {
    400: BadRequest,
    401: NotSignedIn,
    403: Forbidden,
    404: NotFound,
    405: BadRequest,
    409: Conflict,
    413: BadRequest,
    429: RateLimited,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


class _Envelope(msgspec.Struct, frozen=True):
    code: str
    message: str
    details: dict[str, Any] | None = None


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """The error that an answer of 300 and above is, also where it comes from a proxy."""
    try:
        envelope = msgspec.json.decode(body, type=_Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = body[:200].decode("utf-8", "replace").strip()
        envelope = _Envelope(f"HTTP_{status}", said or "The answer is not one of Vespid's.")
    kind = _BY_STATUS.get(status, ApiError)
    return kind(
        status,
        envelope.code,
        envelope.message,
        details=envelope.details,
        request_id=headers.get("x-request-id"),
        retry_after=_seconds(headers.get("retry-after")),
    )


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else max(0.0, float(text))
    except ValueError:
        return None
