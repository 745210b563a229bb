"""Names of the channels that processes publish to, so that both ends spell them alike."""

from vespid_protocol.ids import OrgId, ProcessId, RunId

# Every edge listens: orders about executors whose edge the sender does not know (`messages.CancelOrder`).
EDGES = "edges"

# Every process listens: `control_feed` has news (`messages.FeedHint`).
FEED = "feed"

# Wake queue of pending executions that a worker runs itself.
CLOUD_QUEUE = "cloud-executions"


def presence_channel(process_id: ProcessId) -> str:
    """Nothing is published here. A process that listens is connected; one that was killed does not from that moment."""
    return f"process:{process_id}"


def run_channel(run_id: str) -> str:
    """Where a run's new `event_seq` is told, as decimal digits."""
    return f"run:{run_id}"


def run_item(org_id: str, run_id: str) -> str:
    """A run in a wake queue."""
    return f"{org_id}/{run_id}"


def parse_run_item(item: str) -> tuple[OrgId, RunId]:
    """The organization and the run that `run_item` named."""
    org_id, _, run_id = item.partition("/")
    return OrgId(org_id), RunId(run_id)
