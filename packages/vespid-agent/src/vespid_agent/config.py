"""The agent's identity on disk: `~/.vespid/agent.json`, readable by its owner alone.

It holds the token, so it is written to a private temporary file and renamed into place, and a file that others can
read is closed to them with a message before it is used.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

DEFAULT_PATH = Path("~/.vespid/agent.json")

Pool: TypeAlias = Literal["byon", "managed"]


class ConfigError(Exception):
    """The config file cannot be used; the message says why and what to do."""


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Who this agent is and where it connects."""

    executor_id: str
    executor_token: str
    gateway_ws_url: str
    api_base_url: str
    organization_id: str | None = None
    name: str = ""
    tags: tuple[str, ...] = ()
    pool: Pool = "byon"

    def __repr__(self) -> str:
        return f"AgentConfig({self.executor_id}, {self.gateway_ws_url})"


def config_path(option: Path | None) -> Path:
    """The path `--config` names, else the default."""
    return (option or DEFAULT_PATH).expanduser().absolute()


def load(path: Path, warn: Callable[[str], None]) -> AgentConfig:
    """Raises ConfigError. Tells `warn` when it had to close the file to others."""
    try:
        with path.open("rb") as file:
            _close_to_others(file.fileno(), path, warn)
            content = file.read()
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist. Pair this machine first: "
            "vespid-agent connect --pairing-token <token> --api-base <url>"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return msgspec.json.decode(content, type=AgentConfig)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not a config of this agent ({error}). Pair again to replace it.") from None


def token_of(path: Path, executor_id: str, warn: Callable[[str], None]) -> str | None:
    """The token that the file holds for this executor now; None where it is no longer about it, or cannot be used."""
    try:
        config = load(path, warn)
    except ConfigError as error:
        warn(str(error))
        return None
    return config.executor_token if config.executor_id == executor_id else None


def save(path: Path, config: AgentConfig) -> None:
    """Replace the file at once or not at all. Raises ConfigError."""
    content = msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n"
    temporary: str | None = None
    try:
        make_private_dir(path.parent)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp makes it 0600
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raises ConfigError where `save` could not write: found out before a token is spent."""
    try:
        make_private_dir(path.parent)
        with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent):
            pass
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def make_private_dir(path: Path) -> None:
    """Create the folder (0700) and its parents; one that exists keeps its mode, for it may be the user's own."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def _close_to_others(descriptor: int, path: Path, warn: Callable[[str], None]) -> None:
    if sys.platform == "win32":
        return  # no modes there: the folder of the user is closed to other users
    status = os.fstat(descriptor)
    exposed = stat.S_IMODE(status.st_mode) & 0o077
    if not exposed:
        return
    try:
        os.fchmod(descriptor, 0o600)
    except PermissionError:
        raise ConfigError(
            f"{path} holds a token and can be read by others (mode {stat.S_IMODE(status.st_mode):04o}), "
            f"and is not ours to close. Run: chmod 600 {path}"
        ) from None
    warn(
        f"{path} could be read by others (mode {stat.S_IMODE(status.st_mode):04o}); it is 0600 now. "
        "If the token may have been seen, rotate it."
    )
