"""What calls of the store raise, sorted by what a caller can do about it, so that no other room names the driver.

    STORE_AWAY      Postgres is away, busy or stopping: the same call may succeed later. After a lost connection it may
                    even have been done (`OutcomeUnknown`): a repeat of any statement of ours changes nothing then.
    STORE_REFUSED   Postgres said no to what was asked, and will again: a bug of ours, or a value it cannot hold.

Catch the first before the second: it is the narrower. A loop that must live on catches both, `STORE_FAILED`.
"""

import asyncpg

from vespid.store.group import GroupStopped, OutcomeUnknown
from vespid.store.pool import LOST_CONNECTION, DatabaseUnavailable

STORE_AWAY: tuple[type[Exception], ...] = (
    DatabaseUnavailable,
    OutcomeUnknown,
    GroupStopped,
    *LOST_CONNECTION,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
)

STORE_REFUSED: tuple[type[Exception], ...] = (asyncpg.PostgresError,)

STORE_FAILED: tuple[type[Exception], ...] = (*STORE_AWAY, *STORE_REFUSED)
