"""Python's way into a Vespid installation: typed, async and sync. Begin with `AsyncClient` or `Client`."""

from vespid_client.chat import Chat
from vespid_client.client import AsyncClient
from vespid_client.comeback import LineWatch
from vespid_client.conversation import ChatItem, Delta, Failed, Final, Happened, Restarted, Standing
from vespid_client.credentials import Login, LoginStore, MemoryStore
from vespid_client.errors import (
    AnswerNotUnderstood,
    ApiError,
    BadRequest,
    Conflict,
    ConnectionFailed,
    Forbidden,
    NotFound,
    NotSignedIn,
    RateLimited,
    RunFailed,
    SessionError,
    Unavailable,
    VespidError,
)
from vespid_client.listing import Listing, Page
from vespid_client.retries import Retries
from vespid_client.run_handle import RunHandle
from vespid_client.sync import Client, SyncChat, SyncRunHandle

__all__ = [
    "AnswerNotUnderstood",
    "ApiError",
    "AsyncClient",
    "BadRequest",
    "Chat",
    "ChatItem",
    "Client",
    "Conflict",
    "ConnectionFailed",
    "Delta",
    "Failed",
    "Final",
    "Forbidden",
    "Happened",
    "LineWatch",
    "Listing",
    "Login",
    "LoginStore",
    "MemoryStore",
    "NotFound",
    "NotSignedIn",
    "Page",
    "RateLimited",
    "Restarted",
    "Retries",
    "RunFailed",
    "RunHandle",
    "SessionError",
    "Standing",
    "SyncChat",
    "SyncRunHandle",
    "Unavailable",
    "VespidError",
]
