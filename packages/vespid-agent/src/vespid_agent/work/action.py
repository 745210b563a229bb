"""`connector.action`: one call of a connector, the same code as in the cloud, through this agent's network."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from vespid_agent.work.job import Job, Outcome, WorkFailed, idempotency_key
from vespid_protocol.codes import Code
from vespid_protocol.frames import Execute
from vespid_runtime.connectors import ActionContext, ActionLimits, ConnectorError, Registry
from vespid_runtime.egress import GuardedHttp
from vespid_runtime.secrets import SecretMissing, fill_secrets

KIND = "connector.action"


class Payload(msgspec.Struct, rename="camel", frozen=True):
    """What `execute.payload` holds for this kind."""

    connector_id: str
    action_id: str
    input: object = None
    # Base URLs that the request brings along, like githubApiBaseUrl.
    env: dict[str, object] | None = None


_decoder = msgspec.json.Decoder(Payload)


def parse(order: Execute) -> Payload:
    """Raises WorkFailed INVALID_ACTION_PAYLOAD, naming the field."""
    try:
        return _decoder.decode(order.payload)
    except msgspec.DecodeError as error:
        raise WorkFailed(Code.INVALID_ACTION_PAYLOAD, str(error)) from None


class ActionWork:
    """Runs connector actions with one shared, guarded HTTP client."""

    def __init__(self, registry: Registry, http: GuardedHttp, operator_base_urls: Mapping[str, str]) -> None:
        self._registry = registry
        self._http = http
        self._operator_base_urls = operator_base_urls

    async def run(self, payload: Payload, job: Job) -> Outcome:
        """Raises WorkFailed."""
        try:
            filled = fill_secrets({} if payload.input is None else payload.input, job.secrets)
        except SecretMissing as missing:
            raise WorkFailed(Code.SECRET_NOT_FOUND, str(missing)) from None
        context = ActionContext(
            http=self._http,
            idempotency_key=idempotency_key(job.order.request_id),
            request_id=job.order.request_id,
            limits=ActionLimits(timeout_ms=max(job.remaining_ms, 1)),
            operator_base_urls=self._operator_base_urls,
            request_base_urls={key: value for key, value in (payload.env or {}).items() if isinstance(value, str)},
        )
        try:
            output = await self._registry.run(
                payload.connector_id, payload.action_id, filled, job.order.secret, context
            )
        except ConnectorError as error:
            raise WorkFailed(error.code, error.message) from None
        return Outcome.of(output)
