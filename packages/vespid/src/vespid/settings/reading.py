"""How a setting is declared and read: one declaration per field gives the parser, the refusals and the docs.

A number outside its range is clamped and the clamping is logged. Anything else that does not fit is refused, and all
refusals of a process are told at once.
"""

import types
import typing
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, Literal, TypeVar

import msgspec
import structlog

log = structlog.get_logger("vespid.settings")

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})

# How the secrets begin that are only good for one machine: see the defaults of the settings classes.
LOCAL_SECRET_PREFIX = "vespid-local-"  # noqa: S105

Settings = TypeVar("Settings", bound=msgspec.Struct)


class SettingsRefused(Exception):
    """A process cannot start with this environment; each line names a variable and says what to do."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Need(Enum):
    """When a process does not start without a value of its own for the variable."""

    NEVER = "no"
    # The default serves for trying out; production refuses it.
    PRODUCTION = "in production"
    # There is no default that could work.
    ALWAYS = "yes"


class Setting(msgspec.Struct, frozen=True):
    """Where a field comes from and what an operator should know of it."""

    variable: str
    doc: str
    # Numbers outside are clamped.
    low: float | None = None
    high: float | None = None
    need: Need = Need.NEVER
    # Gateway roles that need it, where only some do.
    roles: tuple[str, ...] = ()
    # Never shown, in no log and in no error.
    secret: bool = False
    # Of a text: raises ValueError with what is wrong with it.
    check: Callable[[str], object] | None = None


class Declared(msgspec.Struct, frozen=True):
    """A field of a settings class with its declaration."""

    field: str
    kind: Any
    default: object
    setting: Setting


def declared(settings: type[msgspec.Struct]) -> list[Declared]:
    """The fields of a settings class in order."""
    hints = typing.get_type_hints(settings, include_extras=True)
    rows = []
    for field in msgspec.structs.fields(settings):
        kind, setting = typing.get_args(hints[field.name])
        rows.append(Declared(field.name, kind, field.default, setting))
    return rows


def read(settings: type[Settings], env: Mapping[str, str]) -> Settings:
    """Read the environment into the class. An empty variable counts as not set. Raises SettingsRefused."""
    values: dict[str, object] = {}
    problems: list[str] = []
    for row in declared(settings):
        text = env.get(row.setting.variable, "").strip()
        if not text:
            continue
        try:
            values[row.field] = _parse(row, text)
        except ValueError as error:
            problems.append(str(error))
    effective = {**{row.field: row.default for row in declared(settings)}, **values}
    problems.extend(_unmet_needs(settings, effective))
    problems.extend(_known_defaults(settings, effective))
    if problems:
        raise SettingsRefused(problems)
    return settings(**values)


def allowed_range(kind: Any, setting: Setting) -> str:
    """What a value may be, in words; empty where anything goes."""
    kind = _without_none(kind)
    if typing.get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(kind))
    if kind is bool:
        return "`1`, `0`"
    if kind in (int, float) and setting.low is not None and setting.high is not None:
        return f"{setting.low:g} to {setting.high:g}" if kind is float else f"{setting.low} to {setting.high}"
    return ""


def _unmet_needs(settings: type[msgspec.Struct], values: Mapping[str, object]) -> Iterator[str]:
    is_production = values.get("env") == "production"
    role = values.get("role")
    for row in declared(settings):
        setting = row.setting
        if setting.roles and role not in {*setting.roles, "all"}:
            continue
        if values[row.field] != row.default:
            continue
        if setting.need is Need.ALWAYS:
            yield f"{setting.variable} is not set ({setting.doc.rstrip('.')})"
        elif setting.need is Need.PRODUCTION and is_production:
            yield f"{setting.variable} is missing, and production has no default for it ({setting.doc.rstrip('.')})"


def _known_defaults(settings: type[msgspec.Struct], values: Mapping[str, object]) -> Iterator[str]:
    """Production must not run on a secret that everybody can read in our source."""
    if values.get("env") != "production":
        return
    for row in declared(settings):
        if (
            row.setting.secret
            and str(values[row.field]).startswith(LOCAL_SECRET_PREFIX)
            and values[row.field] != row.default
        ):
            yield f"{row.setting.variable} is a published default, which production refuses: make one of your own"


def _parse(row: Declared, text: str) -> object:
    kind, setting = _without_none(row.kind), row.setting
    if kind is bool:
        return _parse_bool(text, setting)
    if kind in (int, float):
        return _parse_number(kind, text, setting)
    if typing.get_origin(kind) is Literal:
        if text.lower() in typing.get_args(kind):
            return text.lower()
        raise ValueError(f"{setting.variable} is {_shown(text, setting)}, and must be {_choices(kind)}")
    if kind == tuple[str, ...]:
        return tuple(part for part in (piece.strip() for piece in text.split(",")) if part)
    if setting.check is not None:
        try:
            setting.check(text)
        except ValueError as error:
            raise ValueError(f"{setting.variable} is {_shown(text, setting)}: {error}") from None
    return text


def _parse_bool(text: str, setting: Setting) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(f"{setting.variable} is {_shown(text, setting)}, and must be 1 or 0")


def _parse_number(kind: type[int] | type[float], text: str, setting: Setting) -> int | float:
    within = f"from {setting.low} to {setting.high}"
    try:
        number = kind(text)
    except ValueError:
        noun = "a whole number" if kind is int else "a number"
        raise ValueError(f"{setting.variable} is {_shown(text, setting)}, and must be {noun} {within}") from None
    if setting.low is None or setting.high is None:
        raise TypeError(f"{setting.variable} is a number without a range")
    clamped = kind(min(max(number, setting.low), setting.high))
    if clamped != number:
        log.warning("setting_clamped", variable=setting.variable, value=number, used=clamped, allowed=within)
    return clamped


def _shown(text: str, setting: Setting) -> str:
    return "not readable" if setting.secret else repr(text)


def _choices(kind: Any) -> str:
    return " or ".join(typing.get_args(kind))


def _without_none(kind: Any) -> Any:
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        (kind,) = [part for part in typing.get_args(kind) if part is not type(None)]
    return kind
