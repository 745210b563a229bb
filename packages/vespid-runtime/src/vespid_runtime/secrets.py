"""Filling `{{secrets.<id>}}` on the side that holds the values: the last thing done to a payload before it is used.

One pass only: a secret's value that itself looks like a template is never filled again.
"""

import re
from collections.abc import Mapping

_TEMPLATE = re.compile(r"\{\{\s*secrets\.(?P<id>[A-Za-z0-9_-]{1,64})\s*\}\}")


class SecretMissing(Exception):
    """A template names a secret that was not sent with the request (`SECRET_NOT_FOUND`)."""

    def __init__(self, secret_id: str) -> None:
        super().__init__(f"secret {secret_id} was not sent with this request")
        self.secret_id = secret_id


def secret_ids(value: object) -> set[str]:
    """The ids of all secrets that strings anywhere in a JSON value ask for, keys of objects included."""
    if isinstance(value, str):
        return {match["id"] for match in _TEMPLATE.finditer(value)}
    if isinstance(value, Mapping):
        return set().union(*(secret_ids(key) | secret_ids(item) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return set().union(*(secret_ids(item) for item in value))
    return set()


def fill_secrets_text(text: str, secrets: Mapping[str, str]) -> str:
    """Raises `SecretMissing`."""

    def value_of(match: re.Match[str]) -> str:
        try:
            return secrets[match["id"]]
        except KeyError:
            raise SecretMissing(match["id"]) from None

    return _TEMPLATE.sub(value_of, text)


def fill_secrets(value: object, secrets: Mapping[str, str]) -> object:
    """A copy of a JSON value with every template filled; keys of objects stay as they are. Raises `SecretMissing`."""
    if isinstance(value, str):
        return fill_secrets_text(value, secrets)
    if isinstance(value, Mapping):
        return {key: fill_secrets(item, secrets) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [fill_secrets(item, secrets) for item in value]
    return value
