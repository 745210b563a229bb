"""Webhooks, from the sender's side."""

from vespid_client.api import Api
from vespid_client.models.model import Model
from vespid_client.models.runs import Run
from vespid_client.retries import Repeat
from vespid_client.route import Route


class HookAnswer(Model, frozen=True, kw_only=True):
    """The run that was started."""

    run: Run


DELIVER = Route("POST", "/v1/hooks/{token}", HookAnswer, Repeat.KEYED, is_open=True)


class Hooks:
    """`client.hooks`."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def deliver(self, token: str, body: object = None, *, delivery_id: str | None = None) -> Run:
        """Start a webhook-triggered workflow; its `input.body` is `body`. One `delivery_id` starts one run."""
        return (await self._api.call(DELIVER, body=body, key=delivery_id, path={"token": token})).run
