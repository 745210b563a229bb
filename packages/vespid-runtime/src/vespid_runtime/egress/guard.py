"""The guard itself: from a host to the addresses that were checked, so that the connection goes to those and no others.

Resolving once and connecting to what was checked is what defeats DNS rebinding: nothing asks for the name again.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address

from yarl import URL

from vespid_runtime.egress.errors import EgressDenied, EgressInvalid
from vespid_runtime.egress.policy import Address, EgressPolicy, first_refusal, literal_address

# (host, port) → addresses as text. Raises OSError (socket.gaierror) when the name has none.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

# Ports of mail and shell services speak line protocols that an HTTP request can be bent to (spam, smuggled commands).
_NOT_HTTP_PORTS = frozenset({22, 23, 25, 110, 143, 465, 587, 993, 995, 6667})


async def resolve_by_system(host: str, port: int) -> list[str]:
    """The operating system's resolver, in order of its preference, without repeats."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class EgressGuard:
    """One per process: the policy and the resolver."""

    def __init__(self, policy: EgressPolicy, resolve: Resolve = resolve_by_system) -> None:
        self.policy = policy
        self._resolve = resolve

    def check_url(self, url: str) -> URL:
        """The parsed URL, when it is one we would connect to as far as can be told without resolving.

        Raises `EgressInvalid` (shape) or `EgressDenied` (a literal address, a port).
        """
        parsed = self.parse_url(url)
        host, port = str(parsed.raw_host), int(parsed.port or 0)
        literal = literal_address(host)
        if literal is not None:
            self._check(host, [literal], port)
        opened = any(entry.port == port for entry in self.policy.allow)
        if self.policy.profile == "cloud" and port in _NOT_HTTP_PORTS and not opened:
            raise EgressDenied(f"port {port} is not one for HTTP requests")
        return parsed

    @staticmethod
    def parse_url(url: str) -> URL:
        """Raises `EgressInvalid`. What comes back has scheme http or https, a host, a port and no user info."""
        if any(ord(char) <= 0x20 or ord(char) == 0x7F for char in url):
            raise EgressInvalid("the URL holds spaces or control characters")
        try:
            parsed = URL(url)
            host, port = parsed.raw_host, parsed.port
        except ValueError:
            raise EgressInvalid("not a URL that can be parsed") from None
        if parsed.scheme not in ("http", "https"):
            raise EgressInvalid(f"scheme {parsed.scheme!r} is not http or https")
        if not host:
            raise EgressInvalid("the URL names no host")
        if parsed.raw_user is not None or parsed.raw_password is not None:
            raise EgressInvalid("the URL holds a user name or password; use auth.secretId or headers")
        if port is None or not 1 <= port <= 65535:
            raise EgressInvalid("the URL's port is not between 1 and 65535")
        if "\\" in parsed.raw_authority or "@" in parsed.raw_authority:
            raise EgressInvalid("the URL's host is not plain")
        literal_address(host)
        return parsed.with_fragment(None)

    async def addresses(self, host: str, port: int) -> list[Address]:
        """The checked addresses of a host: connect to one of these and to nothing else.

        Raises `EgressInvalid`, `EgressDenied`, or `OSError` when the name does not resolve.
        """
        host = host.lower()
        literal = literal_address(host)
        if literal is not None:
            return self._check(host, [literal], port)
        try:
            found = [ip_address(text) for text in await self._resolve(host, port)]
        except ValueError:
            raise EgressDenied(f"{host} resolves to something that is no address") from None
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, f"{host} has no address")
        return self._check(host.rstrip("."), found, port)

    def _check(self, host: str, addresses: list[Address], port: int) -> list[Address]:
        refused = first_refusal(self.policy, host, addresses, port)
        if refused is not None:
            address, reason = refused
            where = host if host == str(address) else f"{host} ({address})"
            raise EgressDenied(f"{where} is {reason}; the {self.policy.profile} does not connect there")
        return addresses
