"""The variables of a service: `<name>.env` beside the config, for its user alone. `start --env-file` reads it.

A service begins with next to no environment, on each system in another way; so what the agent had when it was installed
is kept in one file for all of them. It may hold keys.

    # a comment
    VESPID_AGENT_MAX_IN_FLIGHT=20        everything behind the first `=`, as it stands
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from vespid_agent.service.plan import MARK
from vespid_agent.settings import declared

# Beside the settings: what programs of the user are found by, and the way out.
_MORE = ("PATH", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "DOCKER_HOST")


class EnvFileInvalid(ValueError):
    """It cannot be read; the message names the line."""


def path_of(config: Path, name: str) -> Path:
    return config.parent / f"{name}.env"


def worth_keeping(environment: Mapping[str, str]) -> dict[str, str]:
    """Those that are set and that the agent reads."""
    names = [*(setting.variable for _, _, setting in declared()), *_MORE, *(name.lower() for name in _MORE[1:5])]
    found = {name: environment[name] for name in names if environment.get(name)}
    return {name: value for name, value in found.items() if "\n" not in value and "\r" not in value}


def write_new(path: Path, variables: Mapping[str, str]) -> bool:
    """Whether it was written: one that is there is the user's."""
    lines = [f"# {MARK}; yours to change.", *(f"{name}={value}" for name, value in variables.items())]
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return True


def remove_ours(path: Path) -> bool:
    """Whether it was there and made by us."""
    try:
        if not path.read_text(encoding="utf-8").startswith(f"# {MARK}"):
            return False
    except FileNotFoundError:
        return False
    path.unlink()
    return True


def read(path: Path) -> dict[str, str]:
    """Raises EnvFileInvalid. One that is not there is empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise EnvFileInvalid(f"{path} cannot be read: {error}") from None
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, is_there, value = line.partition("=")
        if not is_there or not name.strip().isidentifier():
            raise EnvFileInvalid(f"{path}, line {number}: it must be NAME=value")
        found[name.strip()] = value
    return found
