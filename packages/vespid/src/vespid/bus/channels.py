"""Names of the channels that processes publish to, so that both ends spell them alike."""

# Every edge listens: orders about executors whose edge the sender does not know (`messages.CancelOrder`).
EDGES = "edges"

# Every process listens: `control_feed` has news (`messages.FeedHint`).
FEED = "feed"

# Wake queue of pending executions that a worker runs itself.
CLOUD_QUEUE = "cloud-executions"


def run_channel(run_id: str) -> str:
    """Where a run's new `event_seq` is told, as decimal digits."""
    return f"run:{run_id}"
