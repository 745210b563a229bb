"""Files that commands are given: JSON or YAML, `-` for stdin; and values as `@file`."""

import json
import sys
from pathlib import Path
from typing import Any

from vespid.cli.problem import wrong_usage

# What the API takes at most; a larger file is none that was meant.
MAX_BYTES = 4 * 1024 * 1024


def read_document(path: Path) -> Any:
    """What a JSON or YAML file holds. Raises Problem."""
    text = read_text(path)
    try:
        # JSON is YAML, but not the other way round: numbers and dates mean other things there.
        return json.loads(text)
    except ValueError as not_json:
        if path.suffix == ".json":
            raise wrong_usage(f"{path} is no JSON: {not_json}") from None
    import yaml

    try:
        return yaml.load(text, Loader=_loader())  # noqa: S506 - a safe one
    except yaml.YAMLError as error:
        raise wrong_usage(f"{path} is neither JSON nor YAML: {error}") from None


def read_text(path: Path) -> str:
    """A file, or stdin for `-`. Raises Problem."""
    try:
        raw = sys.stdin.buffer.read(MAX_BYTES + 1) if str(path) == "-" else _read(path)
    except OSError as error:
        raise wrong_usage(f"{path} cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise wrong_usage(f"{path} is larger than {MAX_BYTES} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise wrong_usage(f"{path} is not UTF-8") from None


def read_value(given: str) -> Any:
    """A JSON value as it is given, or the one in `@file`. Raises Problem."""
    if given.startswith("@"):
        return read_document(Path(given[1:]))
    try:
        return json.loads(given)
    except ValueError as error:
        raise wrong_usage(f"that is no JSON: {error}", """It looks like '{"name": "ann"}', or @input.json""") from None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _loader() -> Any:
    """YAML's safe loader with JSON's values alone: no dates, no `yes` for true."""
    import re

    import yaml

    class JsonValues(yaml.SafeLoader):
        pass

    JsonValues.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":bool"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    JsonValues.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))
    return JsonValues
