"""Values between JSON and Postgres: what a parameter of a type may be given as, and how a column comes back.

Numbers that JSON readers round (numeric) come back as strings; times as ISO-8601, bytes as base64, json as itself.
"""

import base64
import datetime
import decimal
import math
import uuid
from collections.abc import Callable

import msgspec


def bound_value(type_name: str, value: object) -> object:
    """What asyncpg wants for a parameter of that type. Raises ValueError, TypeError or decimal.InvalidOperation."""
    if value is None:
        return None
    if type_name.endswith("[]"):
        if not isinstance(value, list):
            raise TypeError(type_name)
        return [bound_value(type_name[:-2], item) for item in value]
    convert = _BOUND.get(type_name)
    return convert(value) if convert is not None else value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text")
    return value


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError("integer")
    return int(value)


def _decimal(value: object) -> decimal.Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError("number")
    return decimal.Decimal(str(value))


def _float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError("number")
    return float(value)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("boolean")
    return value


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _instant(value: object) -> datetime.datetime:
    at = datetime.datetime.fromisoformat(_text(value))
    return at if at.tzinfo is not None else at.replace(tzinfo=datetime.UTC)


def _local_time(value: object) -> datetime.datetime:
    return datetime.datetime.fromisoformat(_text(value)).replace(tzinfo=None)


_BOUND: dict[str, Callable[[object], object]] = {
    "text": _text,
    "varchar": _text,
    "bpchar": _text,
    "name": _text,
    "int2": _whole,
    "int4": _whole,
    "int8": _whole,
    "numeric": _decimal,
    "float4": _float,
    "float8": _float,
    "bool": _boolean,
    "json": _json,
    "jsonb": _json,
    "uuid": lambda value: uuid.UUID(_text(value)),
    "bytea": lambda value: base64.b64decode(_text(value), validate=True),
    "timestamptz": _instant,
    "timestamp": _local_time,
    "date": lambda value: datetime.date.fromisoformat(_text(value)),
    "time": lambda value: datetime.time.fromisoformat(_text(value)),
}


def json_value(type_name: str, value: object) -> object:
    """A column's value as JSON."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return msgspec.json.decode(value) if type_name in ("json", "jsonb") else value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, list):
        return [json_value(type_name.removesuffix("[]"), item) for item in value]
    return str(value)
