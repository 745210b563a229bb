"""The secrets of a local installation: made at its first start, kept in a folder only its owner can read."""

import os
import secrets
from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path


def _token() -> str:
    return secrets.token_urlsafe(32)


def _kek() -> str:
    return b64encode(secrets.token_bytes(32)).decode()


# Variable → how its value is made.
_MADE: Mapping[str, Callable[[], str]] = {
    "AUTH_TOKEN_SECRET": _token,
    "GATEWAY_SERVICE_TOKEN": _token,
    "ENGINE_RUNNER_TOKEN": _token,
    "SECRETS_KEK_BASE64": _kek,
}
LOCAL_KEK_ID = "local-1"


def keep(file: Path, make: Callable[[], str]) -> str:
    """Answer what the file holds; where there is none, make it, whole or not at all."""
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        value = make()
    aside = file.with_suffix(".new")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as output:
        output.write(value + "\n")
        output.flush()
        os.fsync(output.fileno())
    aside.rename(file)
    return value


def kept_secrets(folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    """The variables that the environment leaves open, from the folder."""
    made = {
        variable: keep(folder / variable.lower(), make) for variable, make in _MADE.items() if not env.get(variable)
    }
    if "SECRETS_KEK_BASE64" in made:
        made["SECRETS_KEK_ID"] = LOCAL_KEK_ID
    return made
