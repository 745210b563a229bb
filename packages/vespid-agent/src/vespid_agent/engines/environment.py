"""What of the agent's environment a program gets: what it needs to run, to reach its provider, and to be who it is.

The one thing to know: this is a list of what passes, not of what does not. Nothing of ours is on it, so no token of
this agent reaches a program that models steer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

# Of any program.
_COMMON = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "SHELL", "TERM"),
    *("USERPROFILE", "APPDATA", "LOCALAPPDATA"),
    *("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"),
)
_NO_PROXY = ("NO_PROXY", "no_proxy")
# Where our tools are offered: never through a proxy.
_LOOPBACK = ("127.0.0.1", "localhost")


def passed(environment: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """Those of the agent's own that every program gets, and `names`: names and globs."""
    chosen = {
        name: value
        for name, value in environment.items()
        if name in _COMMON or any(fnmatchcase(name, pattern) for pattern in names)
    }
    # Programs read one or the other spelling: both say the same.
    hosts = [host.strip() for name in _NO_PROXY for host in chosen.get(name, "").split(",")]
    chosen |= dict.fromkeys(_NO_PROXY, ",".join(dict.fromkeys(filter(None, (*hosts, *_LOOPBACK)))))
    return {name: value for name, value in chosen.items() if not name.upper().startswith("VESPID_")}
