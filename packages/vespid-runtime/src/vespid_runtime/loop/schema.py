"""JSON from a model: read, and held against a JSON Schema.

The one thing to know: schemas may come from strangers (MCP servers). Nothing is fetched for a `$ref`, and patterns
give up where they would try too much.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import islice

import jsonschema_rs
import msgspec

from vespid_protocol.text import clean_json, clean_text

PROBLEMS_MAX = 5
PROBLEM_MAX_CHARS = 300
_NESTING_MAX = 64
_BACKTRACK_MAX = 100_000
# Compiled.
_PATTERN_MAX_BYTES = 1_000_000


class NotJson(Exception):
    """What a model wrote cannot be read. The message is for the model."""


class BadSchema(Exception):
    """What should be a JSON Schema is none. The message is for people."""


def read_json(text: str) -> object:
    """Raises NotJson."""
    try:
        value: object = msgspec.json.decode(clean_json(clean_text(text)[0].encode())[0])
        # What is kept goes out as JSON again; there are numbers that come in and do not go out.
        msgspec.json.encode(value)
    except (msgspec.DecodeError, RecursionError, OverflowError, ValueError) as error:
        raise NotJson(f"it is not JSON: {str(error)[:PROBLEM_MAX_CHARS]}") from error
    if _is_deeper(value, _NESTING_MAX):
        raise NotJson(f"it is nested more than {_NESTING_MAX} deep")
    return value


def check_schema(schema: dict[str, object] | bool) -> None:
    """Raises BadSchema."""
    _validator(_key(schema))


def problems(value: object, schema: dict[str, object] | bool) -> list[str]:
    """What is wrong with `value`, for the model; some of it, where there is much. Raises BadSchema."""
    validator = _validator(_key(schema))
    return [_problem(error) for error in islice(validator.iter_errors(value), PROBLEMS_MAX)]


def _problem(error: jsonschema_rs.ValidationError) -> str:
    where = "/".join(str(part) for part in error.instance_path) or "the whole"
    return f"{where}: {error.message}"[:PROBLEM_MAX_CHARS]


def _key(schema: dict[str, object] | bool) -> bytes:
    try:
        return msgspec.json.encode(schema, order="deterministic")
    except (RecursionError, OverflowError, ValueError, TypeError) as error:
        raise BadSchema(f"the schema is not JSON: {error}") from error


@lru_cache(maxsize=256)
def _validator(schema: bytes) -> jsonschema_rs.Validator:
    try:
        return jsonschema_rs.validator_for(
            schema.decode(),
            offline=True,
            pattern_options=jsonschema_rs.FancyRegexOptions(
                backtrack_limit=_BACKTRACK_MAX, size_limit=_PATTERN_MAX_BYTES
            ),
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        raise BadSchema(f"the schema is not usable: {str(error)[:PROBLEM_MAX_CHARS]}") from error


def _is_deeper(value: object, depth: int) -> bool:
    level = [value]
    while level and depth >= 0:
        depth -= 1
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        level = inner
    return bool(level)
