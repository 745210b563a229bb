"""What a caller is told where no executor can be named now."""

from vespid.bus.choice import NoneReason
from vespid.dispatch.scheduler import refusal_code
from vespid.errors import ApiError

_WHY = {
    NoneReason.NONE_CONNECTED: "No agent of the organization is connected.",
    NoneReason.NONE_MATCHES: "No connected agent matches the selector and can do this kind of work.",
    NoneReason.ALL_FULL: "Every agent that matches is full.",
    NoneReason.BEHIND: "Older requests are waiting for the agents that match.",
    NoneReason.NOT_TAKING: "The agent that is asked for takes nothing new now.",
    NoneReason.QUOTA: "The organization has as much work in flight as it may.",
}


def not_now() -> ApiError:
    """The house itself is not ready; the same call may succeed in a second."""
    return ApiError(503, "GATEWAY_UNAVAILABLE", "The gateway cannot place work now.", headers={"Retry-After": "1"})


def nobody(reason: NoneReason, *, pinned: bool) -> ApiError:
    """Nobody has room, or nobody is there, or the quota is used up."""
    code, details = refusal_code(reason, pinned=pinned)
    return ApiError(429 if reason is NoneReason.QUOTA else 503, code, _WHY[reason], details)
