"""The connection to one installation: one try of one request, with what comes back as it is."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from vespid_client.errors import ConnectionFailed
from vespid_client.proxy import proxy_for

# A stream says something at least every 15 s; one that is silent for longer than this is dead.
STREAM_SILENCE_S = 45.0
# For how long a connection is kept for the next request: less than servers keep it (5 s), so that none is sent into a
# connection that is being closed.
KEPT_S = 4.0


@dataclass(frozen=True)
class Answer:
    """What came back. Cookies are handled by who asked, and nowhere kept."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    cookies: Mapping[str, str]

    @property
    def is_ok(self) -> bool:
        """Whether it is a success; the API redirects nowhere."""
        return 200 <= self.status < 300


class Http:
    """Requests to the paths below `base_url`."""

    def __init__(self, base_url: str, *, timeout_s: float, tls: ssl.SSLContext | None, user_agent: str) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._tls = tls
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession | None = None

    @property
    def origin(self) -> str:
        """Of the installation's address."""
        return origin_of(self.base_url)

    async def send(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, data: bytes | None = None
    ) -> Answer:
        """One try. Raises ConnectionFailed."""
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        with self._failures():
            async with self._opened().request(
                method,
                self.base_url + path,
                data=data,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                proxy=proxy_for(self.base_url),
            ) as answer:
                cookies = {name: morsel.value for name, morsel in answer.cookies.items()}
                return Answer(answer.status, answer.headers, await answer.read(), cookies)

    @contextlib.asynccontextmanager
    async def stream(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that goes on. Raises ConnectionFailed, also from within the block when the line is lost."""
        timeout = aiohttp.ClientTimeout(total=None, connect=self._timeout_s, sock_read=STREAM_SILENCE_S)
        with self._failures():
            async with self._opened().get(
                self.base_url + path,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                proxy=proxy_for(self.base_url),
            ) as answer:
                yield answer

    @contextlib.asynccontextmanager
    async def websocket(
        self, url: str, headers: Mapping[str, str], heartbeat_s: float
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A socket. Raises aiohttp.WSServerHandshakeError where it is refused, else ConnectionFailed."""
        with self._failures():
            async with self._opened().ws_connect(
                url,
                headers=headers,
                heartbeat=heartbeat_s,
                max_msg_size=0,
                proxy=proxy_for(url),
            ) as socket:
                yield socket

    async def close(self) -> None:
        """Close its connections; the next request opens others."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _opened(self) -> aiohttp.ClientSession:
        # Made at the first request: it belongs to the loop that runs then.
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": self._user_agent},
                # Each thing that is followed has a connection of its own: their number is the caller's to limit.
                connector=aiohttp.TCPConnector(ssl=self._tls or True, keepalive_timeout=KEPT_S, limit=0),
            )
            # Or a DELETE would be sent twice without our knowing, and the second one's 404 be taken for the answer.
            self._session._retry_connection = False
        return self._session

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except aiohttp.WSServerHandshakeError:
            raise
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ConnectionFailed(f"{self.base_url}: {error or type(error).__name__}") from error


def origin_of(url: str) -> str:
    """Scheme and host of an address, as browsers send it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
