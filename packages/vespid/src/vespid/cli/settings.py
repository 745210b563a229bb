"""`vespid settings`: the organization's."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from vespid.cli.caller import Caller, command
from vespid.cli.groups import add, group
from vespid.cli.output import Cell
from vespid.cli.problem import missing


def register(app: typer.Typer) -> None:
    """Add the group."""
    commands = group(app, "settings", "Settings of the organization.")
    add(commands, "get", get, "vespid settings get tools.shellRunEnabled")
    add(commands, "set", set_, "vespid settings set tools.shellRunEnabled true")


@command
async def get(
    caller: Caller, key: Annotated[str | None, typer.Argument(help="A path of it; all where it is missing.")] = None
) -> None:
    """The settings, with the defaults where nothing was set."""
    settings = (await caller.client.settings.get()).to_json()
    if caller.out.as_json:
        caller.out.document({"settings": settings} if key is None else _at(settings, key))
    elif key is not None and not isinstance(_at(settings, key), dict):
        caller.out.line(_shown(_at(settings, key)))
    else:
        found = settings if key is None else _at(settings, key)
        caller.out.fields(_leaves(found, key or ""))


@command
async def set_(
    caller: Caller,
    key: Annotated[str, typer.Argument(help="A path, as `settings get` shows it.")],
    value: Annotated[str, typer.Argument(help="JSON, or a text; null takes it away.")],
) -> None:
    """Set one of the settings. For owners and admins."""
    import json

    try:
        meant = json.loads(value)
    except ValueError:
        meant = value
    part: Any = meant
    for name in reversed(key.split(".")):
        part = {name: part}
    settings = (await caller.client.settings.update(part)).to_json()
    if caller.out.as_json:
        caller.out.document({"settings": settings})
    else:
        caller.out.fields([(key, _shown(_at(settings, key)))])


def _at(settings: Any, key: str) -> Any:
    found = settings
    for name in key.split("."):
        if not isinstance(found, dict) or name not in found:
            raise missing(f"There is no setting {key!r}", "vespid settings get shows what there is")
        found = found[name]
    return found


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Cell]]:
    if not isinstance(value, dict):
        yield path, _shown(value)
        return
    for name, below in value.items():
        yield from _leaves(below, f"{path}.{name}" if path else name)


def _shown(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value)
