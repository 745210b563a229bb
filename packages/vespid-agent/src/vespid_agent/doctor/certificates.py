"""When certificates end."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping

from vespid_agent.doctor.finding import Finding, fail, ok, warn

# A certificate that ends sooner should have been renewed by now.
RENEW_DAYS = 14
_DAY_S = 86_400


def days_left(not_after: str, now_s: float | None = None) -> float:
    """Of a time as `getpeercert` writes it; negative when it is over."""
    ends = ssl.cert_time_to_seconds(not_after) if not_after else 0
    return (ends - (time.time() if now_s is None else now_s)) / _DAY_S


def judge(check: str, certificate: Mapping[str, object], now_s: float | None = None) -> Finding:
    """Of one that was verified."""
    left = days_left(str(certificate.get("notAfter", "")), now_s)
    said = f"verified, issued by {_issuer(certificate)}, ends in {left:.0f} days"
    if left < 0:
        return fail(check, said, "Have it renewed.")
    return warn(check, said, "Have it renewed.") if left < RENEW_DAYS else ok(check, said)


def _issuer(certificate: Mapping[str, object]) -> str:
    parts = certificate.get("issuer")
    named = {name: value for part in (parts if isinstance(parts, tuple) else ()) for name, value in part}
    return str(named.get("organizationName") or named.get("commonName") or "an authority without a name")
