"""Names of the channels that processes publish to, so that both ends spell them alike."""

from vespid_protocol.ids import ProcessId

# Every edge listens: orders about executors whose edge the sender does not know (`messages.CancelOrder`).
EDGES = "edges"

# Every process listens: `control_feed` has news (`messages.FeedHint`).
FEED = "feed"

# Wake queue of pending executions that a worker runs itself.
CLOUD_QUEUE = "cloud-executions"

# Wake queue of sessions (`session_item`) with a turn that wants a host.
TURN_QUEUE = "session-turns"


def presence_channel(process_id: ProcessId) -> str:
    """Nothing is published here. A process that listens is connected; one that was killed does not from that moment."""
    return f"process:{process_id}"


def run_channel(run_id: str) -> str:
    """Where a run's new `event_seq` is told, as decimal digits."""
    return f"run:{run_id}"


def run_item(org_id: str, run_id: str) -> str:
    """A run in a wake queue (`dispatch.backlog`)."""
    return f"{org_id}/{run_id}"


def org_channel(org_id: str) -> str:
    """Where it is told that something in an organization has changed (`org_news`)."""
    return f"org:{org_id}"


def call_channel(request_id: str) -> str:
    """Where the end of a tool's call is told to the loop that waits for it; without a word, it is in Postgres."""
    return f"call:{request_id}"


def session_channel(session_id: str) -> str:
    """Where a session's news is told (`session_news`)."""
    return f"session:{session_id}"


def session_item(org_id: str, session_id: str) -> str:
    """A session in a wake queue (`dispatch.backlog`)."""
    return f"{org_id}/{session_id}"
