"""What went wrong with a call, in the words of the contract: how each provider's module tells of its SDK's errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2

from vespid_runtime.egress import EgressRefused
from vespid_runtime.models.transport import ReplyTooLarge
from vespid_runtime.models.types import ModelError, request_failed
from vespid_runtime.redaction import Redactor

_MESSAGE_MAX_CHARS = 500
# A date far away, or nonsense, is as good as "not today".
_RETRY_AFTER_MAX_MS = 24 * 3_600_000

# What reading an answer raises that is not what it should be: the SDKs check no shapes.
UNREADABLE = (AttributeError, LookupError, TypeError, ValueError)


class Failures:
    """Of one call: the provider's name, and the key that no message may show."""

    def __init__(self, provider: str, api_key: str) -> None:
        self._provider = provider
        # Providers quote the key in what they answer to a wrong one, whole or shortened in the middle.
        self._redactor = Redactor([api_key, api_key[:12], api_key[-8:]] if api_key else [])

    def status(
        self, status: int, message: str, headers: Mapping[str, str] | None = None, *, retryable: bool | None = None
    ) -> ModelError:
        """The provider answered with an error. `retryable`: only where the status does not say it."""
        said = self._redactor.redact(message)[:_MESSAGE_MAX_CHARS]
        error = request_failed(self._provider, status, f"answered {status}: {said}", retryable=retryable)
        if headers is not None and error.retryable:
            error.retry_after_ms = retry_after_ms(headers)
        return error

    def network(self, error: BaseException) -> ModelError:
        """There was no answer, or only the beginning of one."""
        causes = list(_causes(error))
        for refused in causes:
            if isinstance(refused, EgressRefused):
                return ModelError("EGRESS_DENIED", str(refused))
        for cause in causes:
            if isinstance(cause, ReplyTooLarge):
                return self.invalid(str(cause))
            if isinstance(cause, httpx2.RequestError):
                return request_failed(self._provider, "NETWORK", self._redactor.redact(str(cause)))
        return request_failed(self._provider, "NETWORK", type(error).__name__)

    def broke_off(self) -> ModelError:
        """The stream ended and the answer had not."""
        return request_failed(self._provider, "NETWORK", "the stream ended before the answer did")

    def invalid(self, message: str) -> ModelError:
        """What came is not the provider's language."""
        return request_failed(self._provider, "INVALID_RESPONSE", message[:_MESSAGE_MAX_CHARS], retryable=False)


def retry_after_ms(headers: Mapping[str, str]) -> int | None:
    """`retry-after-ms`, else `Retry-After` in seconds or as a date; None where there is neither."""
    found = {name.lower(): value.strip() for name, value in headers.items()}
    for name, unit_ms in (("retry-after-ms", 1), ("retry-after", 1000)):
        try:
            asked_ms = float(found.get(name, "")) * unit_ms
        except ValueError:
            continue
        # Also false for NaN.
        if asked_ms >= 0:
            return int(min(asked_ms, _RETRY_AFTER_MAX_MS))
    try:
        until = parsedate_to_datetime(found.get("retry-after", ""))
    except ValueError:
        return None
    until = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
    return int(min(max(0.0, (until - datetime.now(UTC)).total_seconds() * 1000), _RETRY_AFTER_MAX_MS))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
