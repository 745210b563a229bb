"""Connections that are not HTTP, held to checked addresses while TLS still asks for the real name."""

import asyncio
import socket
import ssl

from vespid_runtime.egress.guard import EgressGuard


async def open_socket(guard: EgressGuard, host: str, port: int) -> socket.socket:
    """A connected, non-blocking TCP socket to the first checked address that answers.

    Raises `EgressRefused`, or the last `OSError` when none answers.
    """
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    for address in await guard.addresses(host, port):
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setblocking(False)
        try:
            await loop.sock_connect(opened, (str(address), port))
        except OSError as refused:
            opened.close()
            failure = refused
        except BaseException:
            opened.close()
            raise
        else:
            return opened
    raise failure or OSError(f"{host} has no address")


class NamedContext(ssl.SSLContext):
    """For drivers that take the address for the name: certificates are checked against `server_name` instead."""

    server_name: str | None = None

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return super().wrap_bio(incoming, outgoing, server_side, self.server_name or server_hostname, session)


def named_context(server_name: str, *, verify: bool) -> NamedContext:
    """With `verify` the chain and the name are checked against the system's authorities; without it only encrypts."""
    context = NamedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.server_name = server_name
    if verify:
        context.load_default_certs()
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
