"""429 on routes that anybody may call: failures are counted, successes never."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from vespid.control.deps import Deps
from vespid.control.principal import Connection
from vespid.errors import ApiError

FAILURES_LIMITED: dict[str, Any] = {"failures_limited": True}

# Behind one address there may be an office: it may fail so many times as often as one person.
ADDRESS_ALLOWANCE = 5
# A person may be attacked from many addresses; whoever does that must not lock them out at once.
PERSON_ALLOWANCE = 10

# (what is counted, how many times the limit it may fail)
Subject = tuple[str, int]


def client_address(connection: Connection) -> str:
    """The caller's address, as the server sees it."""
    return connection.client.host if connection.client else "unknown"


def subjects_of(connection: Connection, person: str | None = None) -> list[Subject]:
    """What a failure counts against: the address; with a person named also that person, and both together."""
    address = client_address(connection)
    subjects = [(f"address {address}", ADDRESS_ALLOWANCE)]
    if person is not None:
        subjects += [(f"person {person}", PERSON_ALLOWANCE), (f"both {address} {person}", 1)]
    return subjects


@contextlib.asynccontextmanager
async def failures_limited(
    deps: Deps, bucket: str, subjects: Sequence[Subject], *, valid_always_passes: bool = False
) -> AsyncIterator[None]:
    """Around an attempt: a refusal (ApiError 4xx) inside counts as a failure. Raises ApiError 429.

    As a rule, who has failed too often is not tried at all. With `valid_always_passes` every attempt is tried and only
    its failure is answered with 429: for tokens of so many bits that nobody guesses one, where the good must not suffer
    for their neighbours' failures.
    """
    if not valid_always_passes:
        await _refuse_if_over(deps, bucket, subjects)
    try:
        yield
    except ApiError as error:
        if 400 <= error.status < 500:
            if valid_always_passes:
                await _refuse_if_over(deps, bucket, subjects)
            for subject, _ in subjects:
                await deps.limiter.record_failure(bucket, subject)
        raise


async def _refuse_if_over(deps: Deps, bucket: str, subjects: Sequence[Subject]) -> None:
    for subject, allowance in subjects:
        wait_s = await deps.limiter.retry_after_s(bucket, subject, allowance=allowance)
        if wait_s is not None:
            raise ApiError(
                429,
                "RATE_LIMITED",
                f"Too many failed attempts. Try again in {wait_s} s.",
                {"retryAfterSec": wait_s},
                headers={"Retry-After": str(wait_s)},
            )
