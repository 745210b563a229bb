"""How a connection to a server ends by the server's own doing, and what it may send at most."""

from __future__ import annotations

# Of one message, be it a line or the body of an answer.
MESSAGE_MAX_BYTES = 16 * 1024 * 1024


class ServerEnded(Exception):
    """The server is gone, or did what none may. The message is ours; `said` is the server's own last words."""

    def __init__(self, message: str, said: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.said = said
