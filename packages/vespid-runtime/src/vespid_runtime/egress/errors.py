"""Why a connection was not made.

EgressRefused
├── EgressInvalid     the URL or host is not something we connect to in any profile
└── EgressDenied      the address is one this profile does not connect to
"""


class EgressRefused(Exception):
    """Base of both; the text names the host, never the rest of the URL (it may hold a credential)."""


class EgressInvalid(EgressRefused):
    """Not an http(s) URL with a plain host: user info, a port out of range, an IP in disguise, a zone."""


class EgressDenied(EgressRefused):
    """Resolves to an address that this process must not reach."""
