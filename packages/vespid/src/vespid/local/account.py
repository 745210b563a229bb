"""Who the embedded servers run as.

Postgres refuses to run as root, so under root both servers run as an account without rights. No account is made and
no folder of others is opened: what that account cannot reach is copied to a folder of ours instead.
"""

import ctypes
import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

# `nobody` wherever there is one; an id needs no entry in a user database.
UNPRIVILEGED_ID = 65534

_PR_SET_PDEATHSIG = 1


class Account(msgspec.Struct, frozen=True):
    """A user and a group by their numbers."""

    uid: int
    gid: int


def server_account() -> Account | None:
    """The account to change to before a server is started; None where we are not root and stay who we are."""
    return Account(UNPRIVILEGED_ID, UNPRIVILEGED_ID) if os.geteuid() == 0 else None


def becoming(account: Account | None, *, when_orphaned: signal.Signals) -> Callable[[], None]:
    """What a child does between fork and exec: change to the account, and ask for a signal when its parent dies.

    Where the system cannot send that signal the child outlives a parent that is killed, and the next start ends it.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None

    def become() -> None:
        if account is not None:
            os.setgroups([])
            os.setgid(account.gid)
            os.setuid(account.uid)
        # After the change of user, which would clear it.
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, int(when_orphaned), 0, 0, 0)

    return become


def may_execute(path: Path, account: Account | None) -> bool:
    """Whether the account can reach this file or folder and execute or enter it."""
    if account is None:
        return os.access(path, os.X_OK)
    path = path.resolve()
    return all(_may_enter(place, account) for place in (path, *path.parents))


def _may_enter(place: Path, account: Account) -> bool:
    try:
        status = place.stat()
    except OSError:
        return False
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def give_to(path: Path, account: Account | None) -> None:
    """Make the folder, private to the account that the servers run as."""
    path.mkdir(parents=True, exist_ok=True, mode=0o755)
    if account is not None:
        os.chown(path, account.uid, account.gid)
    path.chmod(0o700)
