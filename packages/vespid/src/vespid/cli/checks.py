"""What `vespid doctor` looks at on the way to the server, below HTTP: proxy, names, sockets, TLS; and clocks.

Each check says what it found, and where that is bad why exactly, and what mends it. A check that cannot be made because
an earlier one failed is not made.
"""

import asyncio
import ipaddress
import os
import socket
import ssl
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal
from urllib.parse import urlsplit

CONNECT_WITHIN_S = 5.0
CERTIFICATE_WARN_DAYS = 14
SKEW_WARN_S = 5.0
# Access tokens live for 15 minutes; a clock that is off by some of that makes them look over.
SKEW_FAIL_S = 120.0

# X509_V_ERR_* of OpenSSL.
_EXPIRED = 10
_UNKNOWN_AUTHORITY = (18, 19, 20, 21)
_OTHER_NAME = (62, 64)

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Found:
    """One line of the doctor."""

    check: str
    state: State
    said: str
    mend: str = ""

    def to_json(self) -> dict[str, str]:
        return {"check": self.check, "state": self.state, "said": self.said, "mend": self.mend}


@dataclass(frozen=True)
class Place:
    """Where the server is said to be."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, base: str) -> "Place":
        parts = urlsplit(base)
        is_tls = parts.scheme in ("https", "wss")
        return cls(parts.scheme, parts.hostname or "", parts.port or (443 if is_tls else 80))

    @property
    def is_tls(self) -> bool:
        return self.scheme in ("https", "wss")

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        return _is_address(self.host) and ipaddress.ip_address(self.host).is_loopback


def proxy_of(place: Place) -> str | None:
    """The proxy that the environment names for this place; None for none."""
    if urllib.request.proxy_bypass(place.host):
        return None
    return urllib.request.getproxies().get("https" if place.is_tls else "http")


def check_proxy(place: Place) -> Found:
    """Whether calls go through a proxy."""
    proxy = proxy_of(place)
    variable = "HTTPS_PROXY" if place.is_tls else "HTTP_PROXY"
    if proxy is None:
        is_set = variable in os.environ or variable.lower() in os.environ
        return Found("proxy", "ok", "none for this host (NO_PROXY names it)" if is_set else "none")
    shown = without_password(proxy)
    if place.is_loopback:
        mend = f"Add {place.host} to NO_PROXY: a proxy cannot reach this machine's own addresses"
        return Found("proxy", "warn", f"{shown} by {variable}, although {place.host} is this machine", mend)
    return Found("proxy", "ok", f"{shown} by {variable}")


def check_transport(place: Place) -> Found:
    """Whether credentials travel in the open."""
    if place.is_tls or place.is_loopback:
        return Found("transport", "ok", "https" if place.is_tls else "http, and it does not leave this machine")
    mend = "Put the control plane behind TLS, and sign in at its https:// address"
    return Found("transport", "warn", f"http to {place.host}: the login travels in the open", mend)


async def check_dns(place: Place) -> Found:
    """Whether the name of the host leads to addresses."""
    if _is_address(place.host):
        return Found("dns", "ok", f"{place.host} is an address, there is no name to look up")
    began = time.monotonic()
    try:
        async with asyncio.timeout(CONNECT_WITHIN_S):
            infos = await asyncio.get_running_loop().getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except TimeoutError:
        return Found(
            "dns", "fail", f"{place.host}: no answer in {CONNECT_WITHIN_S:.0f} s", "Is the name server reachable?"
        )
    except (OSError, UnicodeError) as error:
        mend = "Is it spelled right? Is the VPN on? `vespid whoami` says which address is used"
        return Found("dns", "fail", f"{place.host}: {_reason(error)}", mend)
    addresses = ", ".join(dict.fromkeys(str(info[4][0]) for info in infos))
    return Found("dns", "ok", f"{place.host} is {addresses} ({_ms(began)})")


async def check_tcp(place: Place) -> Found:
    """Whether anything listens there (or at the proxy, where one is used)."""
    proxy = proxy_of(place)
    to = place if proxy is None else Place.of(proxy if "://" in proxy else f"http://{proxy}")
    named = f"{to.host}:{to.port}" + (" (the proxy)" if proxy else "")
    began = time.monotonic()
    try:
        async with asyncio.timeout(CONNECT_WITHIN_S):
            _, writer = await asyncio.open_connection(to.host, to.port)
    except TimeoutError:
        mend = "A firewall drops it, or the machine is down: is the port open from here?"
        return Found("tcp", "fail", f"{named}: no answer in {CONNECT_WITHIN_S:.0f} s", mend)
    except ConnectionRefusedError:
        return Found(
            "tcp",
            "fail",
            f"{named}: refused: nothing listens there",
            "Is the server up (vespid up)? Is it the right port?",
        )
    except OSError as error:
        return Found("tcp", "fail", f"{named}: {_reason(error)}", "Is this network the right one?")
    peer = writer.get_extra_info("peername")
    took = _ms(began)
    writer.close()
    return Found("tcp", "ok", f"connected to {peer[0]}:{peer[1]} ({took})")


async def check_tls(place: Place, env: Mapping[str, str]) -> Found:
    """Whether the certificate is good, by whom it was issued, and for how long it still is."""
    if not place.is_tls:
        return Found("tls", "ok", "not used")
    if proxy_of(place) is not None:
        return Found("tls", "ok", "through the proxy: what the calls below say holds")
    trust = env.get("SSL_CERT_FILE") or "the system's authorities"
    try:
        context = ssl.create_default_context()
        async with asyncio.timeout(CONNECT_WITHIN_S):
            _, writer = await asyncio.open_connection(place.host, place.port, ssl=context, server_hostname=place.host)
    except ssl.SSLCertVerificationError as error:
        return Found("tls", "fail", *_certificate_trouble(error, place, trust))
    except TimeoutError:
        return Found("tls", "fail", f"no handshake in {CONNECT_WITHIN_S:.0f} s", "Does that port speak TLS?")
    except (OSError, ValueError) as error:
        return Found("tls", "fail", _reason(error), "Does that port speak TLS? A plain server is http://")
    certificate = writer.get_extra_info("peercert") or {}
    version = writer.get_extra_info("ssl_object").version()
    writer.close()
    return _certificate(certificate, version, trust, time.time())


def check_clock(date_header: str | None, now: float) -> Found:
    """How far this machine's clock is from the server's."""
    if not date_header:
        return Found(
            "clock", "warn", "the server does not say what time it is", "A proxy may have taken the Date header"
        )
    try:
        theirs = parsedate_to_datetime(date_header).timestamp()
    except ValueError:
        return Found("clock", "warn", f"the server's Date header is no date: {date_header[:60]}")
    # The header has whole seconds: half of one is in the middle.
    skew = now - (theirs + 0.5)
    said = f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} the server"
    mend = "Set this machine's clock: timedatectl set-ntp true"
    if abs(skew) > SKEW_FAIL_S:
        return Found("clock", "fail", f"{said}: tokens look expired, or not yet valid", mend)
    if abs(skew) > SKEW_WARN_S:
        return Found("clock", "warn", said, mend)
    return Found("clock", "ok", "within a second of the server's" if abs(skew) <= 1.5 else said)


def without_password(url: str) -> str:
    """An address that can be shown."""
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}…@{rest.rpartition('@')[2]}" if "@" in rest else url


def _certificate(certificate: Mapping[str, object], version: str, trust: str, now: float) -> Found:
    issuer = _issuer(certificate)
    until = certificate.get("notAfter")
    if not isinstance(until, str):
        return Found("tls", "ok", f"{version}, issued by {issuer}")
    left_days = (ssl.cert_time_to_seconds(until) - now) / 86_400
    day = datetime.fromtimestamp(ssl.cert_time_to_seconds(until), UTC).date()
    said = f"{version}, issued by {issuer} (trusted by {trust}), good until {day}"
    if left_days < CERTIFICATE_WARN_DAYS:
        return Found("tls", "warn", f"{said}: {left_days:.0f} days", "Have the certificate of the server renewed")
    return Found("tls", "ok", said)


def _issuer(certificate: Mapping[str, object]) -> str:
    issuer = certificate.get("issuer")
    names: dict[str, str] = {}
    if isinstance(issuer, Sequence):
        names = {key: value for part in issuer for key, value in part}
    return names.get("organizationName") or names.get("commonName") or "an unnamed authority"


def _certificate_trouble(error: ssl.SSLCertVerificationError, place: Place, trust: str) -> tuple[str, str]:
    said = error.verify_message or _reason(error)
    if error.verify_code == _EXPIRED:
        return (
            f"the certificate has expired: {said}",
            "Have the certificate of the server renewed (or set this clock)",
        )
    if error.verify_code in _OTHER_NAME:
        return (
            f"the certificate is of another name than {place.host}: {said}",
            "Use the name that is in the certificate",
        )
    if error.verify_code in _UNKNOWN_AUTHORITY:
        mend = "If it is your company's private authority: SSL_CERT_FILE=/path/to/ca.pem (PEM, its root included)"
        return (f"the authority that issued the certificate is not trusted by {trust}: {said}", mend)
    return (f"the certificate is not good: {said}", "openssl s_client -connect shows it")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _ms(began: float) -> str:
    return f"{(time.monotonic() - began) * 1000:.0f} ms"
