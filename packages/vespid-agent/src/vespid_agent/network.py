"""How the agent reaches the outside: trusted certificates, proxies of the environment, one HTTP session."""

from __future__ import annotations

import ssl
import urllib.request
from pathlib import Path

import aiohttp
from yarl import URL

_CONNECT_TIMEOUT_S = 15


class NetworkMisconfigured(Exception):
    """The CA file or the proxy cannot be used; the message names it."""


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """The system's authorities, and those of the file beside them. Raises NetworkMisconfigured."""
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as error:
            raise NetworkMisconfigured(f"VESPID_AGENT_TLS_CA_FILE={ca_file} cannot be used: {error}") from error
    return context


def proxy_for(url: str) -> tuple[URL | None, aiohttp.BasicAuth | None]:
    """The proxy that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY name for the URL, and its credentials.

    A WebSocket goes the way of the HTTP scheme it begins as.
    """
    target = URL(url)
    scheme = {"ws": "http", "wss": "https"}.get(target.scheme, target.scheme)
    proxies = urllib.request.getproxies_environment()
    named = proxies.get(scheme) or proxies.get("all")
    host = f"{target.host}:{target.port}"
    if not named or urllib.request.proxy_bypass(host):
        return None, None
    proxy = URL(named if "://" in named else f"http://{named}")
    if proxy.scheme not in ("http", "https"):
        raise NetworkMisconfigured(f"the proxy {proxy.with_user(None)} is not an HTTP proxy")
    auth = aiohttp.BasicAuth(proxy.user, proxy.password or "") if proxy.user else None
    return proxy.with_user(None), auth


def http_session(ca_file: Path | None) -> aiohttp.ClientSession:
    """A session for pairing and the socket. Raises NetworkMisconfigured."""
    connector = aiohttp.TCPConnector(ssl=tls_context(ca_file), limit=8)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S)
    return aiohttp.ClientSession(connector=connector, timeout=timeout)
