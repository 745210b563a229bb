"""The egress guard: where a connector may connect to, decided on addresses and held to the moment of the connection."""

from vespid_runtime.egress.errors import EgressDenied, EgressInvalid, EgressRefused
from vespid_runtime.egress.guard import EgressGuard, Resolve
from vespid_runtime.egress.http import GuardedHttp, HttpReply, TooManyRedirects
from vespid_runtime.egress.policy import EgressPolicy

__all__ = [
    "EgressDenied",
    "EgressGuard",
    "EgressInvalid",
    "EgressPolicy",
    "EgressRefused",
    "GuardedHttp",
    "HttpReply",
    "Resolve",
    "TooManyRedirects",
]
