"""Secrets of connectors and model providers: written, never shown."""

from vespid_client.api import Api
from vespid_client.listing import Listing, listing
from vespid_client.models.model import Model
from vespid_client.models.secrets import Secret
from vespid_client.retries import Repeat
from vespid_client.route import delete, get, post, put


class SecretPage(Model, frozen=True, kw_only=True):
    """The newest first."""

    secrets: list[Secret]
    next_cursor: str | None


class SecretAnswer(Model, frozen=True, kw_only=True):
    """One secret."""

    secret: Secret


SECRETS = "/v1/orgs/{org_id}/secrets"
LIST_SECRETS = get(SECRETS, SecretPage)
CREATE_SECRET = post(SECRETS, SecretAnswer, Repeat.KEYED)
REPLACE_SECRET = put(f"{SECRETS}/{{secret_id}}", SecretAnswer)
DELETE_SECRET = delete(f"{SECRETS}/{{secret_id}}")


class Secrets:
    """`client.secrets`."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def list(self, *, connector_id: str | None = None) -> Listing[Secret]:
        """The organization's secrets, without their values; `connector_id`: only those of this connector."""
        return listing(self._api, LIST_SECRETS, lambda page: page.secrets, query={"connectorId": connector_id})

    async def create(self, connector_id: str, name: str, value: str, *, idempotency_key: str | None = None) -> Secret:
        """Seal a value under a name of its connector. Raises Conflict where there is one of that name."""
        body = {"connectorId": connector_id, "name": name, "value": value}
        return (await self._api.call(CREATE_SECRET, body=body, key=idempotency_key)).secret

    async def replace(self, secret_id: str, value: str) -> Secret:
        """Put another value in the place of the old one."""
        return (await self._api.call(REPLACE_SECRET, body={"value": value}, path={"secret_id": secret_id})).secret

    async def delete(self, secret_id: str) -> None:
        """Forget it; nodes that name it fail from now on."""
        await self._api.call(DELETE_SECRET, path={"secret_id": secret_id})
