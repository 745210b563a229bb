"""Names on the bus that more than one room must agree on: channels, and the items of the wake-up queue."""

from typing import NamedTuple

from vespid_protocol.ids import OrgId, RunId, is_uuid

# Every process hears here that `control_feed` has a new row (messages.FeedHint).
FEED_CHANNEL = "feed"


def run_channel(run_id: RunId) -> str:
    """Where whoever commits events of a run says so; the message is the seq of the last one, in decimal digits."""
    return f"run:{run_id}"


class DueRunItem(NamedTuple):
    """An item of the queue WORKFLOW_CONTINUATION_QUEUE_NAME: a run that somebody must step now."""

    org_id: OrgId
    run_id: RunId

    def encode(self) -> str:
        """The item as it lies in the list."""
        return f"{self.org_id}/{self.run_id}"

    @classmethod
    def decode(cls, item: str) -> "DueRunItem":
        """Raises ValueError for what is no item."""
        org_id, _, run_id = item.partition("/")
        if not (is_uuid(org_id) and is_uuid(run_id)):
            raise ValueError("not an item of the form <organization>/<run>")
        return cls(OrgId(org_id), RunId(run_id))
