"""`vespid-agent connect | start | status`: words for people, exit codes for scripts.

0 stopped as asked · 1 the gateway refused this identity for good · 2 wrong usage or settings
3 pairing failed · 4 no usable config, journal, or another process runs as this executor
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from vespid_agent import __version__, config
from vespid_agent.config import AgentConfig, ConfigError
from vespid_agent.lock import IdentityTaken, holder
from vespid_agent.network import NetworkMisconfigured, http_session
from vespid_agent.pairing import PairingFailed, pair
from vespid_agent.settings import AgentSettings, SettingInvalid, split_tags

if TYPE_CHECKING:
    from vespid_runtime.engines.engine import Engine

app = typer.Typer(
    name="vespid-agent", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)
_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)


class ExitCode(IntEnum):
    STOPPED = 0
    REFUSED = 1
    USAGE = 2
    PAIRING = 3
    IDENTITY = 4


ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Where the agent's identity is kept (default ~/.vespid/agent.json).")
]


def _version(wanted: bool) -> None:
    if wanted:
        _out.print(__version__)
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The Vespid node-agent: runs an organization's work on this machine."""
    if sys.platform == "linux" and context.invoked_subcommand in ("connect", "start"):
        from vespid_agent.sandbox import nursery

        # Before this process grows and reads its token. If there is no room for it now, the first task tries again.
        with contextlib.suppress(OSError):
            nursery.begin()


@app.command()
def connect(
    context: typer.Context,
    pairing_token: Annotated[str, typer.Option("--pairing-token", help="From the agents page; lives 15 minutes.")],
    api_base: Annotated[str, typer.Option("--api-base", help="Address of the Vespid API, like https://vespid.example")],
    name: Annotated[str | None, typer.Option("--name", help="Shown to people (default: this machine's name).")] = None,
    tags: Annotated[str | None, typer.Option("--tags", help='Reported as a hint: "east,group:alpha".')] = None,
    gateway_ws_url: Annotated[
        str | None, typer.Option("--gateway-ws-url", help="Connect here instead of where the API says.")
    ] = None,
    config_file: ConfigOption = None,
) -> None:
    """Pair this machine with an organization, then start."""
    settings = _settings()
    path = config.config_path(config_file)
    reported = split_tags(tags) if tags is not None else settings.tags
    asked = (name or socket.gethostname() or "vespid-agent")[:120]
    try:
        identity = asyncio.run(_pair(settings, path, api_base, pairing_token, asked, reported, gateway_ws_url))
    except PairingFailed as failed:
        _err.print(f"[red]Pairing failed:[/red] {_plain(failed)}\n{_plain(failed.advice)}")
        raise typer.Exit(ExitCode.PAIRING) from None
    except NetworkMisconfigured as error:
        _fail(ExitCode.USAGE, str(error))
    except ConfigError as error:
        _fail(ExitCode.IDENTITY, str(error))
    _out.print(f"Paired as [bold]{_plain(identity.name)}[/bold] ({identity.executor_id}); config in {path}")
    _run(identity, settings, path, context.obj or ())


@app.command()
def start(
    context: typer.Context,
    pool: Annotated[str, typer.Option("--pool", help="byon (from the config) or managed.")] = "byon",
    executor_id: Annotated[str | None, typer.Option("--executor-id")] = None,
    executor_token: Annotated[
        str | None, typer.Option("--executor-token", envvar="VESPID_AGENT_EXECUTOR_TOKEN", show_envvar=True)
    ] = None,
    gateway_ws_url: Annotated[str | None, typer.Option("--gateway-ws-url")] = None,
    api_base: Annotated[str | None, typer.Option("--api-base")] = None,
    name: Annotated[str | None, typer.Option("--name")] = None,
    tags: Annotated[str | None, typer.Option("--tags")] = None,
    config_file: ConfigOption = None,
) -> None:
    """Connect and work until stopped. SIGTERM lets running work finish; a second one does not."""
    settings = _settings()
    path = config.config_path(config_file)
    if pool == "managed":
        given = {"--executor-id": executor_id, "--executor-token": executor_token, "--gateway-ws-url": gateway_ws_url}
        missing = [option for option, value in given.items() if not value]
        if missing:
            _fail(ExitCode.USAGE, f"--pool managed also needs {', '.join(missing)}")
        identity = AgentConfig(
            executor_id=executor_id or "",
            executor_token=executor_token or "",
            gateway_ws_url=gateway_ws_url or "",
            api_base_url=api_base or "",
            pool="managed",
        )
    elif pool == "byon":
        try:
            identity = config.load(path, _warn)
        except ConfigError as error:
            _fail(ExitCode.IDENTITY, str(error))
        if gateway_ws_url:
            identity = msgspec.structs.replace(identity, gateway_ws_url=gateway_ws_url)
    else:
        _fail(ExitCode.USAGE, f"--pool is {pool!r}; it must be byon or managed")
    if name:
        identity = msgspec.structs.replace(identity, name=name)
    reported = split_tags(tags) if tags is not None else (settings.tags or identity.tags)
    _run(msgspec.structs.replace(identity, tags=reported), settings, path, context.obj or ())


@app.command()
def status(config_file: ConfigOption = None) -> None:
    """Who this agent is and whether it runs. Exit code 0 when it does, 4 when not."""
    path = config.config_path(config_file)
    try:
        identity = config.load(path, _warn)
    except ConfigError as error:
        _fail(ExitCode.IDENTITY, str(error))
    pid = holder(lock_path(path, identity.executor_id))
    table = Table(box=None, show_header=False, pad_edge=False)
    rows = {
        "name": identity.name,
        "executor": identity.executor_id,
        "organization": identity.organization_id or "",
        "gateway": identity.gateway_ws_url,
        "tags": ", ".join(identity.tags),
        "config": str(path),
        "process": "not running" if pid is None else f"running (pid {pid})",
    }
    for key, value in rows.items():
        table.add_row(key, _plain(value))
    _out.print(table)
    raise typer.Exit(ExitCode.IDENTITY if pid is None else ExitCode.STOPPED)


def main(more_engines: Sequence[Engine] = ()) -> None:
    """The console script. `more_engines`: offered beside those of every agent."""
    app(obj=tuple(more_engines))


def lock_path(config_file: Path, executor_id: str) -> Path:
    return state_path(config_file, executor_id).with_suffix(".lock")


def state_path(config_file: Path, executor_id: str) -> Path:
    """The journal: beside the config, one per executor."""
    safe = "".join(c for c in executor_id if c.isalnum() or c in "-_")[:64]
    return config_file.parent / f"journal-{safe}.sqlite"


async def _pair(
    settings: AgentSettings,
    path: Path,
    api_base: str,
    pairing_token: str,
    name: str,
    tags: tuple[str, ...],
    gateway_ws_url: str | None,
) -> AgentConfig:
    from vespid_agent.capabilities import describe

    config.check_writable(path)  # before the token is spent
    async with http_session(settings.tls_ca_file) as session:
        identity = await pair(
            session,
            api_base=api_base,
            pairing_token=pairing_token.strip(),
            name=name,
            tags=tags,
            capabilities=msgspec.to_builtins(describe(settings, tags)),
            gateway_ws_url=gateway_ws_url,
        )
    config.save(path, identity)
    return identity


def _run(identity: AgentConfig, settings: AgentSettings, path: Path, more_engines: Sequence[Engine]) -> NoReturn:
    from vespid_agent.backends import ManagedPoolUnsafe
    from vespid_agent.journal import JournalError
    from vespid_agent.link import Refused
    from vespid_agent.logs import configure
    from vespid_agent.process import run_agent

    configure(settings.log_level)
    journal = state_path(path, identity.executor_id)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            lock = lock_path(path, identity.executor_id)
            reread = partial(config.token_of, path, identity.executor_id, _warn)
            run = run_agent(
                identity, settings, journal, lock, os.environ, reread_token=reread, more_engines=more_engines
            )
            runner.run(run)
    except Refused as refused:
        _fail(ExitCode.REFUSED, str(refused))
    except (NetworkMisconfigured, ManagedPoolUnsafe) as error:
        _fail(ExitCode.USAGE, str(error))
    except (JournalError, IdentityTaken) as error:
        _fail(ExitCode.IDENTITY, str(error))
    except OSError as error:
        _fail(ExitCode.IDENTITY, f"{journal.parent} cannot be used: {error}")
    sys.exit(ExitCode.STOPPED)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed (the extra `fast`): small requests cost less CPU with it."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _settings() -> AgentSettings:
    try:
        return AgentSettings.from_env(os.environ)
    except SettingInvalid as error:
        _fail(ExitCode.USAGE, str(error))


def _warn(warning: str) -> None:
    _err.print(f"[yellow]{_plain(warning)}[/yellow]")


def _fail(code: ExitCode, message: str) -> NoReturn:
    _err.print(f"[red]vespid-agent:[/red] {_plain(message)}")
    raise typer.Exit(code)


def _plain(text: object) -> str:
    """Text from outside, so that square brackets in it are not taken for colours."""
    return str(text).replace("[", "\\[")
