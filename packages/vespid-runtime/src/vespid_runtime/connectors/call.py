"""One HTTP call of a connector, with its failures in the words of the contract.

429, 5xx and what the network does are retryable; a refused address, a bad certificate or a redirect loop are not.
"""

from collections.abc import Mapping

import aiohttp

from vespid_runtime.connectors.contract import ActionContext, ConnectorError, invalid_input
from vespid_runtime.egress import HttpReply, TooManyRedirects


async def call(
    context: ActionContext,
    service: str,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes | None = None,
    operator_base: str | None = None,
    private_headers: frozenset[str] = frozenset(),
) -> HttpReply:
    """The reply, whatever its status below 500 other than 429. Raises `ConnectorError` <SERVICE>_REQUEST_FAILED[:n]."""
    if body is not None and len(body) > context.limits.request_max_bytes:
        raise invalid_input("body", f"longer than {context.limits.request_max_bytes} bytes")
    code = f"{service}_REQUEST_FAILED"
    try:
        reply = await context.http.fetch(
            method,
            url,
            headers=headers,
            body=body,
            max_bytes=context.limits.response_max_bytes,
            max_redirects=context.limits.max_redirects,
            operator_base=operator_base,
            private_headers=private_headers,
        )
    except TooManyRedirects as endless:
        raise ConnectorError(code, str(endless)) from endless
    except aiohttp.ClientConnectorCertificateError as untrusted:
        raise ConnectorError(code, f"the certificate of {untrusted.host} is not trusted") from untrusted
    except aiohttp.ClientConnectorError as unreachable:
        message = f"{unreachable.host}:{unreachable.port} cannot be reached ({type(unreachable).__name__})"
        raise ConnectorError(code, message, retryable=True) from unreachable
    except (aiohttp.ClientError, OSError) as broken:
        # The text of these may quote the URL with its query: only the kind is told.
        raise ConnectorError(code, f"the exchange broke off ({type(broken).__name__})", retryable=True) from broken
    if reply.status == 429 or reply.status >= 500:
        raise failed(service, reply, retryable=True)
    return reply


def failed(service: str, reply: HttpReply, *, retryable: bool, reason: str = "") -> ConnectorError:
    message = f"answered {reply.status}" + (f": {reason[:500]}" if reason else "")
    return ConnectorError(
        f"{service}_REQUEST_FAILED:{reply.status}",
        message,
        retryable=retryable,
        retry_after_ms=reply.retry_after_ms if retryable else None,
        details={"status": reply.status},
    )
