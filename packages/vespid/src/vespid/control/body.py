"""Request bodies: decoded strictly into the Struct that the handler asks for, with every field's error told at once.

NUL and lone surrogates in anything from outside become U+FFFD before it is looked at: neither Postgres nor JSON's
readers elsewhere can hold them.
"""

import re
from typing import Any, get_args

import msgspec
from litestar import Request
from litestar.types import Empty

from vespid.domain.fields import FieldsInvalid
from vespid.errors import ApiError
from vespid_protocol.text import clean_json

MAX_BODY_BYTES = 1024 * 1024

# msgspec's messages end with the place: " - at `$.execution.quotas`".
_PLACE = re.compile(r" - at (?:`\$(?P<path>.*)`|the root.*)$")
_MISSING = re.compile(r"^Object missing required field `(?P<field>[^`]+)`")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<field>[^`]+)`")


class StrictRequest(Request[Any, Any, Any]):
    """A request whose JSON body is decoded into the handler's own type, without coercion."""

    async def json(self) -> Any:
        """The decoded body. Raises ApiError 400 with `details.fieldErrors`."""
        field = self.route_handler.parsed_data_field
        return decode_body(await self.body(), Any if field is None else field.raw)


def decode_body(body: bytes, shape: Any) -> Any:
    """Decode JSON into `shape`. Raises ApiError 400, with an entry per field where fields are at fault."""
    if not body:
        return Empty
    try:
        body, _ = clean_json(body)
        try:
            return msgspec.json.decode(body, type=shape)
        except msgspec.ValidationError as error:
            raise _field_errors(msgspec.json.decode(body), shape, error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise ApiError(400, "BAD_REQUEST", "The body is not valid JSON.") from error
    except RecursionError as error:
        raise ApiError(400, "BAD_REQUEST", "The body is nested too deeply.") from error


def fields_invalid(invalid: FieldsInvalid) -> ApiError:
    """The 400 for what the rules found, in the form that decoding has."""
    return ApiError(400, "BAD_REQUEST", "The request is not valid.", {"fieldErrors": invalid.fields})


def _field_errors(given: Any, shape: Any, first: msgspec.ValidationError) -> ApiError:
    """Every field's first error: msgspec stops at the first of all, so the fields are then tried one by one."""
    errors: dict[str, list[str]] = {}
    struct = _struct_of(shape)
    if struct is not None and isinstance(given, dict):
        for field in msgspec.structs.fields(struct):
            if field.encode_name not in given:
                if field.required:
                    errors[field.encode_name] = ["This field is required."]
                continue
            try:
                msgspec.convert(given[field.encode_name], field.type)
            except msgspec.ValidationError as error:
                path, message = _place_of(str(error))
                errors[f"{field.encode_name}{path}"] = [message]
    if not errors:
        path, message = _place_of(str(first))
        errors[path.lstrip(".") or "body"] = [message]
    return ApiError(400, "BAD_REQUEST", "The request is not valid.", {"fieldErrors": errors})


def _struct_of(shape: Any) -> type[msgspec.Struct] | None:
    """The Struct in `Annotated[Struct | None, …]`, however deep."""
    if isinstance(shape, type) and issubclass(shape, msgspec.Struct):
        return shape
    return next(filter(None, map(_struct_of, get_args(shape))), None)


def _place_of(message: str) -> tuple[str, str]:
    """The path below the root ("" for the root, ".a.b[0]") and the message without it."""
    place = _PLACE.search(message)
    path = (place["path"] or "") if place else ""
    text = message[: place.start()] if place else message
    for pattern, words in ((_MISSING, "This field is required."), (_UNKNOWN, "This field is not known.")):
        if found := pattern.match(text):
            return f"{path}.{found['field']}", words
    return path, text + "."
