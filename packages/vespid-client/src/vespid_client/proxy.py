"""Proxies of the environment, as other programs use them: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY.

Asked here and not left to aiohttp, which would read `~/.netrc` as well and refuse to send both that and a bearer.
"""

import urllib.request
from urllib.parse import urlsplit

from vespid_client.errors import ConnectionFailed


def proxy_for(url: str) -> str | None:
    """The proxy for an address, with its credentials. A WebSocket goes the way of the scheme it begins as."""
    target = urlsplit(url)
    scheme = {"ws": "http", "wss": "https"}.get(target.scheme, target.scheme)
    proxies = urllib.request.getproxies_environment()
    named = proxies.get(scheme) or proxies.get("all")
    if not named or urllib.request.proxy_bypass(target.netloc):
        return None
    proxy = named if "://" in named else f"http://{named}"
    if urlsplit(proxy).scheme not in ("http", "https"):
        raise ConnectionFailed(f"the proxy of {scheme} addresses is not an HTTP proxy")
    return proxy
