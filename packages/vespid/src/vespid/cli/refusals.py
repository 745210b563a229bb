"""What the client raises, as a cause, a mend and an exit code."""

from vespid.cli import exit_codes
from vespid.cli.problem import Problem
from vespid_client import (
    AnswerNotUnderstood,
    ApiError,
    BadRequest,
    ConnectionFailed,
    Forbidden,
    NotFound,
    NotSignedIn,
    RateLimited,
    RunFailed,
    VespidError,
)

_MENDS = {
    "ORG_ACCESS_DENIED": "You are not a member of this organization: vespid org ls shows yours, vespid org use chooses",
    "ORG_CONTEXT_REQUIRED": "Choose an organization: vespid org use",
    "INVALID_ORG_CONTEXT": "Choose an organization: vespid org use",
    "AGENT_INSTALLER_UNAVAILABLE": "The server offers no downloads; install the agent with: pip install vespid-agent",
    "SECRETS_NOT_CONFIGURED": "The server needs SECRETS_KEK_ID and SECRETS_KEK_BASE64",
    "SECRET_ALREADY_EXISTS": "vespid secret set replaces its value",
    "SECRET_NOT_FOUND": "vespid secret ls shows what there is",
    "NO_AGENT_AVAILABLE": "vespid agent ls shows who is online; vespid agent pair adds one",
    "QUEUE_UNAVAILABLE": "Is the worker running? vespid doctor looks",
    "SESSION_BUSY": "It answers another message; wait, or cancel that",
}


def problem_of(error: VespidError) -> Problem:
    """The same, as it is told to people."""
    if isinstance(error, ConnectionFailed):
        return Problem(f"the server cannot be reached: {error}", "vespid doctor finds out why", exit_codes.UNREACHABLE)
    if isinstance(error, AnswerNotUnderstood):
        mend = "Is this the address of a Vespid server, and of one as new as this program? vespid doctor looks"
        return Problem(f"the answer was not understood: {error}", mend)
    if isinstance(error, RunFailed):
        return Problem(f"the run {error.run.status}: {error}", f"vespid run logs {error.run.id}")
    if isinstance(error, ApiError):
        return _refused(error)
    return Problem(str(error), _MENDS.get(getattr(error, "code", ""), ""))


def _refused(error: ApiError) -> Problem:
    cause = f"{error.message} ({error.code})"
    mend = _MENDS.get(error.code, "")
    if isinstance(error, NotSignedIn):
        mend = mend or "Sign in: vespid login"
        return Problem(cause, mend, exit_codes.DENIED)
    if isinstance(error, Forbidden):
        return Problem(cause, mend or "vespid whoami shows your role", exit_codes.DENIED)
    if isinstance(error, NotFound):
        return Problem(cause, mend, exit_codes.NOT_FOUND)
    if isinstance(error, BadRequest):
        fields = [f"{field}: {said}" for field, problems in error.field_errors.items() for said in problems]
        return Problem("\n".join([cause, *fields]), mend, exit_codes.FAILED)
    if isinstance(error, RateLimited):
        wait = f"Try again in {error.retry_after:.0f} s" if error.retry_after else "Try again later"
        return Problem(cause, wait)
    if error.status >= 500 and error.request_id:
        mend = mend or f"The server's log has it under the request id {error.request_id}"
    return Problem(cause, mend)
