"""Where Redis is, who we are to it, and how a command is spelled."""

import ssl

import hiredis
from redis.asyncio.connection import parse_url

Argument = str | bytes | int | float


def pack(command: tuple[Argument, ...]) -> bytes:
    """The command as it goes over the wire."""
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub says a tuple of one
    return packed


class Address:
    """Where Redis is and who we are to it, from a `redis://`, `rediss://` or `unix://` URL."""

    def __init__(self, url: str) -> None:
        options = parse_url(url)
        self.path: str | None = options.get("path")
        self.host: str = options.get("host") or "127.0.0.1"
        self.port: int = options.get("port") or 6379
        self.username: str | None = options.get("username")
        self.password: str | None = options.get("password")
        self.database: int = options.get("db") or 0
        self.tls = ssl.create_default_context() if url.startswith("rediss://") else None

    def greeting(self, name: str) -> list[tuple[Argument, ...]]:
        """Commands that every new connection begins with."""
        commands: list[tuple[Argument, ...]] = []
        if self.password is not None:
            user = () if self.username is None else (self.username,)
            commands.append(("AUTH", *user, self.password))
        if self.database:
            commands.append(("SELECT", self.database))
        commands.append(("CLIENT", "SETNAME", name))
        return commands
