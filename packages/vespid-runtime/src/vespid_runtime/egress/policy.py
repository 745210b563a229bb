"""Which addresses a process may connect to: two profiles as tables of networks, and the operator's list. Pure.

cloud  workflows of many customers run beside our own services: nothing but public unicast addresses, widened by
       `VESPID_EGRESS_ALLOW`.
agent  the customer's own network is what the agent is there for: all but link-local and metadata addresses, narrowed by
       `VESPID_AGENT_EGRESS_ALLOW`.

The tables are spelled out after the IANA special-purpose registries: `ipaddress.is_global` differs between versions
of Python.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal

from vespid_runtime.egress.errors import EgressInvalid

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


# Link-local ranges and the fixed addresses at which clouds hand out credentials to whoever asks from inside.
_METADATA = _networks(
    "169.254.0.0/16",  # link-local; AWS, GCP, Azure, ECS task metadata
    "fe80::/10",
    "fd00:ec2::/32",  # AWS over IPv6
    "fd20:ce::254/128",  # GCP over IPv6
    "168.63.129.16/32",  # Azure wire server
    "100.100.100.200/32",  # Alibaba Cloud
    "192.0.0.192/32",  # Oracle Cloud
)

_NOT_PUBLIC_V4 = _networks(
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",  # carrier-grade NAT
    "127.0.0.0/8",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, broadcast
)

_PUBLIC_V6 = ip_network("2000::/3")
_NOT_PUBLIC_V6 = _networks("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")

_NAT64 = ip_network("64:ff9b::/96")
_NAT64_LOCAL = ip_network("64:ff9b:1::/48")
_V4_COMPATIBLE = ip_network("::/96")


def embedded_v4(address: Address) -> Iterator[IPv4Address]:
    """Every IPv4 address that a translator or tunnel might make of an IPv6 one."""
    if isinstance(address, IPv4Address):
        return
    low = IPv4Address(int(address) & 0xFFFFFFFF)
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    elif address in _NAT64 or address in _V4_COMPATIBLE:
        yield low
    elif address in _NAT64_LOCAL:
        yield low
        octets = address.packed
        yield IPv4Address(octets[6:8] + octets[9:11])  # RFC 6052 with a /48 prefix
    elif address.sixtofour is not None:
        yield address.sixtofour
    elif address.teredo is not None:
        yield from address.teredo


def _refused_on_agent(address: Address) -> str | None:
    for form in (address, *embedded_v4(address)):
        if any(form in network for network in _METADATA):
            return "a link-local or metadata address"
    return None


def _refused_in_cloud(address: Address) -> str | None:
    reason = _refused_on_agent(address)
    if reason is not None:
        return reason
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return _refused_in_cloud(address.ipv4_mapped)
        if address in _NAT64:
            return next((r for v4 in embedded_v4(address) if (r := _refused_in_cloud(v4))), None)
        public = address in _PUBLIC_V6 and not any(address in network for network in _NOT_PUBLIC_V6)
        return None if public else "not a public address"
    return "not a public address" if any(address in network for network in _NOT_PUBLIC_V4) else None


@dataclass(frozen=True, slots=True)
class AllowEntry:
    """`host`, `*.domain`, an address or a network, each with an optional port."""

    host: str | None
    network: Network | None
    port: int | None

    def covers(self, host: str, address: Address, port: int) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            return any(form in self.network for form in (address, *embedded_v4(address)))
        assert self.host is not None
        if self.host.startswith("*."):
            return host.endswith(self.host[1:])
        return host == self.host


_HOST = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?")


def parse_allow(text: str) -> tuple[AllowEntry, ...]:
    """A comma-separated list: `internal.example:8443, *.corp.example, 10.1.0.0/16, [fd00::/8]:443`.

    Raises `ValueError` naming the entry: a list that is not understood must not be taken for an empty one.
    """
    return tuple(_entry(part.strip().lower()) for part in text.split(",") if part.strip())


def _entry(text: str) -> AllowEntry:
    name, port = text, None
    bracketed = re.fullmatch(r"\[(?P<name>[^\]]+)\](?::(?P<port>\d+))?", text)
    if bracketed:
        name, port = bracketed["name"], bracketed["port"]
    elif text.count(":") == 1:
        name, port = text.split(":")
    if port is not None and not (port.isdecimal() and 1 <= int(port) <= 65535):
        raise ValueError(f"egress allow list: {text!r} has no port between 1 and 65535")
    number = int(port) if port is not None else None
    try:
        return AllowEntry(None, ip_network(name, strict=False), number)
    except ValueError:
        if not _HOST.fullmatch(name) or "/" in name:
            raise ValueError(f"egress allow list: {text!r} is no host, address or network") from None
    return AllowEntry(name, None, number)


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    profile: Literal["cloud", "agent"]
    # cloud: what is open beyond the public network. agent: empty means all, else nothing but these.
    allow: tuple[AllowEntry, ...] = ()

    @classmethod
    def cloud(cls, allow: str = "") -> "EgressPolicy":
        """`allow` is the value of VESPID_EGRESS_ALLOW. Raises ValueError."""
        return cls("cloud", parse_allow(allow))

    @classmethod
    def agent(cls, allow: str = "") -> "EgressPolicy":
        """`allow` is the value of VESPID_AGENT_EGRESS_ALLOW. Raises ValueError."""
        return cls("agent", parse_allow(allow))

    def refusal(self, host: str, address: Address, port: int) -> str | None:
        """Why this address of that host is not connected to; None when it may be."""
        listed = any(entry.covers(host, address, port) for entry in self.allow)
        if self.profile == "cloud":
            return None if listed else _refused_in_cloud(address)
        if self.allow and not listed:
            return "not on VESPID_AGENT_EGRESS_ALLOW"
        return _refused_on_agent(address)


_NUMERIC_LABEL = re.compile(r"\d+|0x[0-9a-f]*")
_PLAIN_HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?")


def literal_address(host: str) -> Address | None:
    """The address a host literally is, or None for a name.

    Raises `EgressInvalid` for what is neither: an octal, hexadecimal, short or decimal IPv4 form (C libraries read
    those as addresses, and differently), a zone, a percent escape, anything that is not a plain host name.
    """
    if ":" in host:
        if "%" in host:
            raise EgressInvalid("an IPv6 address with a zone is not connected to")
        try:
            return IPv6Address(host)
        except ValueError:
            raise EgressInvalid(f"{host!r} is not an IPv6 address") from None
    if len(host) > 253 or not _PLAIN_HOST.fullmatch(host):
        raise EgressInvalid(f"{host[:253]!r} is not a plain host name")
    if _NUMERIC_LABEL.fullmatch(host.rstrip(".").rsplit(".", 1)[-1]):
        try:
            return ip_address(host)
        except ValueError:
            raise EgressInvalid(f"{host!r} is an IPv4 address in disguise: write it as four decimal numbers") from None
    return None


def first_refusal(
    policy: EgressPolicy, host: str, addresses: Sequence[Address], port: int
) -> tuple[Address, str] | None:
    """One refused address refuses the host: an answer that mixes good and bad ones is an attack or a mistake."""
    for address in addresses:
        reason = policy.refusal(host, address, port)
        if reason is not None:
            return address, reason
    return None
