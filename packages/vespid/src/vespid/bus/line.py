"""A connection to Redis for one user: blocking reads and subscriptions, which would hold up the shared one."""

import asyncio

import hiredis

from vespid.bus.address import Address, Argument, pack
from vespid.bus.connection import Reply
from vespid.bus.errors import BusReplyError, BusUnavailable

_MORE = object()


class Line:
    """Commands out, one at a time; replies or pushes in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = hiredis.Reader(notEnoughData=_MORE)

    @classmethod
    async def open(cls, address: Address, name: str, within_s: float) -> "Line":
        """Connected and greeted. Raises `BusUnavailable` or, for a wrong password, `BusReplyError`."""
        try:
            async with asyncio.timeout(within_s):
                if address.path is not None:
                    line = cls(*await asyncio.open_unix_connection(address.path))
                else:
                    line = cls(*await asyncio.open_connection(address.host, address.port, ssl=address.tls))
                try:
                    for command in address.greeting(name):
                        await line.ask(*command)
                except BaseException:
                    line.close()
                    raise
                return line
        except (OSError, TimeoutError) as error:
            raise BusUnavailable(f"cannot connect to Redis: {str(error) or 'timed out'}") from error

    def write(self, *command: Argument) -> None:
        """Send without waiting for what comes back."""
        self._writer.write(pack(command))

    async def read(self) -> Reply:
        """The next reply or push. Raises `BusReplyError`, or `BusUnavailable` when the connection is lost."""
        try:
            while (reply := self._parser.gets()) is _MORE:
                data = await self._reader.read(65536)
                if not data:
                    raise BusUnavailable("Redis closed the connection")
                self._parser.feed(data)
        except (OSError, hiredis.ProtocolError) as error:
            raise BusUnavailable(f"the connection to Redis was lost: {error}") from error
        return _checked(reply)

    def parsed(self) -> Reply:
        """The next reply or push if it has arrived already, else None. Raises as `read` does."""
        try:
            reply = self._parser.gets()
        except hiredis.ProtocolError as error:
            raise BusUnavailable(f"the connection to Redis was lost: {error}") from error
        return None if reply is _MORE else _checked(reply)

    async def ask(self, *command: Argument) -> Reply:
        """Send and read the reply."""
        self.write(*command)
        return await self.read()

    def close(self) -> None:
        """Drop it."""
        self._writer.close()


def _checked(reply: object) -> Reply:
    if isinstance(reply, hiredis.ReplyError):
        raise BusReplyError(str(reply))
    return reply  # type: ignore[return-value]
